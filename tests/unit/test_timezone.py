"""Naive datetimes are read in the zone of ``timezone``, wherever one may be given."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from dispatcher import Dispatcher
from dispatcher.clock import ManualClock
from dispatcher.execution.invocation import seconds_until
from dispatcher.message import Message, decode

NOON = datetime(2030, 7, 1, 12, tzinfo=UTC)


def _sent(timezone: Any, **options: Any) -> Message:
    clock = ManualClock(datetime(2030, 1, 1, tzinfo=UTC).timestamp())
    app = Dispatcher(
        "zones", broker="memory://zones", set_as_current=False, clock=clock, changes={"timezone": timezone}
    )
    with app:
        app.send_task("zones.task", **options)
        clock.advance(400 * 86_400)
        [delivery] = app.broker.receive(["default"], 1)
        return decode(delivery.body)


@pytest.mark.parametrize(
    ("zone", "hour"),
    [(None, 12), ("UTC", 12), ("Europe/Berlin", 14), (timezone(timedelta(hours=2)), 14)],
    ids=["unset", "utc", "name", "tzinfo"],
)
@pytest.mark.parametrize("option", ["eta", "expires"])
def test_naive_times_of_calls_are_in_the_zone(zone: Any, hour: int, option: str) -> None:
    """A naive eta or expiry, also as text, means the wall clock of the configured zone, UTC where none is."""
    naive = NOON.replace(hour=hour, tzinfo=None)
    for value in (naive, naive.isoformat()):
        assert getattr(_sent(zone, **{option: value}), option) == NOON.timestamp()


def test_aware_times_keep_their_own_zone() -> None:
    """The setting has no say in a datetime that names its zone."""
    assert _sent("Europe/Berlin", eta=NOON).eta == NOON.timestamp()


def test_naive_times_of_retries_are_in_the_zone() -> None:
    """self.retry(eta=…) reads the clock of the same zone."""
    naive = NOON.replace(hour=14, tzinfo=None)
    assert seconds_until(naive, NOON.timestamp() - 60, "Europe/Berlin") == 60.0


def test_now_is_in_the_zone() -> None:
    """app.now() tells the time in the configured zone, given by name or as a tzinfo."""
    for zone in ("Europe/Berlin", timezone(timedelta(hours=2))):
        app = Dispatcher("zones", set_as_current=False, clock=ManualClock(NOON.timestamp()), changes={"timezone": zone})
        assert app.now() == NOON
        assert app.now().utcoffset() == timedelta(hours=2)
