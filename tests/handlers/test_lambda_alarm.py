"""The alarm of a batch keeps the limits of all its tasks, though it is set once."""

import signal
import time
from collections.abc import Iterator

import pytest

from dispatcher.exceptions import SoftTimeLimitExceeded
from dispatcher.lambda_runtime.alarm import BatchAlarm


@pytest.fixture
def alarm() -> Iterator[BatchAlarm]:
    """An alarm that rings in this process."""
    before = signal.getsignal(signal.SIGALRM)
    made = BatchAlarm()
    made.install()
    made.begin_batch()
    yield made
    made.end_batch()
    signal.signal(signal.SIGALRM, before)


def interrupted(alarm: BatchAlarm, limit: float) -> bool:
    """Run a task that only ends when it is interrupted."""
    alarm.start(limit, None, None)
    try:
        while True:
            time.sleep(1)
    except SoftTimeLimitExceeded:
        return alarm.stop()


def test_timer_is_set_once_for_tasks_with_one_end(alarm: BatchAlarm) -> None:
    """Tasks that must all end at the same time share one timer."""
    ends = time.monotonic() + 1000
    alarm.start(ends - time.monotonic(), None, None)
    alarm.stop()
    first = signal.getitimer(signal.ITIMER_REAL)[0]
    for _ in range(10):
        alarm.start(ends - time.monotonic(), None, None)
        alarm.stop()
    assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= first


def test_earlier_limit_sets_the_timer_again(alarm: BatchAlarm) -> None:
    """A task with less time than the one before is interrupted in time."""
    alarm.start(1000, None, None)
    alarm.stop()
    assert interrupted(alarm, 0.02)


def test_later_limit_survives_the_earlier_alarm(alarm: BatchAlarm) -> None:
    """An alarm that was set for an earlier task rings in vain, and is set again for the running one."""
    alarm.start(0.01, None, None)
    alarm.stop()
    started = time.monotonic()
    assert interrupted(alarm, 0.1)
    assert time.monotonic() - started >= 0.1 - 0.002


def test_alarm_between_tasks_interrupts_nobody(alarm: BatchAlarm) -> None:
    """What rings while no task runs is ignored."""
    alarm.start(0.01, None, None)
    assert not alarm.stop()
    signal.sigtimedwait([], 0.05)
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_timer_of_a_task_is_not_trusted_by_the_next_batch(alarm: BatchAlarm) -> None:
    """A task that uses the timer for itself does not cost the next batch its limits."""
    alarm.start(5, None, None)
    signal.setitimer(signal.ITIMER_REAL, 0)
    alarm.stop()
    alarm.begin_batch()
    assert interrupted(alarm, 0.02)


def test_batch_leaves_no_timer(alarm: BatchAlarm) -> None:
    """An environment that is frozen after its batch wakes up to no alarm."""
    alarm.start(1000, None, None)
    alarm.stop()
    alarm.end_batch()
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_no_limit_sets_no_timer(alarm: BatchAlarm) -> None:
    """A task without a limit costs nothing."""
    alarm.start(None, None, None)
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert not alarm.stop()
