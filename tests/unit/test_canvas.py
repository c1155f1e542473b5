"""Chains, groups and chords: how they are made, what they come to, what their results are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher import GroupResult, ResultSet, chain, chord, chunks, group, maybe_signature, xmap
from dispatcher.exceptions import (
    ChordError,
    ImproperlyConfigured,
    MessageTooLarge,
    OperationalError,
    TaskError,
    TaskRevokedError,
    TimeoutError,
    UnsupportedOption,
)
from dispatcher.result import result_from_tuple
from tests.unit.bench import Bench, Globals


@pytest.fixture(autouse=True)
def process_state() -> Iterator[None]:
    """Keep apps of one test from the next."""
    with Globals():
        yield


class Shop(Bench):
    """A bench with tasks, and what they were called with."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.calls: list[Any] = []
        self.add = self.app.task(name="add")(lambda *numbers: sum(numbers))
        self.total = self.app.task(name="total")(lambda numbers, *more: sum(numbers) + sum(more))
        self.fail = self.app.task(name="fail")(self._fail)
        self.note = self.app.task(name="note")(lambda request, error, traceback: self.calls.append(str(error)))
        self.old = self.app.task(name="old")(lambda task_id: self.calls.append(task_id))

    @staticmethod
    def _fail(*args: Any) -> None:
        raise ValueError("no")

    def value(self, canvas: Any, *args: Any, **options: Any) -> Any:
        """Send a canvas, run all, return its value."""
        result = canvas.apply_async(args, **options)
        self.work()
        return result.get(timeout=0)


@pytest.fixture
def shop() -> Shop:
    """A shop."""
    return Shop()


# Making them


def test_operators_make_celery_s_types(shop: Shop) -> None:
    """``|`` makes chains, a group before it a chord, and a chord goes on in its body."""
    add, total = shop.add, shop.total
    assert isinstance(add.s(1) | add.s(2), chain)
    assert [task.args for task in (add.s(1) | add.s(2) | (add.s(3) | add.s(4))).tasks] == [(1,), (2,), (3,), (4,)]
    made = group(add.s(1), add.s(2)) | total.s()
    assert isinstance(made, chord)
    assert (len(made.tasks), made.body) == (2, total.s())
    assert isinstance(made | add.s(1), chord)
    assert repr(add.s(1) | group(add.s(2), add.s(3)) | total.s()) == "add(1) | group([add(2), add(3)]) | total()"
    assert len(group(add.s(n) for n in range(3))) == 3


def test_a_canvas_is_a_dict_that_serializes(shop: Shop) -> None:
    """Through JSON and back it is the same, and runs."""
    canvas = shop.add.s(1) | group(shop.add.s(2), shop.add.s(3) | shop.add.s(4)) | shop.total.s()
    again = maybe_signature(json.loads(json.dumps(canvas.__json__())), shop.app)
    assert repr(again) == repr(canvas)
    assert canvas["task"] == "celery.chain"
    assert canvas["subtask_type"] == "chain"
    assert shop.value(again) == shop.value(canvas) == 3 + 8


@pytest.mark.parametrize("wrong", [5, "add", [5]])
def test_parts_are_signatures(wrong: Any) -> None:
    """A canvas of anything else is refused where it is made."""
    with pytest.raises(TypeError, match="a canvas is made of signatures"):
        group(wrong)


def test_a_chord_needs_a_body(shop: Shop) -> None:
    """Sending one without is an error that says how."""
    for call in (lambda: chord([shop.add.s(1)]).apply_async(), lambda: chord([shop.add.s(1)]) | shop.add.s()):
        with pytest.raises(ImproperlyConfigured, match=r"chord\(header, body\)"):
            call()


# What they come to


