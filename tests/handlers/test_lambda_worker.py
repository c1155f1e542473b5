"""The Lambda worker runs batches: every message is either settled or reported, whatever its task does."""

import asyncio
import itertools
import logging
import time
import urllib.request
from typing import Any

import pytest
from botocore.exceptions import ConnectionClosedError

from dispatcher import chain
from dispatcher.exceptions import Ignore, Reject, SoftTimeLimitExceeded, TaskRevokedError
from dispatcher.lambda_runtime.transport import LambdaTransport
from tests.handlers.lab import Context, Lab, MakeLab


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    """An app with a standard queue."""
    return make_lab()


def until_visible(lab: Lab, limit: float = 20.0) -> dict[str, Any]:
    """Return the next batch as soon as there is one."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        event = lab.take()
        if event["Records"]:
            return event
    raise AssertionError(f"nothing became visible: {lab.depth()}")


def test_batch_of_successes_reports_nothing(lab: Lab) -> None:
    """Results are in the table before the handler answers, and the answer lets the mapping delete everything."""
    add = lab.task(lambda x, y: x + y, name="lab.add")
    results = [add.delay(number, 1) for number in range(10)]
    assert lab.invoke() == []
    assert [result.get(timeout=0) for result in results] == list(range(1, 11))
    assert lab.depth() == {"visible": 0, "in_flight": 0, "delayed": 0}


def test_subtasks_of_one_batch_say_whose_they_are(lab: Lab) -> None:
    """Records of subtasks that several parents sent name each one's own."""
    told, children = lab.task(lambda value: value, name="lab.told"), dict[str, Any]()

    def tell(self: Any) -> None:
        children[self.request.id] = told.delay(1)

    parents = [each.delay() for each in [lab.task(tell, bind=True)] * 2]
    assert [lab.invoke(), lab.invoke()] == [[], []]
    for parent in parents:
        record = lab.app.backend.read([children[parent.id].id])[children[parent.id].id]
        meta = lab.app.read_meta(record)
        assert (meta.result, meta.parent_id, meta.root_id) == (1, parent.id, parent.id)


def test_retry_comes_back_by_its_visibility(lab: Lab) -> None:
    """A retry is recorded, reported, and visible again after its delay instead of the queue's timeout."""

    def flaky(self: Any) -> int:
        if not self.request.retries:
            raise self.retry(countdown=1)
        return self.request.retries

    result = lab.task(flaky, bind=True).delay()
    lab.task(lambda: None, name="lab.other").delay()
    event = lab.take()
    reported = lab.invoke(event)
    assert reported == [record["messageId"] for record in event["Records"] if "flaky" in record["body"]]
    assert result.state == "RETRY"
    assert lab.depth()["in_flight"] == 1
    assert lab.invoke(until_visible(lab)) == []
    assert result.get(timeout=0) == 1


def test_retry_at_once_is_visible_at_once(lab: Lab) -> None:
    """A delay of 0 is set too: the message would else rest for the queue's visibility timeout."""
    result = lab.task(lambda self: self.retry(countdown=0) if not self.request.retries else "done", bind=True,
                      name="lab.again").delay()  # fmt: skip
    assert len(lab.invoke()) == 1
    assert lab.invoke() == []
    assert result.get(timeout=0) == "done"


def test_failure_is_copied_to_the_dead_letters(lab: Lab) -> None:
    """A task that failed for good is acknowledged, and its copy tells why."""

    def fail() -> None:
        raise LookupError("no such order")

    result = lab.task(fail).delay()
    assert lab.invoke() == []
    [letter] = lab.dead_letters()
    reason = {name: value["StringValue"] for name, value in letter["MessageAttributes"].items()}
    assert reason["reason"] == "failed"
    assert reason["task"] == "lab.fail"
    assert reason["task_id"] == result.id
    assert "LookupError: no such order" in reason["traceback"]
    assert isinstance(result.result, LookupError)


def test_unreadable_message_is_a_dead_letter(lab: Lab) -> None:
    """What is no message is moved away with the reason, and its neighbours run."""
    result = lab.task(lambda: "ran", name="lab.good").delay()
    lab.sqs.send_message(QueueUrl=lab.url, MessageBody="not json")
    assert lab.invoke() == []
    [letter] = lab.dead_letters()
    assert letter["Body"] == "not json"
    assert letter["MessageAttributes"]["reason"]["StringValue"] == "undecodable"
    assert result.get(timeout=0) == "ran"


def test_failed_burial_reports_the_message(lab: Lab) -> None:
    """A dead letter that cannot be sent leaves the message where it is."""
    lab.sqs.send_message(QueueUrl=lab.url, MessageBody="not json")
    lab.sqs.delete_queue(QueueUrl=lab.dead_url)
    event = lab.take()
    assert lab.invoke(event) == [event["Records"][0]["messageId"]]


