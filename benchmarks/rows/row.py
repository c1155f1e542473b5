"""What a row of the report is made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.statistics import Better

OURS: Final = "dispatcher"
BARE: Final = "bare"
#: Rounds of every row that is timed and has a bar, and the least that such a bar is judged by.
BAR_ROUNDS: Final = 9
#: A bar against whichever peer's median is best.
BEST_PEER: Final = "best peer"
#: Libraries on Redis in the order of the tables, and those and their pools where workers take part.
REDIS_PRODUCERS: Final = ("celery", "dramatiq", "rq", "huey", "taskiq", "saq", "arq")
REDIS_PEERS: Final = ("celery", "celery_threads", *REDIS_PRODUCERS[1:])
#: Those of them that a quick run of an expensive row visits.
QUICK_PEERS: Final = ("celery", "dramatiq", "huey", "taskiq")
#: What a Lambda function's environment holds; nobody listens at the endpoint, so no call leaves the machine.
LAMBDA_VARIABLES: Final = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_LAMBDA_FUNCTION_NAME": "bench",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
    "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
    "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9",  # a runtime forks its guard
    "DISPATCHER_APP": "benchmarks.handlers.app:app",
}


@dataclass(frozen=True)
class Bar:
    """Our median must pass ``factor`` times that of ``against``; with no opponent, ``factor`` itself.

    Where ``all_of_them`` is set, every contender is ours, and the worst one must pass ``factor``.
    """

    factor: float
    against: str | None = None
    all_of_them: bool = False


@dataclass(frozen=True)
class Sample:
    """One measurement of one library: the value the row compares, and what else was seen.

    ``distribution`` holds the percentiles 1 to 99 of what was timed many times, in the row's unit, for the plots.
    """

    value: float
    details: Mapping[str, float] = field(default_factory=dict)
    distribution: Sequence[float] = ()


class AtOnce(ABC):
    """A measurement of all of a round's contenders at once."""

    @abstractmethod
    def samples(self, bench: Bench, contenders: Sequence[str]) -> Iterator[tuple[str, Sample | Exception]]:
        """Yield what each contender came to, or why it failed."""


def is_peer(contender: str) -> bool:
    """Whether a contender is neither ours, in whatever setting, nor the limit for all."""
    return contender != BARE and not contender.startswith(OURS)


def describe_peer(bench: Bench, peer: str) -> dict[str, Any]:
    """Return the versions and settings of a library on Redis."""
    description: dict[str, Any] = bench.probe(peer, "describe")
    return description


@dataclass(frozen=True)
class Row:
    """A thing to measure."""

    name: str
    title: str
    unit: str
    better: Better
    method: str
    contenders: tuple[str, ...]
    bars: tuple[Bar, ...]
    #: Measures one contender after the other, or all of a round.
    measure: Callable[[Bench, str], Sample] | AtOnce
    describe: Callable[[Bench, str], dict[str, Any]] = describe_peer
    #: A row that counts instead of timing needs one round only.
    exact: bool = False
    #: Who takes part in a quick run; all where this is empty.
    quick: tuple[str, ...] = ()
    #: Seconds that a full run of the row should take. Past them a row starts no further round, but for the first
    #: `BAR_ROUNDS` of those that its bars are about.
    budget: float = 60.0

    def rounds(self, *, full: bool) -> int:
        """Return how often everybody is measured unless told otherwise: as often in every timed row with a bar."""
        if self.exact or not full:
            return 1
        return BAR_ROUNDS if self.bars else 3

    def outcomes(self, bench: Bench, contenders: Sequence[str]) -> Iterator[tuple[str, Sample | Exception]]:
        """Measure contenders once each, in this order or at once; yield what each came to, or why it failed."""
        if isinstance(self.measure, AtOnce):
            yield from self.measure.samples(bench, contenders)
            return
        for contender in contenders:
            outcome: Sample | Exception
            try:
                outcome = self.measure(bench, contender)
            # Whatever one library's measurement raises costs that library's figure, not the others'.
            except Exception as error:  # noqa: BLE001
                outcome = error
            yield contender, outcome

    def far_behind(self, medians: Mapping[str, float], factor: float) -> set[str]:
        """Return the peers that no bar is about: they are not named, and so many times worse than the best peer."""
        named = {bar.against for bar in self.bars}
        peers = {name: value for name, value in medians.items() if is_peer(name) and name not in named}
        if not peers:
            return set()
        if self.better == "higher":
            return {name for name, value in peers.items() if value * factor <= max(peers.values())}
        return {name for name, value in peers.items() if value >= min(peers.values()) * factor}