def test_arguments_and_options_of_the_call(shop: Shop) -> None:
    """Arguments go to the first step or every member, before their own; keywords too; options likewise."""
    assert shop.value(shop.add.s(1) | shop.add.s(2), 10) == 13
    assert shop.value(group(shop.add.s(1), shop.add.si(2)), 10) == [11, 2]
    assert shop.value(chord([shop.add.s(1), shop.add.s(2)], shop.total.s(100)), 10) == 123
    assert shop.value((shop.add.s(1) | shop.add.s(2)).clone((10,)), 100) == 113
    result = chain(shop.add.s(1), shop.add.s(1)).apply_async(countdown=30, task_id="mine")
    assert result.id == "mine"
    assert shop.step() == []
    shop.work()
    assert result.get() == 2
    assert group(shop.add.s(1)).apply_async(task_id="g-1").id == "g-1"


def test_sizes_of_one_and_none(shop: Shop) -> None:
    """A group of one is a list of one, an empty one the empty list; an empty chain is nothing."""
    assert shop.value(group(shop.add.s(1)) | shop.total.s()) == 1
    assert shop.value(chord([], shop.total.s())) == 0
    assert shop.value(chain(shop.add.s(1), group([]), shop.total.s())) == 0
    assert shop.value(group([])) == []
    assert shop.value(chain(shop.add.s(4))) == 4
    assert chain().apply_async() is None


def test_generators_are_headers(shop: Shop) -> None:
    """Members may come from a generator; many of them are sent in pages."""
    assert shop.value(chord((shop.add.si(n) for n in range(40)), shop.total.s())) == sum(range(40))


def test_a_large_group_is_one_message_until_a_worker_sends_it(shop: Shop) -> None:
    """So that a producer sends all of it or nothing; its arguments are checked before, and it runs in its queue."""
    result = chord((shop.add.si(n) for n in range(150)), shop.total.s()).apply_async(queue="large")
    assert (shop.left(), shop.left("large")) == (0, 1)
    shop.work("large", "default", limit=500)
    assert result.get(timeout=0) == sum(range(150))
    with pytest.raises(TypeError, match="missing 2 required"):
        group(shop.note.s("only one") for _ in range(150)).apply_async()
    assert shop.left() == 0


def test_links_of_a_canvas(shop: Shop) -> None:
    """Callbacks are called with the result of the last step, and may be canvases themselves."""
    seen: list[Any] = []
    shop.app.task(name="see")(seen.append)
    see = shop.app.tasks["see"]
    canvas = shop.add.s(1) | shop.add.s(2)
    canvas.link(see.s())
    chord([shop.add.s(1), shop.add.s(2)], shop.total.s().set(link=see.s())).apply_async()
    canvas.apply_async(link=shop.add.s(10) | see.s())
    shop.work()
    assert sorted(seen) == [3, 13]  # link= of the call takes the place of the canvas' own, as in Celery


def test_skew(shop: Shop) -> None:
    """Members get countdowns in steps; past the stop all get the last."""
    members = group(shop.add.s(n) for n in range(4)).skew(start=1, stop=3, step=1).tasks
    assert [task.options["countdown"] for task in members] == [1, 2, 3, 3]
    with pytest.raises(ValueError, match="needs steps that lead"):
        group(shop.add.s(1)).skew(start=1, stop=0)


def test_mapped_calls(shop: Shop) -> None:
    """`chunks`, `map` and `starmap` make one message of many calls."""
    assert shop.value(shop.add.chunks([(n, n) for n in range(5)], 2).group()) == [[0, 2], [4, 6], [8]]
    assert shop.value(shop.add.starmap([(1, 2), (3, 4)])) == [3, 7]
    assert shop.value(shop.add.map(range(3))) == [0, 1, 2]
    assert shop.value(group(xmap(shop.add.s(), [1, 2]), chunks(shop.add, [(1,)], 1))) == [[1, 2], [1]]
    with pytest.raises(ValueError, match="1 or more, not 0"):
        shop.add.chunks([], 0)
    assert "celery.map" not in shop.app.tasks


def test_retries_inside_a_header(shop: Shop) -> None:
    """A member that is retried holds the body up, no more."""
    tries: list[int] = []

    @shop.app.task(bind=True, name="flaky", max_retries=5)
    def flaky(self: Any) -> int:
        tries.append(self.request.retries)
        if len(tries) < 3:
            raise self.retry(countdown=5)
        return 1

    assert shop.value(chord([flaky.s(), shop.add.s(1)], shop.total.s())) == 2
    assert tries == [0, 1, 2]


