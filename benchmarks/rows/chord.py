"""How long a chord takes, from sending it to holding its result."""

from __future__ import annotations

from typing import Final

from benchmarks.bench import Bench, MeasurementError
from benchmarks.peers.base import CHORD_TIMEOUT
from benchmarks.rows.row import BEST_PEER, OURS, Bar, Row, Sample

SMALL = 1_000
#: What libraries raise when a result does not come in time.
_TIMEOUTS: Final = ("TimeoutError", "ResultTimeout")


def measure(bench: Bench, peer: str) -> Sample:
    """Run a chord of a thousand, and the largest where the scale is full."""
    bench.redis.flushall()
    with bench.workers(peer, results=True) as workers:
        bench.probe(peer, "chord", 20, results=True)
        before = _commands(bench)
        seconds = bench.probe(peer, "chord", SMALL, results=True)["seconds"]
        details = {"Redis commands a member": (_commands(bench) - before) / SMALL}
        if bench.scale.chord > SMALL and bench.once(f"large chord of {peer}"):
            details |= _large(bench, peer)
            details["worker peak MiB"] = workers.peak() / 2**20
        workers.check()
    return Sample(seconds, details)


def _large(bench: Bench, peer: str) -> dict[str, float]:
    """Run the largest chord; what it took, or nothing where that is more than `CHORD_TIMEOUT`."""
    before, size = _commands(bench), bench.scale.chord
    try:
        done = bench.probe(peer, "chord", size, results=True)
    except MeasurementError as error:
        if not any(name in str(error) for name in _TIMEOUTS):
            raise
        return {}
    return {
        f"{size:,} members, s": done["seconds"],
        "Redis commands a member of these": (_commands(bench) - before) / size,
        "producer peak MiB": done["peak"] / 2**20,
    }


def _commands(bench: Bench) -> int:
    """Return how many commands the server has carried out so far, those of scripts included."""
    return sum(command["calls"] for command in bench.redis.info("commandstats").values())


ROW = Row(
    name="chord",
    title="Chord of 1,000 on Redis, 2 processes",
    unit="s",
    better="lower",
    method=(
        "Two worker processes, results on. A chord of 1,000 additions and a sum is sent; the clock stops when the "
        "producer holds the sum. With full sizes one of 10,000 follows in the first round, whose columns stay blank "
        f"if it takes over {CHORD_TIMEOUT} s. Peaks are of the largest single process (VmHWM); commands are those that "
        "Redis counts, the ones inside scripts too."
    ),
    contenders=(OURS, "celery", "huey"),
    bars=(Bar(1, BEST_PEER),),
    measure=measure,
    budget=150.0,
)
