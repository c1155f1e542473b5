"""A workflow's whole state, from any id of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher import chain, chord, group
from dispatcher.workflow_state import Line
from tests.property.canvases import canvas_of, grow, shown
from tests.unit.bench import Bench, Globals


@pytest.fixture(autouse=True)
def process_state() -> Iterator[None]:
    """Keep apps of one test from the next."""
    with Globals():
        yield


@pytest.fixture
def bench() -> Bench:
    """A bench with tasks."""
    made = Bench()
    made.app.task(name="add")(lambda *numbers: sum(numbers))
    made.app.task(name="total")(sum)
    made.app.task(name="fail")(_fail)
    made.app.task(name="send")(lambda: made.app.signature("add", (1,)).delay() and 0)
    return made


def _fail(*args: Any) -> None:
    raise ValueError("no")


def _sig(bench: Bench, name: str, *args: Any) -> Any:
    return bench.app.signature(name, args)


def drawn(lines: tuple[Line, ...]) -> list[Any]:
    """Return a tree by names and states: lists are lines, a group is its members in a tuple."""
    return [[_drawn(node) for node in line] for line in lines]


def _drawn(node: Any) -> Any:
    own = (node.size, *drawn(node.members)) if node.is_group else f"{node.name} {node.state}"
    return (own, *drawn(node.branches)) if node.branches else own


def test_a_canvas_is_known_before_during_and_after(bench: Bench) -> None:
    """The sender's result knows all steps from the start, the last step's id what has been recorded."""
    add = _sig(bench, "add", 1)
    result = (add | group(add, add | add) | _sig(bench, "total") | add).apply_async()
    flow = bench.app.workflow(result)
    group_of_two = (2, ["add PENDING"], ["add PENDING", "add PENDING"])
    assert drawn(flow.lines) == [["add PENDING", group_of_two, "total PENDING", "add PENDING"]]
    assert (flow.done, flow.total, flow.progress, flow.finished) == (0, 6, 0.0, False)
    assert drawn(bench.app.workflow(result.id).lines) == [["None PENDING"]]
    bench.step()
    group_of_two = (2, ["None PENDING"], ["None PENDING"])
    assert drawn(bench.app.workflow(result.id).lines) == [["add SUCCESS", group_of_two, "total PENDING", "add PENDING"]]
    bench.step()
    flow = bench.app.workflow(result.id)
    assert drawn(flow.lines)[0][1] == (2, ["add SUCCESS"], ["add SUCCESS", "add PENDING"])
    assert (flow.done, flow.total, dict(flow.counts)) == (3, 6, {"SUCCESS": 3, "PENDING": 3})
    bench.work()
    flow = bench.app.workflow(result)
    assert drawn(flow.lines) == [
        ["add SUCCESS", (2, ["add SUCCESS"], ["add SUCCESS", "add SUCCESS"]), "total SUCCESS", "add SUCCESS"]
    ]
    assert flow.finished
    assert [bench.app.workflow(node.id).lines for node in flow.nodes()] == [flow.lines] * 7


def test_the_first_error_is_that_of_the_task_which_failed(bench: Bench) -> None:
    """Not those of the tasks that did not run because of it."""
    result = chain(chord([_sig(bench, "add", 1), _sig(bench, "fail")], _sig(bench, "total")), _sig(bench, "add", 1))
    sent = result.apply_async()
    bench.work()
    flow = bench.app.workflow(sent.id)
    assert flow.failure is not None
    assert (flow.failure.name, repr(flow.error)) == ("fail", "ValueError('no')")
    assert drawn(flow.lines) == [[(2, ["add SUCCESS"], ["fail FAILURE"]), "total FAILURE", "add FAILURE"]]
    assert [node.repeats for node in flow.tasks()] == [False, False, True, True]
    plain = flow.to_dict()
    assert (plain["done"], plain["failure"]["error"]) == (4, "ValueError('no')")


def test_tasks_sent_by_tasks_and_callbacks_are_branches(bench: Bench) -> None:
    """They hang beside the line that goes on."""
    bench.app.finalize()
    sig = _sig(bench, "send").set(link=_sig(bench, "add", 5))
    result = chain(sig, _sig(bench, "add", 1)).apply_async()
    bench.work()
    flow = bench.app.workflow(result.id)
    assert {node.name for node in flow.tasks()} == {"send", "add"}
    assert flow.total == 4
    [line] = flow.lines
    assert len(line[0].branches) == 2


def test_a_group_of_its_own_is_known_by_its_id_once_it_has_run_or_was_saved(bench: Bench) -> None:
    """The ids of its members are derived from its own, but not how many they are."""
    result = group(_sig(bench, "add", 1), _sig(bench, "add", 2)).apply_async()
    assert bench.app.workflow(result.id).total == 1
    bench.work()
    drawing = [[(2, ["add SUCCESS"], ["add SUCCESS"])]]
    assert drawn(bench.app.workflow(result.id).lines) == drawing
    assert drawn(bench.app.workflow(result[1].id).lines) == drawing
    result = group(_sig(bench, "add", 1), _sig(bench, "add", 2)).apply_async()
    result.save()
    assert drawn(bench.app.workflow(result.id).lines) == [[(2, ["None PENDING"], ["None PENDING"])]]


def test_a_large_group_of_its_own_is_looked_for_in_pages(bench: Bench) -> None:
    """By its id, and by that of any member."""
    result = group(_sig(bench, "add", n) for n in range(230)).apply_async()
    bench.work(limit=400)
    for task_id in (result.id, result[217].id):
        [[whole]] = bench.app.workflow(task_id).lines
        assert [line[0].id for line in whole.members] == [member.id for member in result]


def test_reading_is_batched_by_levels_and_limited(bench: Bench) -> None:
    """A chord of 90 is a few calls; a limit leaves out what is over it, and says so."""
    result = chord([_sig(bench, "add", n) for n in range(90)], _sig(bench, "total")).apply_async()
    bench.work(limit=400)
    reads: list[int] = []
    read = bench.app.backend.read
    bench.app.backend.read = lambda ids: (reads.append(len(ids)), read(ids))[1]  # type: ignore[method-assign]
    flow = bench.app.workflow(result.id)
    assert (flow.total, flow.complete) == (91, True)
    assert len(reads) <= 4
    assert not bench.app.workflow(result.id, limit=50).complete
    with pytest.raises(ValueError, match="needs the id"):
        bench.app.workflow(None)


def test_eager_canvases_are_trees_too(bench: Bench) -> None:
    """Their results hold the states themselves."""
    flow = bench.app.workflow(chain(_sig(bench, "add", 1), _sig(bench, "add", 1)).apply())
    assert drawn(flow.lines) == [["add SUCCESS", "add SUCCESS"]]


@pytest.mark.parametrize("seed", range(30))
def test_any_id_leads_to_the_whole(seed: int) -> None:
    """Every task of a random canvas is in the tree of its result, once, and in that of any task's id."""
    rng = random.Random(seed)
    bench = Bench()
    task = bench.app.task(name="shown")(shown)
    result = canvas_of(("chain", [grow(rng, 3), ("call", 1, False)]), task).apply_async()
    bench.work()
    flow = bench.app.workflow(result)
    ids = [node.id for node in flow.tasks()]
    assert len(ids) == len(set(ids))
    assert flow.finished
    ran = {task_id for task_id in bench.app.backend._store.rows if "/" not in task_id}  # type: ignore[attr-defined]
    assert set(ids) == ran
    for node in flow.tasks():
        assert {each.id for each in bench.app.workflow(node.id).tasks()} == ran, node.id
