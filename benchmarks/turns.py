"""Producers that send in turns, so that whatever the machine does meanwhile happens to all of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Final

from benchmarks.bench import Bench, MeasurementError, Producer
from benchmarks.peers.base import WARM_UP

#: Turns of a contender in a round.
TURNS: Final = 10


@dataclass(frozen=True)
class InTurns:
    """A measurement of all of a round's contenders at once: each has `TURNS`, in a new order each time.

    ``open`` runs a contender's producer for the length of a block.
    """

    open: Callable[[Bench, str], AbstractContextManager[Producer]]

    def rates(self, bench: Bench, contenders: Sequence[str]) -> Mapping[str, float | MeasurementError]:
        """Return how many tasks a second each contender sent in its median turn, or why it did not."""
        bench.redis.flushall()
        count, order = bench.scale.sends // TURNS, random.Random(" ".join(contenders))
        times: dict[str, list[float]] = {contender: [] for contender in contenders}
        failed: dict[str, float | MeasurementError] = {}
        with bench.apart(), ExitStack() as stack:
            producers = {contender: stack.enter_context(self.open(bench, contender)) for contender in contenders}
            for turn in (WARM_UP, *[count] * TURNS):
                for contender in order.sample(contenders, len(contenders)):
                    if contender in failed:
                        continue
                    try:
                        times[contender].append(producers[contender].send(turn))
                    except MeasurementError as error:
                        failed[contender] = error
        return failed | {name: count / median(taken[1:]) for name, taken in times.items() if name not in failed}
