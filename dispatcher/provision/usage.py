"""How an app's tasks are used: as somebody says, as the beat's entries fire, as logs of its workers show."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from dispatcher.config.names import nearest
from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.provision.demand import MONTH, Traffic
from dispatcher.quotas import DYNAMODB_MAX_ITEM_BYTES, LAMBDA_MAX_TIMEOUT, SQS_MAX_MESSAGE_BYTES

_PERIODS: Final = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "month": MONTH}
_RATE: Final = re.compile(r"(\d+(?:\.\d+)?(?:e\d+)?)/(s|m|h|d|month)")
#: Shares are no more than 1, and there is no less than one message in a send.
_SHARES: Final = ("failures", "joined", "linked", "following", "payloads", "scheduled", "fired")
#: Firings of an entry that are looked at, and how far ahead.
_FIRINGS: Final = 500
_AHEAD: Final = timedelta(days=366)


#: The longest run, in seconds, and the largest message and record, in bytes.
_MOST: Final = {
    "duration": float(LAMBDA_MAX_TIMEOUT), "body": float(SQS_MAX_MESSAGE_BYTES),
    "record": float(DYNAMODB_MAX_ITEM_BYTES),
}  # fmt: skip


class Setting(NamedTuple):
    """Something said of the traffic of the tasks whose names match a pattern; without one, of all."""

    pattern: str | None
    field: str
    value: float


def rate(text: str) -> Setting:
    """Read ``[TASK=]NUMBER/UNIT``; the unit is s, m, h, d or month. Raises `ImproperlyConfigured`."""
    pattern, sign, wanted = text.rpartition("=")
    found = _RATE.fullmatch(wanted)
    if found is None or not math.isfinite(float(found[1])) or (sign and not pattern):
        raise ImproperlyConfigured(
            f"{text!r} is no rate; write [TASK=]NUMBER/UNIT, such as tasks.add=1000/h; units are {', '.join(_PERIODS)}"
        )
    return Setting(pattern or None, "calls", float(found[1]) * MONTH / _PERIODS[found[2]])


def setting(text: str) -> Setting:
    """Read ``[TASK:]NAME=VALUE`` of a field of `Traffic`. Raises `ImproperlyConfigured`."""
    left, sign, right = text.rpartition("=")
    pattern, colon, field = left.rpartition(":")
    fields = [each.name for each in dataclasses.fields(Traffic) if each.name != "calls"]
    if not sign or (colon and not pattern):
        raise ImproperlyConfigured(f"{text!r} says nothing; write [TASK:]NAME=VALUE, such as tasks.add:duration=0.5")
    if field not in fields:
        near = _near(field, fields) or f"; it knows {', '.join(fields)}, and --rate is for calls"
        raise ImproperlyConfigured(f"{text!r}: there is no {field!r}{near}")
    try:
        value = float(right)
    except ValueError:
        raise ImproperlyConfigured(f"{text!r}: {right!r} is no number") from None
    least = 1.0 if field == "together" else 0.0
    most = 1.0 if field in _SHARES else _MOST.get(field, math.inf)
    if not least <= value <= most:
        bounds = f"from {least:g} to {most:,.10g}" if most < math.inf else f"{least:g} or more"
        raise ImproperlyConfigured(f"{text!r}: {field} must be {bounds}")
    return Setting(pattern or None, field, value)


def batch(text: str, most: Mapping[str, int]) -> dict[str, float]:
    """Read ``[QUEUE=]NUMBER``: the messages of a batch by queue. Raises `ImproperlyConfigured`.

    ``most`` has the ``batch_size`` of each queue that a function reads.
    """
    name, sign, number = text.rpartition("=")
    if sign and name not in most:
        raise ImproperlyConfigured(
            f"{text!r}: there is no queue {name!r} that a function reads; there are {', '.join(most) or 'none'}"
        )
    try:
        value = float(number)
    except ValueError:
        value = 0.0
    if not 1.0 <= value < math.inf:
        raise ImproperlyConfigured(f"{text!r}: a batch has one message or more")
    queues = [name] if sign else list(most)
    for queue in queues:
        if value > most[queue]:
            raise ImproperlyConfigured(
                f"{text!r}: batches of {queue} have {most[queue]} messages at most; infra's batch_size changes that"
            )
    return dict.fromkeys(queues, value)


def traffic(
    tasks: Sequence[str], settings: Iterable[Setting], known: Mapping[str, Mapping[str, float]] | None = None
) -> dict[str, Traffic]:
    """Return the traffic of tasks: what is ``known`` of them, and above it the settings; later ones win.

    A rate without a pattern leaves out the tasks that the beat fires: how often, their schedules say. Raises
    `ImproperlyConfigured` for a pattern that no task matches.
    """
    values: dict[str, dict[str, Any]] = {name: dict((known or {}).get(name, {})) for name in tasks}
    of_beat = {name for name in tasks if values[name].get("fired")}
    for pattern, field, value in settings:
        if pattern is None:
            meant = [name for name in tasks if field != "calls" or name not in of_beat]
        else:
            meant = [name for name in tasks if fnmatch.fnmatchcase(name, pattern)]
        if not meant and pattern is None:
            why = (
                "the beat fires every task of the app; name those it is not alone to call"
                if tasks
                else "the app has no tasks"
            )
            raise ImproperlyConfigured(why)
        if not meant and pattern is not None:
            raise ImproperlyConfigured(
                f"no task is called {pattern!r}{_near(pattern, tasks)}; `dispatcher list tasks` has all"
            )
        for name in meant:
            if field == "calls" and values[name].get("fired"):
                # So many in all, of which the beat's are a part.
                values[name]["fired"] *= min(1.0, values[name]["calls"] / value) if value else 0.0
            values[name][field] = int(value) if field in ("body", "record") else value
    return {name: Traffic(**given) for name, given in values.items()}


def _near(name: str, names: Sequence[str]) -> str:
    near = nearest(name, names)
    return f", did you mean {near!r}" if near else ""


def firings(schedule: Any, now: datetime) -> float:
    """Return how often a schedule fires in a month, by its next firings."""
    count, moment = 0, now
    while count < _FIRINGS and (found := schedule.next_after(moment)) is not None and found - now <= _AHEAD:
        count, moment = count + 1, found
    span = moment - now if count == _FIRINGS else _AHEAD
    return count / span.total_seconds() * MONTH


def measured(
    known: Mapping[str, Mapping[str, float]], seen: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Return what is known of tasks with what was measured above it; the beat's firings are a part of what was seen."""
    found = {name: dict(each) for name, each in known.items()}
    for name, each in seen.items():
        before = found.get(name, {})
        found[name] = {**before, **each}
        if before.get("fired"):
            calls = each["calls"]
            found[name]["fired"] = min(1.0, before["calls"] / calls) if calls else 0.0
    return found


def of_entries(entries: Iterable[Any], firing: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return how often the beat calls each task in a month; ``firing`` is how often each entry is due."""
    calls: dict[str, dict[str, float]] = {}
    for entry in entries:
        of_task = calls.setdefault(entry.task, {"calls": 0.0, "fired": 1.0})
        of_task["calls"] += firing[entry.name]
    return calls