def test_a_body_that_is_retried_reads_the_results_again(shop: Shop) -> None:
    """Its message never carries them; a retry with arguments of its own has those instead."""
    seen: list[Any] = []

    @shop.app.task(bind=True, name="body")
    def body(self: Any, numbers: list[int]) -> int:
        seen.append((self.request.retries, list(numbers)))
        if self.request.retries == 0:
            raise self.retry(countdown=1)
        if self.request.retries == 1:
            raise self.retry(args=([7],), countdown=1)
        return sum(numbers)

    assert shop.value(chord([shop.add.s(1), shop.add.s(2)], body.s())) == 7
    assert seen == [(0, [1, 2]), (1, [1, 2]), (2, [7])]


@pytest.mark.parametrize("way", ["yaml", "compressed", "stored"])
def test_a_body_that_is_retried_gets_the_results_once(way: str, tmp_path: Path) -> None:
    """Arguments that travel packed, or in a payload store, are packed anew without the results before them."""
    settings: dict[str, Any] = {
        "yaml": {"task_serializer": "yaml", "accept_content": ["json", "yaml"]},
        "compressed": {"task_compression": "gzip"},
        "stored": {"payload_bucket": tmp_path.as_uri(), "payload_threshold": 1_024},
    }[way]
    shop = Shop(**settings)
    seen: list[Any] = []

    @shop.app.task(bind=True, name="body")
    def body(self: Any, numbers: list[int], text: str, tries: int = 1) -> None:
        seen.append((list(numbers), len(text), tries))
        if tries < 3:
            raise self.retry(kwargs={"tries": tries + 1}, countdown=1)

    shop.value(chord([shop.add.s(1), shop.add.s(2)], body.s("x" * 2_000)))
    assert seen == [([1, 2], 2_000, tries) for tries in (1, 2, 3)]


def test_groups_in_line_have_steps_of_their_own(shop: Shop) -> None:
    """A chord in a group at the end of a member has other ids than the steps before that group."""
    inner = group(
        chord([shop.add.s(3)], shop.total.s(4)), chain(shop.add.s(5), group(chain(shop.add.s(6), shop.add.s(7))))
    )
    canvas = group(chain(chord([shop.add.s(1)], shop.total.s(2)), inner))
    assert shop.value(canvas) == [1 + 2 + 3 + 4, 1 + 2 + 5 + 6 + 7]
    assert canvas.apply().get() == [10, 21]


# Failures


def test_an_error_callback_of_all_steps_is_called_for_what_a_revocation_stops(shop: Shop) -> None:
    """The revoked step calls none, as in Celery; what does not run because of it does, once."""
    chain(shop.add.s(1).set(expires="2001-01-01T00:00:00Z"), shop.add.s(2), shop.add.s(3)).on_error(
        shop.note.s()
    ).apply_async()
    shop.work()
    assert shop.calls == ["expired"]


def test_a_failed_step_ends_its_chain(shop: Shop) -> None:
    """What follows is FAILURE with the same error and never runs; its error callbacks are called once each."""
    result = chain(shop.add.s(1), shop.fail.s(), shop.add.s(2), shop.add.s(3)).on_error(shop.note.s()).apply_async()
    shop.work()
    chained = [result.parent.parent.parent, result.parent.parent, result.parent, result]
    assert [each.state for each in chained] == ["SUCCESS", "FAILURE", "FAILURE", "FAILURE"]
    with pytest.raises(ValueError, match="no"):
        shop.app.AsyncResult(result.id).get(timeout=0)
    assert shop.calls == ["no"]