def test_a_task_that_runs_once_is_recorded_before_it_starts(lab: Lab) -> None:
    """With ``acks_late=False`` the table has the start, and a lease as long as the invocation, before the code runs."""
    seen: list[Any] = []

    def once(self: Any) -> None:
        record = lab.app.backend.read([self.request.id])[self.request.id]
        seen.append((record.starts, record.not_before is not None and record.not_before > time.time() + 60))

    lab.task(once, bind=True, acks_late=False).delay()
    assert lab.invoke() == []
    assert seen == [(1, True)]


def test_unknown_task_waits_for_a_newer_worker(lab: Lab) -> None:
    """A task that this release does not know goes back for the grace of a rolling deploy."""
    lab.app.send_task("lab.of_the_next_release")
    assert len(lab.invoke()) == 1
    assert not lab.dead_letters()


def test_lost_receipt_leaves_the_queue_s_visibility(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """A visibility that cannot be changed is no reason to fail: the message is reported and comes back later."""
    lab.task(lambda self: self.retry(countdown=5), bind=True, name="lab.retry").delay()
    event = lab.take()
    [record] = event["Records"]
    assert lab.worker({"Records": [{**record, "receiptHandle": "stale"}]}, Context()) == {
        "batchItemFailures": [{"itemIdentifier": record["messageId"]}]
    }


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), MemoryError(), RecursionError(), GeneratorExit()]
)
def test_task_cannot_leave_the_handler(lab: Lab, error: BaseException) -> None:
    """Whatever a task raises is its failure; its neighbours run and the handler answers."""

    def leave() -> None:
        raise error

    failed, fine = lab.task(leave, throws=()).delay(), lab.task(lambda: "fine", name="lab.fine").delay()
    assert lab.invoke() == []
    assert failed.state == "FAILURE"
    assert fine.get(timeout=0) == "fine"


def test_endless_recursion_is_a_failure(lab: Lab) -> None:
    """A task that recurses without end leaves a handler that can still answer."""

    def recurse() -> None:
        recurse_again()

    def recurse_again() -> None:
        recurse()

    result = lab.task(recurse).delay()
    assert lab.invoke() == []
    assert isinstance(result.result, RecursionError)


def test_outcomes_that_are_no_failures(lab: Lab) -> None:
    """Ignore acknowledges, Reject buries, Reject with requeue reports."""

    def ignore() -> None:
        raise Ignore

    def reject(requeue: bool) -> None:
        raise Reject("bad", requeue=requeue)

    lab.task(ignore).delay()
    reject_task = lab.task(reject)
    reject_task.delay(False)
    assert lab.invoke() == []
    assert [letter["MessageAttributes"]["reason"]["StringValue"] for letter in lab.dead_letters()] == ["rejected"]
    reject_task.delay(True)
    assert len(lab.invoke()) == 1


def test_async_tasks_of_a_batch_run_together(lab: Lab) -> None:
    """Coroutine tasks of one batch are all under way at the same time."""
    barrier: list[asyncio.Barrier] = []

    async def meet() -> str:
        if not barrier:
            barrier.append(asyncio.Barrier(5))
        await asyncio.wait_for(barrier[0].wait(), 20)
        return "met"

    task = lab.task(meet)
    results = [task.delay() for _ in range(5)]
    assert lab.invoke() == []
    assert [result.get(timeout=0) for result in results] == ["met"] * 5


def test_fair_queue_s_groups_run_together(lab: Lab) -> None:
    """Tenants of a fair queue have no order to keep."""
    barrier: list[asyncio.Barrier] = []

    async def meet() -> str:
        if not barrier:
            barrier.append(asyncio.Barrier(3))
        await asyncio.wait_for(barrier[0].wait(), 20)
        return "met"

    task = lab.task(meet)
    results = [task.apply_async(MessageGroupId="tenant") for _ in range(3)]
    assert lab.invoke() == []
    assert [result.get(timeout=0) for result in results] == ["met"] * 3


def test_soft_limit_interrupts_a_task(lab: Lab) -> None:
    """A task that blocks gets SoftTimeLimitExceeded at its limit, and may return what it has."""

    def slow() -> str:
        try:
            time.sleep(60)
        except SoftTimeLimitExceeded:
            return "cleaned up"
        return "slept"

    result = lab.task(slow, soft_time_limit=0.05).delay()
    assert lab.invoke() == []
    assert result.get(timeout=0) == "cleaned up"


