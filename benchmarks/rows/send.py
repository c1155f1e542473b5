"""How fast one producer sends tasks one by one."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.rows.row import BARE, BEST_PEER, OURS, REDIS_PRODUCERS, Bar, Row
from benchmarks.turns import TURNS, InTurns, rate

ROW = Row(
    name="send",
    title="`.delay()` on Redis, one producer",
    unit="tasks/s",
    better="higher",
    method=(
        "One thread (or one coroutine) sends no-ops one after the other; no worker runs. Redis has a CPU to itself. In "
        f"a round all producers are there, and take turns of 500 tasks (100 in a quick run), {TURNS} each; a round's "
        "value is the median of its turns."
    ),
    contenders=(OURS, *REDIS_PRODUCERS, BARE),
    bars=(Bar(1.2, BEST_PEER),),
    measure=InTurns(Bench.producer, lambda bench: bench.scale.sends, rate, apart=True),
    budget=100.0,
)
