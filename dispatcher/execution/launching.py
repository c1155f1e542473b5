"""Launching: a canvas that is sent by a worker, since one message is sent or not, and many in part by who dies over it.

The message carries the canvas, and says ``at`` which time, in epoch seconds, it was to be sent. Where the canvas is too
large for it, the members of its group are in the result backend, cut into ``parts``: so many leaves are in each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from dispatcher.backends.base import ResultBackend, Write
from dispatcher.backends.meta import ResultMeta
from dispatcher.canvas import plan
from dispatcher.exceptions import TaskError
from dispatcher.execution.environment import Environment, ExecutorApp
from dispatcher.message import Message
from dispatcher.serialization import json_encode

#: Bytes of a part, unless one call is larger: less than a record holds anywhere.
PART: Final = 256 * 1024
#: The state of a record that is a part.
_STATE: Final = "PART"
#: What stands for a member that was in a part which is gone.
_UNKNOWN: Final[plan.Wire] = {"task": "?"}


class PartsMissing(TaskError):
    """Parts are gone. ``steps`` are those of the launch, in which unknown calls stand for the members that were there.

    They have the ids of the members, unless these had ids of their own.
    """

    def __init__(self, message: str, steps: Sequence[plan.Wire] = ()) -> None:
        super().__init__(message)
        self.steps = steps


def store(app: ExecutorApp, backend: ResultBackend, launch_id: str, group: plan.Wire, until: float) -> list[int]:
    """Keep the members of a group until a time, in epoch seconds, in parts; return how many leaves each has.

    Doing it again changes nothing. Raises `MessageTooLarge` for a call that fits nowhere, `BackendError` and
    `OperationalError` where they cannot be kept.
    """
    counts = []
    for number, part in enumerate(_parts(group["kwargs"]["tasks"]), 1):
        part_id = _part_id(launch_id, number)
        data = app.write_meta(ResultMeta(result=part), backend, f"part {number} of canvas {launch_id}", part_id)
        write = Write(
            id=part_id, status=_STATE, gen=0, attempt=0, retries=0, final=True, token=launch_id, expires_at=until,
            data=data, exists=False,
        )  # fmt: skip
        backend.write([write])
        counts.append(sum(plan.leaves(plan.steps_of(member)) for member in part))
    return counts


def steps_of(env: Environment, message: Message) -> list[plan.Wire]:
    """Return the steps that a launch is to send.

    Raises `PartsMissing` where some are gone, `OperationalError` where they cannot be reached.
    """
    steps: list[plan.Wire] = [dict(step) for step in message.chain]
    counts: Sequence[int] = message.kwargs.get("parts") or ()
    if not counts:
        return steps
    ids = [_part_id(message.id, number) for number in range(1, len(counts) + 1)]
    records = env.backend.read(ids)
    members: list[plan.Wire] = []
    for part_id, leaves in zip(ids, counts, strict=True):
        found = part_id in records
        members += env.app.read_meta(records[part_id]).complete().result if found else [_UNKNOWN] * leaves
    steps[0] = {**steps[0], "kwargs": {"tasks": members}}
    gone = [part_id for part_id in ids if part_id not in records]
    if gone:
        raise PartsMissing(
            f"{gone[0]}, a part of a canvas to be sent, is gone; keep records longer (record_retention)", steps
        )
    return steps


def without_members(group: plan.Wire) -> plan.Wire:
    """Return a group as a launch carries it whose members are in parts."""
    return {**group, "kwargs": {"tasks": []}}


def _parts(members: Sequence[plan.Wire]) -> Iterator[list[plan.Wire]]:
    part: list[plan.Wire] = []
    weight = 0
    for member in members:
        size = len(json_encode(member))
        if part and weight + size > PART:
            yield part
            part, weight = [], 0
        part.append(member)
        weight += size
    if part:
        yield part


def _part_id(launch_id: str, number: int) -> str:
    return f"part/{launch_id}/{number}"