def test_function_s_end_is_a_soft_limit(lab: Lab) -> None:
    """A task without a limit is interrupted while there is time to record and settle."""
    result = lab.task(lambda: time.sleep(60), name="lab.endless").delay()
    assert lab.invoke(context=Context(5)) == []
    assert isinstance(result.result, SoftTimeLimitExceeded)


def test_what_does_not_fit_the_time_left_goes_back_unstarted(lab: Lab) -> None:
    """The first task of a batch always starts; others that need more than is left are visible again at once."""
    started: list[int] = []
    results = [
        lab.task(started.append, name=f"lab.limited{number}", soft_time_limit=30).delay(number) for number in range(3)
    ]
    assert len(lab.invoke(context=Context(20))) == 2
    assert len(started) == 1
    assert lab.invoke(context=Context(60)) == []
    assert sorted(started) == [0, 1, 2]
    assert all(result.retries in (None, 0) for result in results)


def test_limits_over_the_function_s_timeout_are_told_once(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """A limit that the function cannot keep is an error in the log at the first invocation."""
    lab.task(lambda: None, name="lab.long", time_limit=900).delay()
    assert lab.invoke(context=Context(20)) == []
    complaints = [text for record in caplog.records if "the function ends" in (text := record.getMessage())]
    assert len(complaints) == 1
    assert "lab.long has time_limit=900" in complaints[0]
    caplog.clear()
    lab.app.tasks["lab.long"].delay()
    lab.invoke(context=Context(20))
    assert "the function ends" not in caplog.text


def test_limits_of_other_queues_tasks_are_no_complaint(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """A function says nothing of a task that goes to a queue with a function of its own."""
    lab.task(lambda: None, name="lab.elsewhere", queue="slow", time_limit=900)
    lab.task(lambda: None, name="lab.here").delay()
    assert lab.invoke(context=Context(20)) == []
    assert "the function ends" not in caplog.text


def test_message_settled_twice_in_a_batch_is_reported_if_either_stays(lab: Lab) -> None:
    """The same message twice in one event: its id is reported once, as long as one of both has to stay."""
    lab.task(lambda self: self.retry(countdown=9), bind=True, name="lab.retry").delay()
    [record] = lab.take()["Records"]
    answer = lab.worker({"Records": [record, record]}, Context())
    assert answer == {"batchItemFailures": [{"itemIdentifier": record["messageId"]}]}


def test_duplicate_delivery_repeats_nothing(lab: Lab) -> None:
    """A message delivered again after its outcome runs no code and is acknowledged."""
    runs = itertools.count()
    result = lab.task(lambda: next(runs), name="lab.count").delay()
    event = lab.take()
    assert lab.worker(event, Context()) == {"batchItemFailures": []}
    [record] = event["Records"]
    again = {**record, "attributes": {**record["attributes"], "ApproximateReceiveCount": "2"}}
    assert lab.worker({"Records": [again]}, Context()) == {"batchItemFailures": []}
    assert result.get(timeout=0) == 0
    assert next(runs) == 1


class TestFifo:
    """The order of message groups."""

    @pytest.fixture
    def fifo(self, make_lab: MakeLab) -> Lab:
        """An app with a FIFO queue."""
        return make_lab(fifo=True)

    def test_rest_of_a_group_goes_back_unstarted(self, fifo: Lab) -> None:
        """After a retry the rest of its group is returned, and other groups run on."""
        ran: list[str] = []

        def work(self: Any, name: str, retries: int = 0) -> None:
            if self.request.retries < retries:
                raise self.retry(countdown=0)
            ran.append(name)

        task = fifo.task(work, bind=True)
        for name, group, retries in (("a", "1", 0), ("b", "1", 1), ("c", "1", 0), ("d", "2", 0)):
            task.apply_async((name, retries), MessageGroupId=group)
        event = fifo.take()
        reported = fifo.invoke(event)
        rest = [record for record in event["Records"] if '["b"' in record["body"] or '["c"' in record["body"]]
        assert reported == [record["messageId"] for record in rest]
        assert ran == ["a", "d"]
        assert fifo.invoke() == []
        assert ran == ["a", "d", "b", "c"]

    def test_what_follows_a_batch_keeps_its_order(self, fifo: Lab) -> None:
        """Next steps of chains come in the order of the steps before them, though a batch sends them together."""
        first, ran = fifo.task(lambda number: number, name="lab.first"), list[int]()
        second = fifo.task(ran.append, name="lab.second")
        for number in range(14):
            chain(first.s(number), second.s()).apply_async()
        while (event := fifo.take())["Records"]:
            assert fifo.invoke(event) == []
        assert ran == list(range(14))

    def test_group_goes_on_after_a_dead_letter(self, fifo: Lab) -> None:
        """A task that failed for good is out of the queue, so nothing is held up by it."""
        ran: list[str] = []

        def work(name: str) -> None:
            if name == "a":
                raise ValueError(name)
            ran.append(name)

        task = fifo.task(work)
        for name in "ab":
            task.apply_async((name,), MessageGroupId="1")
        assert fifo.invoke() == []
        assert ran == ["b"]
        assert len(fifo.dead_letters()) == 1

    def test_unknown_head_holds_up_its_group(self, fifo: Lab) -> None:
        """What is handed back before it could start holds up its group as well."""
        ran: list[str] = []
        fifo.app.send_task("lab.of_the_next_release", MessageGroupId="1")
        fifo.task(lambda: ran.append("x"), name="lab.x").apply_async(MessageGroupId="1")
        assert len(fifo.invoke()) == 2
        assert not ran

    def test_coroutines_keep_the_order_of_their_group(self, fifo: Lab) -> None:
        """Coroutine tasks of one group run one after the other."""
        running: list[int] = []
        most: list[int] = []

        async def work(number: int) -> int:
            running.append(number)
            most.append(len(running))
            await asyncio.sleep(0)
            running.remove(number)
            return number

        task = fifo.task(work)
        results = [task.apply_async((number,), MessageGroupId="1") for number in range(3)]
        assert fifo.invoke() == []
        assert most == [1, 1, 1]
        assert [result.get(timeout=0) for result in results] == [0, 1, 2]


def test_long_release_is_cut_to_what_visibility_allows(lab: Lab) -> None:
    """The 12 hours count from the receipt."""
    lab.task(lambda: None, name="lab.x").delay()
    lab.worker.start()
    transport = LambdaTransport(lab.app.broker, lab.app.clock)  # type: ignore[arg-type]
    from dispatcher.brokers.base import Delivery

    delivery = Delivery("default", "", "r", attributes={"received_at": time.time() - 3600})
    longest = transport.longest_release(delivery)
    assert longest is not None
    assert longest == pytest.approx(43_200 - 30 - 3600, abs=5)


def test_executor_s_own_error_reports_what_is_not_settled(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """A bug of ours, here a backend that breaks its contract, reports everything it left open."""
    lab.task(lambda: 1, name="lab.one").delay()
    event = lab.take()
    lab.worker.start()

    class Broken(type(lab.app.backend)):  # type: ignore[misc]
        """A backend whose answer is no answer."""

        def _read(self, ids: Any) -> Any:
            raise ZeroDivisionError("a bug")

    lab.app.backend.__class__ = Broken
    with caplog.at_level(logging.CRITICAL):
        reported = lab.invoke(event)
    assert reported == [event["Records"][0]["messageId"]]
    assert "internal error" in caplog.text


def test_expired_messages_do_not_run(lab: Lab) -> None:
    """They are REVOKED, for whoever waits, and gone from the queue; lean tasks as well."""
    ran: list[int] = []
    expired = lab.task(ran.append, name="lab.note").apply_async((1,), expires=-1)
    lab.task(ran.append, name="lab.lean", ignore_result=True, revocable=False).apply_async((2,), expires=-1)
    timely = lab.app.tasks["lab.note"].apply_async((3,), expires=600)
    assert lab.invoke() == []
    with pytest.raises(TaskRevokedError, match="expired"):
        expired.get(timeout=0)
    assert (timely.get(timeout=0), ran) == (None, [3])
    assert lab.depth() == {"visible": 0, "in_flight": 0, "delayed": 0}


def test_a_lost_answer_of_sqs_leads_to_one_run(lab: Lab) -> None:
    """The client sends again what SQS has already: both messages have one task id, and one of them runs."""
    ran: list[int] = []
    task = lab.task(ran.append, name="lab.note")
    client = lab.app.broker._queues.client("")  # type: ignore[attr-defined]
    lost: list[str] = []

    def lose_the_answer(request: Any, **_: Any) -> None:
        if not lost:
            lost.append(request.url)
            sent = urllib.request.Request(request.url, request.body, dict(request.headers.items()))
            urllib.request.urlopen(sent).read()
            raise ConnectionClosedError(endpoint_url=request.url)

    client.meta.events.register("before-send.sqs.SendMessageBatch", lose_the_answer)
    try:
        result = task.delay(1)
    finally:
        client.meta.events.unregister("before-send.sqs.SendMessageBatch", lose_the_answer)
    event = lab.take()
    assert len(event["Records"]) == 2
    [twin] = lab.invoke(event)
    assert lab.invoke(until_visible(lab)) == []
    assert (result.get(timeout=0), ran) == (None, [1])
    assert twin in {record["messageId"] for record in event["Records"]}
