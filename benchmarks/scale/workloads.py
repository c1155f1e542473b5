"""What is sent to the model: tasks that take virtual time, and mixes of them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from dispatcher import Dispatcher, chord
from dispatcher.exceptions import OperationalError

#: Members of a chord.
CHORD: Final = 1_000
#: Starts a second of the task with a rate limit, and keys of the unique one.
RATE: Final = 100
KEYS: Final = 10
#: The share of runs that ask for a retry.
RETRIED: Final = 0.01


class Tasks:
    """The tasks of an app; their durations are seconds that pass.

    ``owed`` holds the ids of those that were sent and have not run to their end, which empties it again, so that one
    that is lost stays there however often another one runs. ``refused`` counts calls that raised where they were made.
    """

    def __init__(self, app: Dispatcher) -> None:
        self.app = app
        self.owed: set[str] = set()
        self.refused = 0
        task, rest = partial(app.task, bind=True), self._rest()
        self.lean: Any = task(name="lean", ignore_result=True, revocable=False)(rest)
        self.kept: Any = task(name="kept")(rest)
        self.limited: Any = task(name="limited", rate_limit=f"{RATE}/s", rate_limit_scope="global")(rest)
        self.unique: Any = task(name="unique", unique=True)(rest)
        self.flaky: Any = task(name="flaky", max_retries=5, default_retry_delay=1)(self._flaky())
        self.add: Any = task(name="add")(self._add())
        self.total: Any = task(name="total")(self._total())

    def send(self, signatures: Sequence[Any]) -> None:
        """Send calls together; a duplicate stands for an earlier call, which is all it does."""
        self.owe(result for result in self.app.send_many(signatures) if not result.duplicate)

    def owe(self, results: Iterable[Any]) -> None:
        """Have the runs of calls that were sent be missed as long as they have not ended."""
        self.owed.update(result.id for result in results)

    def _rest(self) -> Callable[..., None]:
        def run(task: Any, seconds: float, key: int = 0) -> None:
            time.sleep(seconds)
            self.owed.discard(task.request.id)

        return run

    def _flaky(self) -> Callable[..., None]:
        def run(task: Any, seconds: float, fails: bool) -> None:
            time.sleep(seconds)
            if fails and not task.request.retries:
                raise task.retry()
            self.owed.discard(task.request.id)

        return run

    def _add(self) -> Callable[..., int]:
        def run(task: Any, one: int, two: int) -> int:
            self.owed.discard(task.request.id)
            return one + two

        return run

    def _total(self) -> Callable[..., int]:
        def run(task: Any, numbers: Sequence[int]) -> int:
            self.owed.discard(task.request.id)
            return sum(numbers)

        return run


#: Sends up to so many tasks; returns how many.
Send = Callable[[Tasks, int, random.Random], int]


@dataclass(frozen=True)
class Workload:
    """A kind of work; all of a minute's tasks are sent in its first ``share``, 1.0 being evenly.

    Where ``singly`` is set each call is made by itself, by a producer of its own that waits for no other.
    """

    name: str
    about: str
    send: Send
    share: float = 1.0
    singly: bool = False


def _plain(task: str, seconds: float) -> Send:
    def send(tasks: Tasks, count: int, chance: random.Random) -> int:
        wanted = getattr(tasks, task)
        tasks.send([wanted.s(seconds) for _ in range(count)])
        return count

    return send


def _retries(tasks: Tasks, count: int, chance: random.Random) -> int:
    tasks.send([tasks.flaky.s(0.01, chance.random() < RETRIED) for _ in range(count)])
    return count


def _chords(tasks: Tasks, count: int, chance: random.Random) -> int:
    for _ in range(count // CHORD):
        body = chord((tasks.add.s(number, 1) for number in range(CHORD)), tasks.total.s()).apply_async()
        assert body.parent is not None
        tasks.owe([body, *body.parent.results])
    return count // CHORD * CHORD


def _unique(tasks: Tasks, count: int, chance: random.Random) -> int:
    tasks.send([tasks.unique.s(0.01, chance.randrange(KEYS)) for _ in range(count)])
    return count


def _hot(tasks: Tasks, count: int, chance: random.Random) -> int:
    for _ in range(count):
        try:
            result = tasks.unique.delay(0.01)
        except OperationalError:  # what the key does not take, the caller is told
            tasks.refused += 1
        else:
            tasks.owe([] if result.duplicate else [result])
    return count


def _mixed(tasks: Tasks, count: int, chance: random.Random) -> int:
    kinds = chance.choices(("lean", "kept", "slow", "flaky"), (65, 20, 5, 10), k=count)
    signatures = {
        "lean": lambda: tasks.lean.s(0.01),
        "kept": lambda: tasks.kept.s(0.05),
        "slow": lambda: tasks.kept.s(1.0),
        "flaky": lambda: tasks.flaky.s(0.01, chance.random() < RETRIED),
    }
    tasks.send([signatures[kind]() for kind in kinds])
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
        Workload("unique", f"unique tasks of 10 ms of {KEYS} keys, sent together", _unique),
        Workload("hot", "unique tasks of 10 ms of one key, each call made by a producer of its own", _hot, singly=True),
    )
}  # fmt: skip
