"""Many tasks, real workers, kill -9 of workers and servers at random moments from a seed; then the counting."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
from collections import Counter
from typing import Any

from dispatcher.canvas.plan import derived_id
from tests.emulation.redis_server import RedisServer
from tests.fault.fleet import Fleet, Watch, WorkerProcess, until
from tests.fault.violations import Violations


@dataclasses.dataclass
class Report(Violations):
    """What a storm did, and what must not have happened in it."""

    kills: int = 0
    #: deliveries that were leased when processes were killed
    in_flight: int = 0
    #: starts beyond one for each attempt
    reruns: int = 0


class Storm:
    """One run on a fleet: ``tasks`` of four kinds, ``kills`` among ``workers`` workers.

    Each has two children, or eight threads. With a ``server`` half of the kills are its.
    """

    def __init__(
        self, fleet: Fleet, seed: int, tasks: int, kills: int, workers: int = 2, server: RedisServer | None = None,
        pool: str = "prefork",
    ) -> None:  # fmt: skip
        self.fleet = fleet
        self.random = random.Random(seed)
        self.tasks = tasks
        self.kills = kills
        self.report = Report()
        self._server = server
        self._pool = (pool, 2 if pool == "prefork" else 8)
        self._workers = [fleet.start(*self._pool) for _ in range(workers)]

    def run(self) -> Report:
        """Send, kill, wait, count."""
        followed, plain, failing = self._send()
        ids = [*followed, *plain, *failing]
        watch = Watch(self.fleet, [*ids, *(derived_id(task_id, "link/0") for task_id in followed)])
        moments = sorted(self.random.uniform(0.05, 0.85) for _ in range(self.kills))
        for moment in moments:
            until(lambda: watch.look() or len(watch.seen_final) >= moment * len(ids), f"{moment:.0%} done")  # noqa: B023
            self._kill()
        try:
            until(watch.look, "the end of all tasks")
        except AssertionError:
            self.report.hung = sorted(watch.unfinished)
            return self.report
        self.fleet.drained()
        watch.look()
        self._count(watch, followed, plain, failing)
        return self.report

    def _send(self) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
        app, tasks = self.fleet.app, self.fleet.app.tasks
        followed: dict[str, int] = {}
        plain: dict[str, int] = {}
        failing: dict[str, int] = {}
        signatures = []
        for number in range(self.tasks):
            seconds = self.random.choice([0.0, 0.0, 0.01, 0.02, 0.05])
            kind = number % 8
            if kind == 0:
                call, group = tasks["flaky"].s(number), plain
            elif kind == 1:
                call, group = tasks["failing"].s(number), failing
            elif kind in (2, 3):
                call, group = tasks["work"].s(number, seconds).set(link=tasks["follow"].s()), followed
            else:
                call, group = tasks["work"].s(number, seconds), plain
            signatures.append((call, group, number))
        for (_, group, number), result in zip(signatures, app.send_many(s for s, _, _ in signatures), strict=True):
            group[result.id] = number
        return followed, plain, failing

    def _kill(self) -> None:
        if self._server is not None and self.report.kills % 2 == 0:
            # What runs at this moment is recorded when the server is back, or runs again.
            self._server.kill()
            self._server.start()
            self._note_kill()
            return
        victim = self.random.choice(self._workers)
        children = victim.children()
        if children and self.random.random() < 0.6:
            os.kill(self.random.choice(children), signal.SIGKILL)
        else:
            self._workers.remove(victim)
            self._end(victim, children)
            self._workers.append(self.fleet.start(*self._pool))
        self._note_kill()

    def _note_kill(self) -> None:
        self.report.kills += 1
        # What a killed process held stays leased for a while, so this is no less than what it held.
        self.report.in_flight += self.fleet.app.broker.counts("default").in_flight

    def _end(self, victim: WorkerProcess, children: list[int]) -> None:
        """Kill a worker, half of the time with all its children, as the end of a machine would."""
        victim.kill()
        if self.random.random() < 0.5:
            for pid in children:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass

    def _count(self, watch: Watch, followed: dict[str, int], plain: dict[str, int], failing: dict[str, int]) -> None:
        report, effects = self.report, self.fleet.effects.read()
        report.regressed = watch.regressed
        starts: Counter[tuple[str, int]] = Counter()
        ended = {line["id"] for line in effects if line["event"] == "end"}
        for line in effects:
            if line["event"] == "start":
                starts[line["id"], line["retries"]] += 1
                if line["at"] > watch.seen_final.get(line["id"], float("inf")):
                    report.late.append(line["id"])
        report.reruns = sum(count - 1 for count in starts.values())
        report.lost = [task_id for task_id in (*followed, *plain) if task_id not in ended]
        for task_id, number in {**followed, **plain}.items():
            if (value := self.fleet.get(task_id)) != number:
                report.wrong.append(f"{task_id}: {value!r}")
        for task_id in failing:
            if not isinstance(value := self.fleet.get(task_id), ValueError):
                report.wrong.append(f"{task_id}: {value!r}")
        buried = {letter.reason["task_id"] for letter in self.fleet.app.broker.dead_letters("default", self.tasks)}
        report.unburied = [task_id for task_id in failing if task_id not in buried]
        # A continuation is one task with one id, however often its message was sent.
        children: dict[str, set[Any]] = {task_id: set() for task_id in followed}
        for line in effects:
            if line["event"] == "start" and line["task"] == "follow":
                children[line["parent"]].add(line["id"])
        report.doubled = [task_id for task_id, found in children.items() if len(found) != 1]
