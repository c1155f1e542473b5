"""Retries that take weeks on SQS, to their end: every message and row that AWS would drop on the way is dropped."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from dispatcher import signals
from dispatcher.exceptions import WorkerLostError
from dispatcher.message import decode
from tests.fault.simulated_aws import DAY, MakeAws, SimulatedAws

HOUR = 3600.0
#: ``DISPATCHER_TEST_TIMES`` multiplies the attempts of endless retries.
TIMES = int(os.environ.get("DISPATCHER_TEST_TIMES", "1"))


class Journal:
    """What a task saw of each of its runs: when, the retries it was told, its arguments, and the record."""

    def __init__(self, aws: SimulatedAws) -> None:
        self.aws = aws
        self.times: list[float] = []
        self.retries: list[int] = []
        self.args: list[Any] = []
        self._seen = 0

    def grown(self) -> bool:
        """Say whether there was another run since this was last true."""
        grown, self._seen = len(self.times) > self._seen, len(self.times)
        return grown

    def note(self, task: Any, *args: Any) -> None:
        """Note a run; the record must say what has been so far, and a retry may not be early."""
        request, now = task.request, self.aws.clock.time()
        record = self.aws.record(request.id)
        if record is not None:
            assert (record.status, record.retries, record.final) == ("RETRY", request.retries, False)
            assert record.not_before is None or record.not_before <= now
        assert request.retries == len(self.times)
        self.times.append(now)
        self.retries.append(request.retries)
        self.args.append(args)

    @property
    def gaps(self) -> list[float]:
        """The seconds between runs."""
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


HOW: dict[str, Callable[[Any, float], dict[str, Any]]] = {
    "default_retry_delay": lambda task, delay: {},
    "countdown": lambda task, delay: {"countdown": delay},
    "eta": lambda task, delay: {"eta": datetime.fromtimestamp(task.app.clock.time() + delay, UTC)},
    "arguments": lambda task, delay: {"args": (task.request.args[0] + 1,)},
}


@pytest.mark.parametrize(
    ("delay", "how"),
    [
        (10 * HOUR, "default_retry_delay"), (10 * HOUR, "arguments"),
        (24 * HOUR, "countdown"), (24 * HOUR, "eta"),
    ],
)  # fmt: skip
def test_sixty_long_retries_come_to_their_end(make_aws: MakeAws, delay: float, how: str) -> None:
    """A class-based task is run 61 times over 25 or 60 days; only its failure is a dead letter, and that runs again."""
    aws = make_aws()
    journal = Journal(aws)
    mended: list[bool] = []

    class Sync(aws.app.Task):  # type: ignore[misc, name-defined]
        name = "sync"
        max_retries = 60
        default_retry_delay = delay

        def run(self, page: int) -> str:
            if mended:
                return f"{self.request.retries} retries"
            journal.note(self, page)
            raise self.retry(exc=ValueError(f"page {page}"), **HOW[how](self, delay))

    result = aws.app.register_task(Sync()).delay(0)
    while not result.ready():
        aws.work(until=journal.grown)
        if not result.ready():
            record = aws.record(result.id)
            assert (record.status, record.retries) == ("RETRY", len(journal.times))
            assert not aws.dead
    assert journal.retries == list(range(61))
    assert journal.args == [(n if how == "arguments" else 0,) for n in range(61)]
    assert all(delay <= gap <= delay + 2 for gap in journal.gaps)
    assert (result.state, result.retries) == ("FAILURE", 60)
    [letter] = aws.dead
    attributes = {name: value["StringValue"] for name, value in letter.message_attributes.items()}
    assert attributes.pop("traceback").endswith(f"ValueError: page {journal.args[-1][0]}\n")
    assert attributes == {
        "reason": "failed", "task": "sync", "task_id": result.id, "retries": "60",
        "exception": f"ValueError: page {journal.args[-1][0]}",
    }  # fmt: skip
    aws.work()
    aws.clock.advance(10 * DAY)
    mended.append(True)
    aws.sqs.send_message(QueueUrl=aws.url, MessageBody=letter.body)
    aws.work()
    assert aws.app.AsyncResult(result.id).get(timeout=1) == "0 retries"


def test_backoff_over_weeks(make_aws: MakeAws) -> None:
    """Automatic retries wait 1, 2, 4 … hours up to the maximum, or less with jitter; what is excepted fails at once."""
    aws = make_aws(result_expires=60 * DAY)
    steady, jittered = Journal(aws), Journal(aws)
    options: dict[str, Any] = {
        "bind": True, "autoretry_for": (OSError,), "dont_autoretry_for": (FileNotFoundError,), "max_retries": 12,
        "retry_backoff": HOUR, "retry_backoff_max": 40 * HOUR,
    }  # fmt: skip

    @aws.app.task(name="steady", retry_jitter=False, **options)
    def fetch(self: Any) -> None:
        steady.note(self)
        raise TimeoutError("no answer")

    @aws.app.task(name="jittered", **options)
    def fetch_soon(self: Any) -> str:
        jittered.note(self)
        if self.request.retries < 12:
            raise TimeoutError("no answer")
        return "done"

    @aws.app.task(name="excepted", **options)
    def excepted(self: Any) -> None:
        raise FileNotFoundError("gone")

    failed, done, gone = fetch.delay(), fetch_soon.delay(), excepted.delay()
    aws.work()
    ceilings = [min(40.0, 2.0**n) * HOUR for n in range(12)]
    assert all(ceiling <= gap <= ceiling + 2 for gap, ceiling in zip(steady.gaps, ceilings, strict=True))
    assert all(gap <= ceiling + 2 for gap, ceiling in zip(jittered.gaps, ceilings, strict=True))
    assert (failed.retries, done.get(timeout=1), gone.retries) == (12, "done", 0)
    assert [failed.state, gone.state] == ["FAILURE", "FAILURE"]
    assert {letter.message_attributes["task"]["StringValue"] for letter in aws.dead} == {"steady", "excepted"}


def test_batches_that_are_delivered_twice(make_aws: MakeAws) -> None:
    """Every delivery has a double: no retry is counted twice, nothing is published or buried twice."""
    aws = make_aws(result_expires=None)
    aws.deliveries = 2
    journals = {how: Journal(aws) for how in HOW}

    @aws.app.task(name="doubled", bind=True, max_retries=6, default_retry_delay=10 * HOUR)
    def doubled(self: Any, page: int, how: str) -> None:
        journals[how].note(self, page)
        options = HOW[how](self, 10 * HOUR)
        if "args" in options:
            options["args"] = (*options["args"], how)
        self.retry(exc=ValueError(how), **options)

    results = [doubled.delay(0, how) for how in HOW]
    aws.work()
    assert all(journal.retries == list(range(7)) for journal in journals.values())
    assert journals["arguments"].args == [(page,) for page in range(7)]
    assert [(result.state, result.retries) for result in results] == [("FAILURE", 6)] * len(HOW)
    assert sorted(letter.message_attributes["exception"]["StringValue"] for letter in aws.dead) == sorted(
        f"ValueError: {how}" for how in HOW
    )


@pytest.mark.timeout(120 * TIMES)
def test_retries_without_end(make_aws: MakeAws) -> None:
    """``max_retries=None``: five times more attempts than the queue gives receipts, none lost, none given up."""
    aws, attempts = make_aws(receives=16), 80 * TIMES
    journal = Journal(aws)
    followed: list[int] = []

    @aws.app.task(name="follow")
    def follow(value: int) -> None:
        followed.append(value)

    @aws.app.task(name="endless", bind=True, max_retries=None, default_retry_delay=HOUR)
    def endless(self: Any) -> int:
        journal.note(self)
        return self.request.retries if self.request.retries == attempts else self.retry()  # type: ignore[no-any-return]

    result = endless.apply_async(link=follow.s())
    aws.work(steps=attempts * 5)
    assert (result.get(timeout=1), result.retries, followed) == (attempts, attempts, [attempts])
    assert not aws.dead


def test_an_hour_without_the_table(make_aws: MakeAws) -> None:
    """While no record can be read or written nothing runs twice, nothing is lost, and no receipt is the last."""
    aws = make_aws(receives=100)
    runs: list[int] = []

    @aws.app.task(name="work", bind=True, max_retries=1, default_retry_delay=60)
    def work(self: Any, number: int) -> int:
        runs.append(number)
        if number == 2 and not self.request.retries:
            self.retry()
        if number == 3 and runs.count(3) == 1:
            aws.database_away = True  # its outcome, and those of its batch, cannot be written
        return number

    results = [work.delay(number) for number in range(4)]
    aws.step()
    assert aws.database_away
    ran, end = len(runs), aws.clock.time() + HOUR
    aws.work(until=lambda: aws.clock.time() >= end)
    assert len(runs) == ran
    aws.database_away = False
    aws.work()
    assert [result.get(timeout=1) for result in results] == list(range(4))
    assert not aws.dead
    assert len(runs) <= 5 + 5  # those of the batch whose outcomes were lost, each once more


def test_batches_of_long_tasks_are_handed_back_for_days(make_aws: MakeAws) -> None:
    """Of ten messages of a batch one fits: the others go back again and again, past the retention, and all run once."""
    aws = make_aws(retention=DAY, receives=20, result_expires=10 * DAY)
    runs: list[int] = []

    @aws.app.task(name="long", soft_time_limit=840)
    def long(number: int) -> int:
        runs.append(number)
        aws.clock.advance(840)
        return number

    results = aws.app.send_many([long.s(number) for number in range(120)])
    begin = aws.clock.time()

    def stirred() -> bool:
        aws.rotate()
        if aws.worker._environment is not None:  # the executor's own measure is of real time, of which none passes
            aws.worker._environment._env.durations["long"] = 10_000.0
        return False

    aws.worker.start()
    aws.work(until=lambda: stirred() or not aws.messages)
    assert aws.clock.time() - begin > 1.1 * DAY
    assert sorted(runs) == list(range(120))
    assert all(result.successful() for result in results)
    assert not aws.dead


def test_retries_are_not_swallowed_by_deduplication(make_aws: MakeAws) -> None:
    """On a FIFO queue: retries in their place, retries with other arguments, at once and renewed ones all run."""
    aws = make_aws(fifo=True, receives=10)
    journal, seen = Journal(aws), []

    @aws.app.task(name="place", bind=True, max_retries=40, default_retry_delay=20)
    def place(self: Any) -> int:
        journal.note(self)
        return self.request.retries if self.request.retries == 40 else self.retry()  # type: ignore[no-any-return]

    @aws.app.task(name="pages", bind=True, max_retries=None)
    def pages(self: Any, page: int) -> int:
        seen.append(page)
        return page if page == 30 else self.retry(args=(page + 1,), countdown=0)  # type: ignore[no-any-return]

    first = place.apply_async(MessageGroupId="a")
    second = pages.apply_async((0,), MessageGroupId="b")
    aws.work()
    assert (first.get(timeout=1), second.get(timeout=1), seen) == (40, 30, list(range(31)))
    assert not aws.swallowed
    assert not aws.dead


def test_a_hand_over_that_is_repeated_is_not_swallowed(make_aws: MakeAws) -> None:
    """The record of a hand-over cannot be written: the attempt runs again at once, and so does what it publishes."""
    aws = make_aws(fifo=True)
    seen: list[int] = []

    @aws.app.task(name="pages", bind=True)
    def pages(self: Any, page: int) -> int:
        seen.append(page)
        aws.database_away = len(seen) == 1
        return page or self.retry(args=(len(seen),), countdown=0)  # type: ignore[no-any-return]

    result = pages.delay(0)
    aws.work(until=lambda: aws.database_away)
    aws.database_away = False
    aws.work()
    assert (result.get(timeout=1), seen) == (2, [0, 0, 2])
    assert not aws.swallowed
    assert not aws.dead


def test_a_task_that_runs_once_is_not_taken_for_lost_too_soon(make_aws: MakeAws) -> None:
    """With acks_late=False a second delivery waits for the end of the invocation; then the run counts as lost."""
    aws = make_aws()
    runs: list[int] = []

    @aws.app.task(name="once", acks_late=False)
    def once() -> None:
        runs.append(1)
        aws.database_away = True  # as if it had died: its outcome is never known

    result = once.delay()
    aws.work(until=lambda: aws.database_away)
    aws.database_away = False
    begin = aws.clock.time()
    aws.work()
    assert aws.clock.time() - begin > 700
    with pytest.raises(WorkerLostError, match="acks_late=False"):
        result.get(timeout=1)
    assert runs == [1]
    assert [decode(letter.body).gen for letter in aws.dead] == [1]


def test_signals_of_a_long_retry(make_aws: MakeAws) -> None:
    """Signals and hooks tell of each run and each retry once, however often the message was received in between."""
    aws = make_aws()
    told: list[str] = []

    class Patient(aws.app.Task):  # type: ignore[misc, name-defined]
        name = "patient"
        max_retries = 2
        default_retry_delay = 3 * DAY

        def run(self) -> str:
            if self.request.retries < 2:
                self.retry()
            return "done"

        def on_retry(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            told.append("on_retry")

    task = aws.app.register_task(Patient())

    def note(name: str) -> Callable[..., None]:
        def receive(**more: Any) -> None:
            told.append(name)

        signals.__dict__[name].connect(receive, sender=task, weak=False)
        return receive

    kept = [note(name) for name in ("task_prerun", "task_retry", "task_success")]
    result = task.delay()
    aws.work()
    assert (result.get(timeout=1), len(kept)) == ("done", 3)
    assert told == [*["task_prerun", "on_retry", "task_retry"] * 2, "task_prerun", "task_success"]