def test_a_failed_member_fails_the_body(shop: Shop) -> None:
    """With ChordError that names the member; the others run on, the error callback is called once."""
    body = shop.total.s().on_error(shop.note.s())
    result = (chord([shop.fail.s(), shop.fail.s(), shop.add.s(1)], body) | shop.add.s(1)).apply_async()
    shop.work()
    with pytest.raises(ChordError, match=r"^Dependency .* raised ValueError\('no'\)$"):
        shop.app.AsyncResult(result.id).get(timeout=0)
    assert len(shop.calls) == 1
    assert [each.state for each in result.parent.parent] == ["FAILURE", "FAILURE", "SUCCESS"]


def test_one_of_many_members_that_fail_tells_of_it(shop: Shop) -> None:
    """The others send no error callback a second time, for another worker to run beside the first."""
    inner = chord([shop.fail.s(), shop.fail.s()], shop.total.s())
    chord([inner, shop.fail.s(), shop.fail.s()], shop.total.s().on_error(shop.note.s())).apply_async()
    shop.step()
    assert shop.left() == 1
    shop.work()
    assert len(shop.calls) == 1


@pytest.mark.parametrize("call", ["close_join", "write"])
def test_who_failed_first_tells_though_it_died_over_that(shop: Shop, call: str) -> None:
    """The next delivery of its message goes on, also where other members have failed in the meantime."""
    body = shop.total.s().on_error(shop.note.s())
    result = chord([shop.fail.s(), shop.fail.s()], body).apply_async()
    first, second = shop.receive()
    backend = shop.app.backend
    method, calls = getattr(backend, call), []

    def die(*args: Any, **kwargs: Any) -> Any:
        answer = method(*args, **kwargs)
        calls.append(1)
        if call == "close_join" or len(calls) > 1:  # the first write is the member's own
            raise KeyboardInterrupt
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, call, die)
        with pytest.raises(KeyboardInterrupt):
            shop.executor().process([first])
    shop.executor().process([second])
    shop.work()
    assert (shop.result(result.id).state, len(shop.calls)) == ("FAILURE", 1)


def test_failures_reach_every_level(shop: Shop) -> None:
    """A failure in a chord in a chord's header fails both bodies; old-style error callbacks get the body's id."""
    inner = chord([shop.fail.s(), shop.add.s(1)], shop.total.s())
    result = chord([inner, shop.add.s(2)], shop.total.s().on_error(shop.old.s())).apply_async()
    shop.work()
    with pytest.raises(ChordError):
        shop.app.AsyncResult(result.id).get(timeout=0)
    assert shop.calls == [result.id]


def test_revoked_and_expired_members_fail_the_body(shop: Shop) -> None:
    """So does one that was ignored: nobody waits for ever."""
    ignoring = shop.app.task(name="ignoring")(_ignore)
    result = chord([shop.add.s(1).set(countdown=5), shop.add.s(2)], shop.total.s()).apply_async()
    result.parent[0].revoke()
    expired = chain(shop.add.s(1).set(expires=1, countdown=5), shop.add.s(1)).apply_async()
    ignored = chain(ignoring.s(), shop.add.s(1)).apply_async()
    shop.work()
    with pytest.raises(ChordError, match="TaskRevokedError"):
        shop.app.AsyncResult(result.id).get(timeout=0)
    with pytest.raises(TaskRevokedError, match="expired"):
        expired.get(timeout=0)
    with pytest.raises(TaskError, match="ended as IGNORED"):
        ignored.get(timeout=0)


def _ignore() -> None:
    from dispatcher.exceptions import Ignore

    raise Ignore


@pytest.mark.parametrize("changes", [{}, {"args": (1,)}])
def test_what_waits_for_a_retry_is_told_of_its_end(shop: Shop, changes: dict[str, Any]) -> None:
    """A task that is revoked while it waits for a retry, with other arguments or the same, ends its chain."""

    @shop.app.task(bind=True, name="again")
    def again(self: Any, number: int = 0) -> None:
        raise self.retry(countdown=3600, **changes)

    result = (again.s() | shop.add.s(1)).apply_async()
    shop.step()
    result.parent.revoke()
    assert result.parent.state == "REVOKED"
    shop.work()
    assert result.state == "REVOKED"


