"""A running member adds calls to its chord: the body waits for them and gets their results behind the member's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher import chain, chord, group
from dispatcher.exceptions import ChordError, EncodeError, UnsupportedOption
from tests.unit.bench import Bench, Globals


@pytest.fixture(autouse=True)
def process_state() -> Iterator[None]:
    """Keep apps of one test from the next."""
    with Globals():
        yield


class Crawl(Bench):
    """A bench whose task finds what its argument leads to, and adds that to its chord."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.leads: dict[Any, list[Any]] = {}
        self.calls: list[Any] = []
        self.added: list[Any] = []
        self.after: Any = lambda task: None
        self.visit = self.app.task(name="visit", bind=True)(lambda task, *args: self._visit(task, *args))
        self.show = self.app.task(name="show")(lambda results, *more: [*results, *more])
        self.one = self.app.task(name="one")(lambda *args: args[-1])
        self.fail = self.app.task(name="fail")(self._fail)
        self.note = self.app.task(name="note")(lambda request, error, traceback: self.calls.append(str(error)))

    def _visit(self, task: Any, page: Any, *more: Any) -> Any:
        self.calls.append(page)
        for lead in self.leads.get(page, []):
            self.added.append(task.add_to_chord(lead if isinstance(lead, dict) else task.s(lead)))
        self.after(task)
        return page

    @staticmethod
    def _fail(*args: Any) -> None:
        raise ValueError("no")

    def value(self, canvas: Any) -> Any:
        """Send a canvas, run all, return its value."""
        result = canvas.apply_async()
        self.work()
        return result.get(timeout=0)


@pytest.fixture
def crawl() -> Crawl:
    """A crawl."""
    return Crawl()


def test_the_body_waits_for_what_members_add(crawl: Crawl) -> None:
    """Additions may add too; their results come behind that of the member, in the order they were added."""
    crawl.leads = {1: [11, 12], 11: [111], 2: []}
    assert crawl.value(chord([crawl.visit.s(1), crawl.visit.s(2)], crawl.show.s("end"))) == [1, 11, 111, 12, 2, "end"]
    assert sorted(crawl.calls) == [1, 2, 11, 12, 111]
    assert crawl.value(group(crawl.visit.s(1), crawl.visit.s(2)) | crawl.show.s()) == [1, 11, 111, 12, 2]


def test_the_same_in_eager_mode(crawl: Crawl) -> None:
    """By apply, and with task_always_eager."""
    crawl.leads = {1: [11, chain(crawl.one.s(2), crawl.visit.s())], 11: [111]}
    canvas = chord([crawl.visit.s(1), crawl.visit.s(3)], crawl.show.s("end"))
    assert canvas.apply().get() == [1, 11, 111, 2, 3, "end"]
    crawl.app.conf.task_always_eager = True
    assert canvas.apply_async().get() == [1, 11, 111, 2, 3, "end"]


def test_a_canvas_is_added_whole(crawl: Crawl) -> None:
    """A chain by its last result, a group by those of its members, a chord by its body's, and nothing by none."""
    crawl.leads = {1: [
        chain(crawl.one.s(1), crawl.one.s("chain")), group(crawl.one.s(2), crawl.one.s(3)),
        chord([crawl.visit.s(4), crawl.visit.s(5)], crawl.show.s("chord")), group(),
    ], 4: [41]}  # fmt: skip
    shown = crawl.value(chord([crawl.visit.s(1)], crawl.show.s()))
    assert shown == [1, "chain", 2, 3, [4, 41, 5, "chord"]]
    first, members, last = crawl.added[:3]
    assert (first.get(timeout=0), members.get(timeout=0), last.get(timeout=0)) == ("chain", [2, 3], [4, 41, 5, "chord"])


def test_what_is_added_is_a_child_of_the_member(crawl: Crawl) -> None:
    """Its result is returned at once, and the workflow has it."""
    crawl.leads = {1: [11]}
    result = chord([crawl.visit.s(1), crawl.visit.s(2)], crawl.show.s()).apply_async()
    crawl.work()
    member = crawl.app.AsyncResult(result.parent[0].id)
    assert member.children == crawl.added
    assert crawl.added[0].get(timeout=0) == 11
    flow = crawl.app.workflow(result.id)
    assert (flow.total, flow.finished, flow.counts) == (4, True, {"SUCCESS": 4})


def test_only_the_run_that_succeeds_adds(crawl: Crawl) -> None:
    """What a run added that failed, or was retried, is not sent."""
    crawl.leads = {1: [11]}

    def once_more(task: Any) -> None:
        if task.request.args[0] == 1 and not task.request.retries:
            raise task.retry(countdown=0)

    crawl.after = once_more
    assert crawl.value(chord([crawl.visit.s(1), crawl.visit.s(2)], crawl.show.s())) == [1, 11, 2]
    assert crawl.calls.count(11) == 1
    crawl.calls.clear()
    crawl.after = lambda task: crawl._fail()
    result = chord([crawl.visit.s(1)], crawl.show.s()).apply_async()
    crawl.work()
    assert (result.state, crawl.calls) == ("FAILURE", [1])


