"""Firings of the beat in any order, doubled and late: which times take effect, by each policy."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.beat.firing import PUNCTUAL
from dispatcher.execution.run import Kind
from tests.unit.test_beat_firing import Beat

START = datetime(2027, 1, 15, 8, tzinfo=UTC).timestamp()
#: A firing: the number of its time, how many seconds later it comes, and how often.
FIRINGS = st.lists(
    st.tuples(
        st.integers(0, 20),
        st.floats(0, 3000).map(lambda late: round(late, 1)),
        st.integers(1, 3),
    ),
    max_size=25,
)
EVERY = st.sampled_from([60, 120, 300])


def run(every: int, firings: list[tuple[int, float, int]], **entry: Any) -> tuple[Beat, list[float], list[float]]:
    """Have firings come; return the times that ran, and those of the firings."""
    beat = Beat(every, **entry)
    coming = sorted(
        (START + number * every + late, START + number * every) for number, late, times in firings for _ in range(times)
    )
    for moment, at in coming:
        beat.clock.advance(moment - beat.clock.time())
        beat.fire(datetime.fromtimestamp(at, UTC))
        beat.step()
    assert all(run.outcome is None or run.outcome.kind is not Kind.UNREADABLE for run in beat.work())
    ran = [datetime.fromisoformat(head["beat_at"]).timestamp() for head in beat.heads]
    return beat, ran, [at for _, at in coming]


@settings(max_examples=60, deadline=None)
@given(EVERY, FIRINGS)
def test_all_run_once_where_all_are_made_up_for(every: int, firings: list[tuple[int, float, int]]) -> None:
    """Whatever comes twice, out of turn or late: each time that was fired runs, once, and no other."""
    _, ran, fired = run(every, firings, catch_up="all")
    assert sorted(ran) == sorted(set(fired))


@settings(max_examples=60, deadline=None)
@given(EVERY, FIRINGS)
def test_the_last_makes_up_for_the_others(every: int, firings: list[tuple[int, float, int]]) -> None:
    """Each time runs once at most and not before it is due; nothing is fired without that or a later one running."""
    beat, ran, fired = run(every, firings, catch_up="last")
    assert len(ran) == len(set(ran))
    assert all(at <= beat.clock.time() and (at - START) % every == 0 for at in ran)
    assert all(any(at >= wanted for at in ran) for wanted in fired)


@settings(max_examples=60, deadline=None)
@given(EVERY, FIRINGS)
def test_only_what_is_on_time_runs_where_the_rest_is_skipped(every: int, firings: list[tuple[int, float, int]]) -> None:
    """What comes within the bound runs, once; what comes later does not."""
    _, ran, _ = run(every, firings, catch_up="skip", catch_up_within=100)
    on_time = {START + number * every for number, late, _ in firings if late <= 100 - PUNCTUAL}
    in_time = {START + number * every for number, late, _ in firings if late <= 100 + PUNCTUAL}
    assert len(ran) == len(set(ran))
    assert on_time <= set(ran) <= in_time
