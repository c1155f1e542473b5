"""How fast tasks go through an SQLite file whose disk is synced with every commit, beside Huey on the same terms."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.rows.drain import drained
from benchmarks.rows.round_trip import latency
from benchmarks.rows.row import OURS, AtOnce, Bar, Row, Sample
from benchmarks.statistics import Better
from benchmarks.turns import InTurns, rate

#: Contender -> its peer and how SQLite syncs: with `full`, what was sent survives a power failure.
_CONTENDERS: Final = {
    OURS: ("dispatcher_sqlite", "full"),
    "huey": ("huey_sqlite", "full"),
    "dispatcher_normal": ("dispatcher_sqlite", "normal"),
}


@contextmanager
def _file(bench: Bench, contender: str) -> Iterator[str]:
    """Give probes and workers a new file for the length of the block; yields the peer."""
    peer, synchronous = _CONTENDERS[contender]
    bench.redis.flushall()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        file = str(Path(folder) / "tasks.db")
        with bench.variables(BENCH_SQLITE_FILE=file, BENCH_SQLITE_SYNCHRONOUS=synchronous):
            yield peer


@contextmanager
def _producer(bench: Bench, contender: str) -> Iterator[Callable[[int], Sequence[float]]]:
    with _file(bench, contender) as peer, bench.producer(peer) as send:
        yield send


@contextmanager
def _caller(bench: Bench, contender: str) -> Iterator[Callable[[int], Sequence[float]]]:
    with _file(bench, contender) as peer, bench.caller(peer) as call:
        yield call


def _drain(bench: Bench, contender: str) -> Sample:
    with _file(bench, contender) as peer:
        bench.probe(peer, "fill", bench.scale.backlog)
        return drained(bench, peer, bench.scale.backlog)


def _describe(bench: Bench, contender: str) -> dict[str, Any]:
    with _file(bench, contender) as peer:
        description: dict[str, Any] = bench.probe(peer, "describe")
        return description


def _row(
    name: str,
    title: str,
    unit: str,
    better: Better,
    method: str,
    measure: Callable[[Bench, str], Sample] | AtOnce,
    budget: float,
) -> Row:
    return Row(
        name=name,
        title=title,
        unit=unit,
        better=better,
        method=method,
        contenders=tuple(_CONTENDERS),
        bars=(Bar(1, "huey"),),
        measure=measure,
        describe=_describe,
        budget=budget,
    )


SEND: Final = _row(
    "sqlite-send",
    "`.delay()` on SQLite, one producer",
    "tasks/s",
    "higher",
    "One thread sends no-ops one after the other into a new file; no worker runs. Turns as on Redis. WAL, and the disk "
    "is synced with every commit (synchronous=FULL) of both but our leases; `dispatcher_normal` is our default, which "
    "does not.",
    InTurns(_producer, lambda bench: bench.scale.sends, rate, apart=True),
    budget=40.0,
)
DRAIN: Final = _row(
    "sqlite-drain",
    "No-op tasks drained on SQLite, 2 processes",
    "tasks/s",
    "higher",
    "As on Redis, where the side effect is counted here too. The disk is synced as above.",
    _drain,
    budget=140.0,
)
ROUND_TRIP: Final = _row(
    "sqlite-round-trip",
    "`.delay().get()` on SQLite, one caller",
    "ms",
    "lower",
    "As on Redis, in turns, with two worker processes. Nobody can be woken through a file, so all of them look again "
    "and again. The disk is synced as above.",
    InTurns(_caller, lambda bench: bench.scale.calls, latency),
    budget=50.0,
)