def test_a_body_s_extended_record_has_its_own_arguments() -> None:
    """The results of its header have records of their own, and all of them may be more than one holds."""
    shop = Shop(result_extended=True)
    result = chord([shop.add.s(n) for n in range(3)], shop.total.s(10, 20)).apply_async()
    shop.work()
    assert (result.get(timeout=0), result.args) == (33, [10, 20])


def test_arguments_too_large_for_a_record_fail_the_task_and_no_more() -> None:
    """The failure is recorded without them, and no worker dies over it."""
    shop = Shop(result_extended=True, max_message_bytes=8000)
    result = shop.app.task(name="same")(lambda text: text).delay("x" * 5000)
    shop.work()
    with pytest.raises(MessageTooLarge, match=r"the result of same has 10,\d{3} bytes, over the 8,000"):
        result.get(timeout=0)
    assert result.name == "same"


def test_results_that_are_gone_fail_the_body(shop: Shop) -> None:
    """A header whose records were removed before the body ran is its failure, which says so."""
    result = chord([shop.add.s(1), shop.add.s(2)], shop.total.s().set(countdown=60)).apply_async()
    shop.step()
    shop.step()
    result.parent[1].forget()
    shop.work()
    with pytest.raises(TaskError, match="is gone; keep records longer"):
        shop.app.AsyncResult(result.id).get(timeout=0)


def test_a_task_that_is_brought_back_goes_on(shop: Shop) -> None:
    """What did not run because of its failure runs after all: the rest of its chain, and the body of its group."""
    broken = [True]

    @shop.app.task(name="mended")
    def mended(number: int) -> int:
        if broken:
            raise ValueError("not yet")
        return number

    chained = chain(mended.s(1), shop.add.s(1), shop.add.s(1)).apply_async()
    grouped = (group(mended.s(1), mended.s(2), shop.add.s(3)) | shop.total.s() | shop.add.s(10)).apply_async()
    shop.work()
    assert [result.state for result in (chained, grouped)] == ["FAILURE", "FAILURE"]
    broken.clear()
    first, *others = shop.dead()
    shop.app.broker.redrive([first])
    shop.work()
    assert "FAILURE" in [shop.app.AsyncResult(result.id).state for result in (chained, grouped)]
    shop.app.broker.redrive(others)
    shop.work()
    assert [shop.app.AsyncResult(result.id).get(timeout=0) for result in (chained, grouped)] == [3, 16]


# Replacing


def test_a_replacement_takes_the_task_s_place(shop: Shop) -> None:
    """Its id, its chain, its group and its callbacks; a group is replaced by the list of its results."""

    @shop.app.task(bind=True, name="become")
    def become(self: Any, number: int) -> None:
        raise self.replace(shop.add.s(number, 1) | shop.add.s(10))

    @shop.app.task(bind=True, name="become_group")
    def become_group(self: Any) -> None:
        raise self.replace(group(shop.add.s(1), shop.add.s(2)))

    @shop.app.task(bind=True, name="nested")
    def nested(self: Any, depth: int) -> None:
        raise self.replace(nested.s(depth - 1) if depth else shop.add.s(5))

    assert shop.value(become.s(1)) == 12
    assert shop.value(chain(become.s(1), shop.add.s(100))) == 112
    assert shop.value(chord([become.s(1), nested.s(3)], shop.total.s())) == 17
    assert shop.value(become_group.s() | shop.total.s()) == 3
    assert shop.value(become_group.s()) == [1, 2]
    assert become.s(1).apply().get() == 12
    with pytest.raises(RuntimeError, match="in a task that a worker runs"):
        become(1)


def test_a_replacement_that_fails_fails_in_its_place(shop: Shop) -> None:
    """Its error callbacks are the task's."""

    @shop.app.task(bind=True, name="become")
    def become(self: Any) -> None:
        raise self.replace(shop.fail.s())

    result = chain(become.s(), shop.add.s(1)).on_error(shop.note.s()).apply_async()
    shop.work()
    with pytest.raises(ValueError, match="no"):
        result.get(timeout=0)
    assert shop.calls == ["no"]


