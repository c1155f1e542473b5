"""Stamps: values under names of one's own that signatures carry, for their tasks to find in ``self.request.stamps``.

In the options of a signature they are as in Celery's: each under its name, and the names under ``stamped_headers``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, Final

#: The option, and the header, that names the stamps.
NAMES: Final = "stamped_headers"


class StampingVisitor(ABC):
    """Is shown every signature that is stamped; what its methods return are further stamps, by name.

    ``stamped_headers`` among them names those that count, by default all. Each method gets the stamps so far as
    keywords.
    """

    @abstractmethod
    def on_signature(self, sig: Any, **headers: Any) -> Mapping[str, Any] | None:
        """Return stamps of a call."""

    def on_group_start(self, group: Any, **headers: Any) -> Mapping[str, Any] | None:
        """Return stamps of all members of a group."""
        return None

    def on_group_end(self, group: Any, **headers: Any) -> None:  # noqa: B027 - most visitors need none
        """Called when the members of a group are stamped."""

    def on_chain_start(self, chain: Any, **headers: Any) -> Mapping[str, Any] | None:
        """Return stamps of all steps of a chain."""
        return None

    def on_chain_end(self, chain: Any, **headers: Any) -> None:  # noqa: B027 - most visitors need none
        """Called when the steps of a chain are stamped."""

    def on_chord_header_start(self, sig: Any, **headers: Any) -> Mapping[str, Any] | None:
        """Return stamps of all members of a chord, and of its body; by default those of its group."""
        return self.on_group_start(sig.tasks, **headers)

    def on_chord_header_end(self, sig: Any, **headers: Any) -> None:
        """Called when the members of a chord are stamped; by default as for its group."""
        self.on_group_end(sig.tasks, **headers)

    def on_chord_body(self, sig: Any, **headers: Any) -> Mapping[str, Any] | None:
        """Return stamps of a chord's body."""
        return None

    def on_callback(self, callback: Any, **headers: Any) -> Mapping[str, Any] | None:
        """Return stamps of a callback."""
        return None

    def on_errback(self, errback: Any, **headers: Any) -> Mapping[str, Any] | None:
        """Return stamps of an error callback."""
        return None


def merged(append: bool, *sources: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the stamps of several sources: of one name the first, or with ``append`` the list of all."""
    stamps: dict[str, Any] = {}
    for source in sources:
        for name in (source or {}).get(NAMES) or (source or {}):
            if source is None or name == NAMES or name not in source:
                continue
            if name not in stamps:
                stamps[name] = source[name]
            elif append:
                stamps[name] = [*_listed(stamps[name]), *_listed(source[name])]
    return stamps


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def own_stamps(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stamps among the options of a signature."""
    return {name: options[name] for name in options.get(NAMES) or () if name in options}


def carried(options: Mapping[str, Any], reserved: Collection[str]) -> dict[str, Any]:
    """Return the options of a call with its stamps among the headers, where a message has them.

    Raises `TypeError` for a stamp that is named like an option, one of ``reserved``.
    """
    stamps = own_stamps(options)
    taken = [name for name in stamps if name in reserved]
    if taken:
        raise TypeError(f"a stamp cannot be named {taken[0]!r}: that is an option of the call")
    rest = {name: value for name, value in options.items() if name not in stamps and name != NAMES}
    if stamps:
        rest["headers"] = {**(rest.get("headers") or {}), NAMES: list(stamps), "stamps": stamps}
    return rest
