"""What is sent to the model: tasks that take virtual time, and mixes of them."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dispatcher import Dispatcher, chord

#: Members of a chord.
CHORD: Final = 1_000
#: Starts a second of the task with a rate limit, and keys of the unique one.
RATE: Final = 100
KEYS: Final = 10
#: The share of runs that ask for a retry.
RETRIED: Final = 0.01


class Tasks:
    """The tasks of an app; their durations are seconds that pass. ``runs`` counts by name what ran to its end.

    ``collapsed`` counts the calls of the unique task that stand for an earlier one, which is all they do.
    """

    def __init__(self, app: Dispatcher) -> None:
        self.app = app
        self.runs: Counter[str] = Counter()
        self.collapsed = 0
        task, rest = app.task, self._rest
        self.lean: Any = task(name="lean", ignore_result=True, revocable=False)(rest("lean"))
        self.kept: Any = task(name="kept")(rest("kept"))
        self.limited: Any = task(name="limited", rate_limit=f"{RATE}/s", rate_limit_scope="global")(rest("limited"))
        self.unique: Any = task(name="unique", unique=True)(rest("unique"))
        self.flaky: Any = task(name="flaky", bind=True, max_retries=5, default_retry_delay=1)(self._flaky())
        self.add: Any = task(name="add")(self._add)
        self.total: Any = task(name="total")(self._total)

    def _rest(self, name: str) -> Callable[..., None]:
        def run(seconds: float, key: int = 0) -> None:
            time.sleep(seconds)
            self.runs[name] += 1

        return run

    def _flaky(self) -> Callable[..., None]:
        def run(task: Any, seconds: float, fails: bool) -> None:
            time.sleep(seconds)
            if fails and not task.request.retries:
                raise task.retry()
            self.runs["flaky"] += 1

        return run

    def _add(self, one: int, two: int) -> int:
        self.runs["add"] += 1
        return one + two

    def _total(self, numbers: Sequence[int]) -> int:
        self.runs["total"] += 1
        return sum(numbers)


#: Sends up to so many tasks; returns how many.
Send = Callable[[Tasks, int, random.Random], int]


@dataclass(frozen=True)
class Workload:
    """A kind of work; all of a minute's tasks are sent in its first ``share``, 1.0 being evenly."""

    name: str
    about: str
    send: Send
    share: float = 1.0


def _plain(task: str, seconds: float) -> Send:
    def send(tasks: Tasks, count: int, chance: random.Random) -> int:
        wanted = getattr(tasks, task)
        tasks.app.send_many([wanted.s(seconds) for _ in range(count)])
        return count

    return send


def _retries(tasks: Tasks, count: int, chance: random.Random) -> int:
    tasks.app.send_many([tasks.flaky.s(0.01, chance.random() < RETRIED) for _ in range(count)])
    return count


def _chords(tasks: Tasks, count: int, chance: random.Random) -> int:
    for _ in range(count // CHORD):
        chord((tasks.add.s(number, 1) for number in range(CHORD)), tasks.total.s()).apply_async()
    return count // CHORD * CHORD


def _unique(tasks: Tasks, count: int, chance: random.Random) -> int:
    results = tasks.app.send_many([tasks.unique.s(0.01, chance.randrange(KEYS)) for _ in range(count)])
    tasks.collapsed += sum(bool(result.duplicate) for result in results)
    return count


def _mixed(tasks: Tasks, count: int, chance: random.Random) -> int:
    kinds = chance.choices(("lean", "kept", "slow", "flaky"), (65, 20, 5, 10), k=count)
    signatures = {
        "lean": lambda: tasks.lean.s(0.01),
        "kept": lambda: tasks.kept.s(0.05),
        "slow": lambda: tasks.kept.s(1.0),
        "flaky": lambda: tasks.flaky.s(0.01, chance.random() < RETRIED),
    }
    tasks.app.send_many([signatures[kind]() for kind in kinds])
    return count


WORKLOADS: Final = {
    workload.name: workload
    for workload in (
        Workload("lean", "tasks of 10 ms that keep no result", _plain("lean", 0.01)),
        Workload("results", "tasks of 10 ms with results", _plain("kept", 0.01)),
        Workload("slow", "tasks of 1 s with results", _plain("kept", 1.0)),
        Workload("retries", f"tasks of 10 ms with results, {RETRIED:.0%} of which are retried after 1 s", _retries),
        Workload("chords", f"chords of {CHORD:,} additions and a sum", _chords),
        Workload("mixed", "65 % lean of 10 ms, 20 % with results of 50 ms, 5 % of 1 s, 10 % as in retries", _mixed),
        Workload("burst", "as mixed, all of a minute's tasks in its first six seconds", _mixed, share=0.1),
        Workload("limited", f"tasks of 10 ms with one rate limit of {RATE} a second", _plain("limited", 0.01)),
        Workload("unique", f"unique tasks of 10 ms of {KEYS} keys", _unique),
    )
}  # fmt: skip