@pytest.mark.parametrize("changes", [{}, {"args": (1,)}])
def test_a_replacement_of_a_task_that_was_retried_fails_in_its_place(shop: Shop, changes: dict[str, Any]) -> None:
    """Whatever fails in the canvas ends the task, and once it is brought back the task goes on to its end."""
    flaky = shop.app.task(name="flaky")(lambda: 2 if shop.calls else shop._fail())

    @shop.app.task(bind=True, name="become", max_retries=2)
    def become(self: Any, number: int = 0) -> None:
        if self.request.retries < 2:
            raise self.retry(countdown=1, **changes)
        raise self.replace(chain(flaky.s(), shop.add.s(10)))

    result = chain(become.s(), shop.add.s(100)).apply_async()
    shop.work()
    assert (result.state, result.parent.state) == ("FAILURE", "FAILURE")
    shop.calls.append("repaired")
    shop.app.broker.redrive(shop.dead())
    shop.work()
    assert shop.result(result.id).get(timeout=0) == 112


# Lineage and results


def test_lineage(shop: Shop) -> None:
    """Root and parent lead through a canvas; a group's members know their place."""
    requests: dict[Any, Any] = {}

    @shop.app.task(bind=True, name="look")
    def look(self: Any, *args: Any) -> str:
        request = self.request
        requests[args[-1]] = (request.id, request.root_id, request.parent_id, request.group, request.group_index)
        return str(args[-1])

    result = (look.s("a") | group(look.s("b"), look.s("c")) | look.s("d")).apply_async()
    shop.work()
    first = requests["a"][0]
    assert {request[1] for request in requests.values()} == {first}
    assert [requests[name][2] for name in "abc"] == [None, first, first]
    assert [requests[name][3:] for name in "bc"] == [(result.parent.id, 0), (result.parent.id, 1)]
    assert result.parent.parent.id == first


def test_what_follows_is_a_child(shop: Shop) -> None:
    """The tree of results leads from the first step to the last, as in Celery."""
    result = (shop.add.s(1) | shop.add.s(2) | group(shop.add.s(3), shop.add.s(4) | shop.add.s(5))).apply_async()
    shop.work()
    first = shop.app.AsyncResult(result.parent.parent.id)
    assert [child.id for child in first.children] == [result.parent.id]
    assert [str(child) for child in first.children[0].children] == [result.id]
    assert [value for _, value in first.collect()] == [1, 3, [6, 12], 6, 12]
    assert first.get_leaf() == 12
    assert first.graph.valency_of(first) == 5


def test_callbacks_are_children(shop: Shop) -> None:
    """As in Celery, of a task that succeeded: of a canvas its last step, with the members of a group."""
    both = group(shop.add.s(10), shop.add.s(20))
    sig = shop.add.s(1, 2).set(link=[shop.add.s(3), chain(shop.add.s(4), shop.add.s(5)), both])
    sent = sig.apply_async()
    failed = shop.fail.apply_async(link=shop.add.s(1))
    shop.work()
    for result in (sent, sig.apply()):
        assert [child.get(timeout=0) for child in result.children] == [6, 12, [13, 23]]
        assert [value for _, value in result.collect()][:4] == [3, 6, 12, [13, 23]]
    assert not failed.children
    assert not shop.fail.apply(link=shop.add.s(1)).children


def test_eager_results_lead_to_what_followed(shop: Shop) -> None:
    """What a task sent, and the next step of its chain, as they do when they are sent."""
    shop.app.conf.task_always_eager = True
    spawn = shop.app.task(name="spawn")(lambda: str(shop.add.delay(1, 2)))
    result = chain(spawn.s(), shop.app.task(name="as_it_is")(lambda value: value).s(), shop.old.s()).apply_async()
    first = result.parent.parent
    assert [child.result for child in first.children] == [3, first.result]
    assert [value for _, value in first.collect()] == [first.result, 3, first.result, None]
    assert first.date_done is not None


