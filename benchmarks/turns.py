"""Contenders that are all up at once and act in turns, so that whatever the machine does happens to all of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Final

from benchmarks.bench import Bench, MeasurementError
from benchmarks.peers.base import WARM_UP
from benchmarks.rows.row import AtOnce, Sample

#: Turns of a contender in a round.
TURNS: Final = 10

#: Opens a contender for the length of a block; what it yields does so many things and returns the seconds they took.
Open = Callable[[Bench, str], AbstractContextManager[Callable[[int], Sequence[float]]]]


@dataclass(frozen=True)
class InTurns(AtOnce):
    """A measurement of all of a round's contenders at once: each has `TURNS`, in a new order each time.

    ``total`` is how many things a contender does in a round, ``value`` makes a figure of how many there were in a turn
    and how long each turn took. ``apart`` keeps Redis on a CPU of its own.
    """

    open: Open
    total: Callable[[Bench], int]
    value: Callable[[int, Sequence[Sequence[float]]], Sample]
    apart: bool = False

    def samples(self, bench: Bench, contenders: Sequence[str]) -> Iterator[tuple[str, Sample | Exception]]:
        """Yield what each contender came to, or why it did not."""
        bench.redis.flushall()
        with ExitStack() as stack:
            if self.apart:
                stack.enter_context(bench.apart())
            taken, failed = self._take_turns(bench, contenders, stack)
        count = self.total(bench) // TURNS
        yield from failed.items()
        yield from ((name, self.value(count, turns[1:])) for name, turns in taken.items() if name not in failed)

    def _take_turns(
        self, bench: Bench, contenders: Sequence[str], stack: ExitStack
    ) -> tuple[Mapping[str, Sequence[Sequence[float]]], Mapping[str, MeasurementError]]:
        """Return how long all turns took, the first of which only warms up, and who failed."""
        order = random.Random(" ".join(contenders))
        taken: dict[str, list[Sequence[float]]] = {contender: [] for contender in contenders}
        failed: dict[str, MeasurementError] = {}
        take: dict[str, Callable[[int], Sequence[float]]] = {}
        for turn in (0, WARM_UP, *[self.total(bench) // TURNS] * TURNS):
            for contender in order.sample(contenders, len(contenders)):
                if contender in failed:
                    continue
                try:
                    if contender not in take:
                        take[contender] = stack.enter_context(self.open(bench, contender))
                    elif turn:
                        taken[contender].append(take[contender](turn))
                except MeasurementError as error:
                    failed[contender] = error
        return taken, failed


def rate(count: int, turns: Sequence[Sequence[float]]) -> Sample:
    """Return how many things a second were done in the median turn, of which each was timed as a whole."""
    return Sample(count / median(seconds for (seconds,) in turns))
