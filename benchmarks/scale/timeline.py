"""Virtual time: a clock that events move, and code that believes it."""

from __future__ import annotations

import heapq
import itertools
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from unittest import mock

from benchmarks.scale import facts
from dispatcher import aws, utils

#: When the virtual world begins: seconds since the epoch.
BEGINNING: Final = 1_800_000_000.0


class Timeline:
    """Events in the order of their times, and the clock that they move.

    An event's action may let time pass (`sleep`); within `aside` that is its own time alone, so that others that happen
    meanwhile still come at theirs. What such an action leaves behind (a row, a reservation) is there for an action that
    begins later but earlier than it was left: by at most the length of one invocation.
    """

    def __init__(self) -> None:
        self.now = BEGINNING
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        """Return the seconds since the epoch."""
        return self.now

    def monotonic(self) -> float:
        """Return the same."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass for the action that is under way."""
        self.now += max(0.0, seconds)

    def at(self, moment: float, action: Callable[[], None]) -> None:
        """Have an action happen at a moment; those of one moment keep the order that they were asked for in."""
        heapq.heappush(self._events, (moment, next(self._numbers), action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Have an action happen so many seconds from now."""
        self.at(self.now + seconds, action)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take back the time that passes in the block."""
        start = self.now
        try:
            yield
        finally:
            self.now = start

    def together(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """Do `dispatcher.aws.together` in virtual time: as many at a time as it has threads."""
        results = []
        for few in aws.chunks(items, aws.MAX_THREADS):
            latest = self.now
            for item in few:
                with self.aside():
                    results.append(function(item))
                    latest = max(latest, self.now)
            self.now = latest
        return results

    def run(self, done: Callable[[], bool]) -> None:
        """Let events happen until something is so, or nothing happens any more."""
        while self._events and not done():
            self.now, _, action = heapq.heappop(self._events)
            action()


@contextmanager
def virtual_world(timeline: Timeline, client: Callable[..., Any], seed: int) -> Iterator[random.Random]:
    """Let the code of `dispatcher` live in virtual time, with simulated clients, for the length of the block.

    Time, ids and chance are the timeline's and the seed's; ``client`` stands in for `dispatcher.aws.client`.
    """
    chance, others = random.Random(seed), random.Random(~seed)
    state = random.getstate()
    random.seed(seed)
    replaced: dict[tuple[Any, str], Any] = {
        (time, "time"): timeline.time,
        (time, "monotonic"): timeline.monotonic,
        (time, "perf_counter"): timeline.monotonic,
        (time, "sleep"): lambda seconds: timeline.sleep(seconds + facts.TIMER_SLACK),
        (uuid, "uuid4"): lambda: uuid.UUID(int=chance.getrandbits(128), version=4),
        (os, "urandom"): others.randbytes,  # tokens
        (utils, "urandom"): others.randbytes,  # ids, and by them the partitions that rows lie on
        (aws, "client"): client,
        (aws, "together"): timeline.together,
        # Nothing blocks here, so nothing has to be given up.
        (aws, "in_time"): lambda service, function, ample=0.0: function(),
    }
    patches = [mock.patch.object(place, name, value) for (place, name), value in replaced.items()]
    try:
        for patch in patches:
            patch.start()
        yield chance
    finally:
        for patch in reversed(patches):
            patch.stop()
        random.setstate(state)