def test_group_results(shop: Shop) -> None:
    """They count, save, restore, survive a tuple, and read all states at once."""
    result = group(shop.add.s(1), shop.fail.s(), shop.add.s(3)).apply_async()
    assert (result.waiting(), result.ready(), result.completed_count()) == (True, False, 0)
    with pytest.raises(TimeoutError, match="3 of 3 tasks had no result"):
        result.get(timeout=0)
    result.save()
    shop.work()
    restored = GroupResult.restore(result.id, app=shop.app)
    assert restored == result == result_from_tuple(json.loads(json.dumps(result.as_tuple())), shop.app)
    assert (restored.completed_count(), restored.failed(), restored.successful()) == (2, True, False)
    with pytest.raises(ValueError, match="no"):
        restored.get()
    assert [type(value) for value in restored.get(propagate=False)] == [int, ValueError, int]
    assert dict(restored.iter_native())[result[2].id]["result"] == 3
    restored.delete()
    assert GroupResult.restore(result.id, app=shop.app) is None
    told: list[Any] = []
    result.then(told.append)
    assert told == []
    assert result.ready()
    assert told == [result]


def test_result_sets_are_collections(shop: Shop) -> None:
    """Results are added, removed, found; ids stand for results."""
    one, two = shop.add.delay(1), shop.add.delay(2)
    results = ResultSet([one])
    results.update([one, two])
    results.discard("nothing")
    assert len(results) == 2
    results.remove(one)
    with pytest.raises(KeyError):
        results.remove(one)
    shop.work()
    assert results.join() == [2]
    results.forget()
    assert results.waiting()
    results.clear()
    assert (list(results), results.get()) == ([], [])


def test_frozen_canvases_have_their_results_ids(shop: Shop) -> None:
    """`freeze` tells the result before anything is sent."""
    canvas = shop.add.s(1) | group(shop.add.s(2), shop.add.s(3))
    frozen = canvas.freeze()
    sent = canvas.apply_async()
    shop.work()
    assert frozen == sent
    assert frozen.get() == [3, 4]


def test_eager_canvases(shop: Shop) -> None:
    """`apply` and ``task_always_eager`` run them here, failures included."""
    canvas = shop.add.s(1) | group(shop.add.s(2), shop.add.s(3)) | shop.total.s()
    assert canvas.apply().get() == 7
    failed = chain(shop.fail.s(), shop.add.s(1)).apply()
    assert (failed.state, failed.parent.state) == ("FAILURE", "FAILURE")
    with pytest.raises(ChordError, match=r"raised ValueError\('no'\)"):
        (group(shop.add.s(1), shop.fail.s()) | shop.total.s()).apply().get()
    eager = Shop(task_always_eager=True)
    assert (group(eager.add.s(1), eager.add.s(2)) | eager.total.s()).delay().get() == 3
    assert eager.add.starmap([(1, 2)]).delay().get() == [3]


def test_what_cannot_be_sent_loses_nothing(shop: Shop) -> None:
    """Where the broker is away when the next step is due, the step before comes back and sends it later."""
    broker = shop.app.broker
    result = (shop.add.s(1) | shop.add.s(2)).apply_async()
    sent, broker.send = broker.send, _away  # type: ignore[method-assign]
    shop.step()
    broker.send = sent  # type: ignore[method-assign]
    assert shop.record(result.parent.id).status == "SUCCESS"
    shop.work()
    assert result.get(timeout=0) == 3


def test_members_of_other_generations_are_one_chord(shop: Shop) -> None:
    """One member failed after a retry with other arguments; both are brought back: the body runs."""

    @shop.app.task(bind=True, name="again", max_retries=1)
    def again(self: Any, number: int) -> int:
        if self.request.retries == 0:
            raise self.retry(args=(number + 1,), countdown=0)
        if not shop.calls:
            raise ValueError("no")
        return number

    fail = shop.app.task(name="flaky")(lambda number: number if shop.calls else shop._fail())
    result = chord([again.s(1), fail.s(5)], shop.total.s()).apply_async()
    shop.work()
    shop.calls.append("repaired")
    letters = sorted(shop.dead(), key=lambda letter: letter.reason["task"])
    assert [letter.reason["task"] for letter in letters] == ["again", "flaky"]
    for letter in letters:
        shop.app.broker.redrive([letter])
        shop.work()
    assert shop.result(result.id).get(timeout=0) == 8