def test_an_addition_that_fails_fails_the_body(crawl: Crawl) -> None:
    """As a member does: with a ChordError that names it, and one call of the error callback."""
    broken = [True]

    @crawl.app.task(name="mended")
    def mended() -> str:
        if broken:
            raise ValueError("not yet")
        return "mended"

    crawl.leads = {1: [mended.s(), 11]}
    body = crawl.show.s().on_error(crawl.note.s())
    result = (chord([crawl.visit.s(1), crawl.visit.s(2)], body) | crawl.one.s("next")).apply_async()
    crawl.work()
    with pytest.raises(ChordError, match=rf"^Dependency {crawl.added[0].id} raised ValueError\('not yet'\)$"):
        crawl.app.AsyncResult(result.parent.id).get(timeout=0)
    assert [each for each in crawl.calls if isinstance(each, str)] == [
        f"Dependency {crawl.added[0].id} raised ValueError('not yet')"
    ]
    broken.clear()
    crawl.app.broker.redrive(crawl.dead())
    crawl.work()
    assert crawl.app.AsyncResult(result.parent.id).get(timeout=0) == [1, "mended", 11, 2]
    assert crawl.app.AsyncResult(result.id).get(timeout=0) == "next"


def test_an_addition_that_fails_in_eager_mode(crawl: Crawl) -> None:
    """Fails the body."""
    crawl.leads = {1: [crawl.fail.s()]}
    result = chord([crawl.visit.s(1)], crawl.show.s().on_error(crawl.note.s())).apply()
    assert isinstance(result.result, ChordError)
    assert crawl.calls == [1, str(result.result)]


@pytest.mark.parametrize("where", ["task", "group", "step", "body", "function"])
def test_outside_of_a_chord_it_is_refused(crawl: Crawl, where: str) -> None:
    """Where nothing waits for the task as a member, as in Celery; also for a step that is not a member's last."""
    crawl.leads = {1: [11]}
    visit = crawl.visit
    if where == "function":
        with pytest.raises(ValueError, match="a member of a chord"):
            visit(1)
        return
    canvas: Any = {
        "task": lambda: visit.s(1),
        "group": lambda: group(visit.s(1)),
        "step": lambda: chord([visit.s(1) | crawl.one.s(2)], crawl.show.s()),
        "body": lambda: chord([crawl.one.s(2)], visit.si(1)),
    }[where]()
    canvas.apply_async()
    crawl.work()
    [letter] = crawl.dead()
    assert "works in a task that ends a member of a chord" in letter.reason["exception"]
    assert crawl.calls == [1]


def test_what_can_never_be_sent_is_an_error_in_the_task(crawl: Crawl) -> None:
    """Options and arguments are checked when it is added."""
    refused: list[Any] = []

    def try_all(task: Any) -> None:
        for sig, options in (
            (crawl.one.s(object()), {}), (crawl.one.s(1).set(quueue="x"), {}), (crawl.one.s(1), {"lazy": True}),
        ):  # fmt: skip
            with pytest.raises((EncodeError, TypeError, UnsupportedOption)) as caught:
                task.add_to_chord(sig, **options)
            refused.append(str(caught.value))

    crawl.after = try_all
    assert crawl.value(chord([crawl.visit.s(1)], crawl.show.s())) == [1]
    assert "no option 'quueue'" in refused[1]
    assert "add_to_chord(lazy=True) cannot work" in refused[2]


def test_a_run_that_adds_is_not_replaced(crawl: Crawl) -> None:
    """Nothing is lost without a word: the replacement is to add."""
    crawl.leads = {1: [11]}
    crawl.after = lambda task: task.replace(crawl.one.s(2))
    result = chord([crawl.visit.s(1)], crawl.show.s()).apply_async()
    crawl.work()
    assert "let the replacement do that" in str(result.result)


def test_a_replacement_adds_in_the_member_s_place(crawl: Crawl) -> None:
    """The task that replaces a member is one."""
    crawl.leads = {1: [11]}
    become = crawl.app.task(name="become", bind=True)(lambda task: task.replace(crawl.visit.s(1)))
    canvas = chord([become.s(), crawl.one.s(2)], crawl.show.s())
    assert crawl.value(canvas) == [1, 11, 2]
    assert canvas.apply().get() == [1, 11, 2]


def test_results_of_additions_are_read_in_batches(crawl: Crawl) -> None:
    """One read for all members, and one for each level of additions."""
    crawl.leads = {page: [page + 100] for page in range(10)}
    reads: list[int] = []
    read = crawl.app.backend.read
    crawl.app.backend.read = lambda ids: reads.append(len(ids)) or read(ids)
    result = chord([crawl.visit.s(page) for page in range(10)], crawl.show.s()).apply_async()
    crawl.work()
    assert reads.count(10) >= 2
    assert result.get(timeout=0) == [each for page in range(10) for each in (page, page + 100)]


def test_large_additions(crawl: Crawl) -> None:
    """Joins of their own shards count them."""
    crawl.leads = {1: [crawl.one.s(number) for number in range(250)]}
    result = chord([crawl.visit.s(1)], crawl.show.s()).apply_async()
    crawl.work(limit=400)
    assert result.get(timeout=0) == [1, *range(250)]
