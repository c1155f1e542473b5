"""What must not have happened when everything has ended, whatever went wrong on the way."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Violations:
    """What went wrong in a run, by kind; each is a list of names and ought to be empty."""

    #: never final or never run, although no message is left
    lost: list[str] = dataclasses.field(default_factory=list)
    #: messages left, or never an end to the run
    hung: list[str] = dataclasses.field(default_factory=list)
    #: a final record that changed
    regressed: list[str] = dataclasses.field(default_factory=list)
    #: a run that began after its outcome had been recorded, before its batch was taken
    late: list[str] = dataclasses.field(default_factory=list)
    #: a task that nobody sent: a continuation under a second id
    doubled: list[str] = dataclasses.field(default_factory=list)
    #: another state, value or number of attempts than planned
    wrong: list[str] = dataclasses.field(default_factory=list)
    #: failed or rejected without a dead letter
    unburied: list[str] = dataclasses.field(default_factory=list)

    @property
    def violations(self) -> dict[str, list[str]]:
        """What went wrong, by kind."""
        return {field.name: value for field in dataclasses.fields(self)
                if isinstance(value := getattr(self, field.name), list) and value}  # fmt: skip