def test_a_body_runs_once_whichever_member_sends_it_again(shop: Shop) -> None:
    """A crash after the body was sent: members of other generations find the join complete, and send the same."""

    @shop.app.task(bind=True, name="again")
    def again(self: Any, number: int) -> int:
        if self.request.retries == 0:
            raise self.retry(args=(number + 1,), countdown=0)
        return number

    bodies: list[Any] = []
    body = shop.app.task(name="body")(bodies.append)
    result = chord([again.s(1), shop.add.s(5)], body.s()).apply_async()
    deliveries = shop.receive()
    [retried] = [each for each in deliveries if '"again"' in each.body]
    shop.executor().process([retried])
    close, shop.app.backend.close_join = shop.app.backend.close_join, _crash  # type: ignore[method-assign]
    [again_later] = shop.receive()
    shop.executor().process([again_later])
    [last] = [each for each in deliveries if each is not retried]
    with pytest.raises(KeyboardInterrupt):
        shop.executor().process([last])
    shop.app.backend.close_join = close  # type: ignore[method-assign]
    shop.step()
    assert shop.result(result.id).ready()
    shop.executor().process([again_later])
    shop.executor().process([last])
    shop.work()
    assert bodies == [[2, 5]]


def _crash(*args: Any, **kwargs: Any) -> Any:
    raise KeyboardInterrupt


def test_what_can_never_be_sent_fails_what_waits_for_it() -> None:
    """Each level is told, and the step before is a dead letter; brought back when it can be sent, all of it runs."""
    stores = {"broker": "memory://unsent", "backend": "memory://unsent"}
    shop = Shop(task_max_depth=1, **stores)
    inner = shop.add.s(1) | shop.add.s(1) | shop.add.s(1)
    result = (group(inner, shop.add.s(5)) | shop.total.s() | shop.add.s(100)).apply_async()
    shop.work()
    assert "over task_max_depth=1" in str(result.result)
    assert (result.state, result.parent.state) == ("FAILURE", "FAILURE")
    [letter] = shop.dead()
    assert letter.reason["reason"] == "uncontinued"
    shop = Shop(clock=shop.clock, **stores)
    shop.app.broker.redrive([letter])
    shop.work()
    assert shop.result(result.id).get(timeout=0) == 108
    assert shop.dead() == []


def test_an_error_callback_that_can_never_be_sent_keeps_nobody_waiting(shop: Shop) -> None:
    """The chord around a chain whose step has a wrong error callback fails like any other."""
    wrong = shop.add.s(1).set(link_error=[shop.note.s().set(priority=99)])
    result = (group(shop.fail.s() | wrong, shop.add.s(5)) | shop.total.s()).apply_async()
    shop.work()
    assert isinstance(result.result, ChordError)


def _away(messages: Any) -> None:
    raise OperationalError("the broker is away")


@pytest.mark.parametrize("how", ["header", "body", "group"])
def test_canvases_in_canvases_have_an_end(shop: Shop, how: str) -> None:
    """As deep as is promised they run; deeper, the error says how deep they are, before anything is sent."""
    one, body = shop.app.task(name="one")(lambda: 1), shop.app.task(name="body")(lambda numbers=(): 1)

    def nested(times: int) -> Any:
        canvas: Any = group(one.si()) if how == "group" else one.si()
        for _ in range(times):
            if how == "header":
                canvas = chord([canvas, one.si()], body.s())
            else:
                canvas = group(canvas) if how == "group" else chord([one.si()], canvas)
        return canvas

    result = nested(99).apply_async()
    shop.work(limit=1000)
    assert result.successful()
    assert nested(90).apply().successful()
    for send in (nested(400).apply_async, nested(400).apply):
        with pytest.raises(UnsupportedOption, match=r"(8|4)0\d deep in one another cannot work: 200 is the most"):
            send()
    assert shop.left() == 0
