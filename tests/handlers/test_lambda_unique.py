"""Unique tasks in a Lambda worker: leases for the invocation, outcomes and locks in one transaction of DynamoDB."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dispatcher.backends import locks
from dispatcher.backends.locks import Lock
from tests.emulation.endpoint import AwsEndpoint
from tests.handlers.lab import Context, Lab


@pytest.fixture
def lab(aws_env: AwsEndpoint) -> Iterator[Lab]:
    """A queue, an app and a worker."""
    made = Lab(aws_env)
    yield made
    made.worker.close()


def lock_of(lab: Lab, task: Any, *args: Any) -> Lock:
    """Read the lock of a call."""
    return locks.read(lab.app.backend, task._uniqueness.key_of(args, {}))


def test_duplicates_are_one_message(lab: Lab) -> None:
    """Twenty calls, one message, one run; afterwards the key is free."""
    ran: list[int] = []
    task = lab.task(lambda x: ran.append(x) or x, name="lab.once", unique=True)
    results = [task.delay(7) for _ in range(20)]
    assert lab.depth()["visible"] == 1
    assert lab.invoke() == []
    assert [result.get(timeout=5) for result in results] == [7] * 20
    assert ran == [7]
    lock = lock_of(lab, task, 7)
    assert (lock.owner, lock.runner, lock.fence > 0) == ("", "", True)


def test_a_lease_lasts_as_long_as_the_invocation(lab: Lab) -> None:
    """Whatever becomes of the function, nobody else runs before it is over; and not for much longer."""
    left: list[float] = []
    task = lab.task(lambda: left.append(lock_of(lab, task).leased_until - time.time()), name="lab.look", unique=True)
    task.delay()
    lab.invoke(context=Context(200))
    assert 180 < left[0] <= 200


def test_a_key_that_runs_elsewhere_is_handed_back(lab: Lab) -> None:
    """Its message is reported and comes back soon; the rest of the batch runs. Then the other one is over."""
    task = lab.task(lambda x: x, name="lab.mutex", unique=lambda x: str(x % 2), unique_scope="running")
    held, free = task.delay(1), task.delay(2)
    now, lock = time.time(), lock_of(lab, task, 1)
    assert locks.swap(lab.app.backend, lock, lock.with_lease("other", "run", now + 600, now), now) is None
    event = lab.take()
    assert len(lab.invoke(event)) == 1
    assert free.get(timeout=5) == 2
    assert not held.ready()
    lock = lock_of(lab, task, 1)
    assert locks.swap(lab.app.backend, lock, lock.without_lease(now), now) is None
    take_again(lab, lambda: lab.depth()["visible"] == 1)
    assert lab.invoke() == []
    assert held.get(timeout=5) == 1


def take_again(lab: Lab, there: Callable[[], bool]) -> None:
    """Wait for what was handed back: a second or two."""
    deadline = time.monotonic() + 20
    while not there():
        assert time.monotonic() < deadline, "it does not come back"
        time.sleep(0.05)


def test_a_retry_keeps_the_claim(lab: Lab) -> None:
    """The next call while it waits is a duplicate, and gets what the retry returns."""
    tries: list[int] = []

    def flaky(self: Any) -> int:
        tries.append(self.request.retries)
        if len(tries) == 1:
            raise self.retry(countdown=0)
        return len(tries)

    task = lab.task(flaky, bind=True, unique=True)
    first = task.delay()
    assert len(lab.invoke()) == 1
    again = task.delay()
    assert (again.id, again.duplicate) == (first.id, True)
    assert lab.invoke() == []
    assert again.get(timeout=5) == 2


def test_an_outcome_of_a_run_that_lost_its_lease_is_refused(lab: Lab) -> None:
    """DynamoDB's transaction refuses it, and the message is reported."""

    def lose() -> None:
        now, lock = time.time(), lock_of(lab, task)
        assert locks.swap(lab.app.backend, lock, lock.with_lease("other", "run", now + 600, now), now) is None

    task = lab.task(lose, unique=True)
    result = task.delay()
    assert len(lab.invoke()) == 1
    assert result.state == "PENDING"
