"""Rate limits in Celery's syntax."""

import pytest

from dispatcher import rates


@pytest.mark.parametrize(
    ("limit", "interval", "burst"),
    [
        (1, 1.0, 1), (0.5, 2.0, 1), ("10/s", 0.1, 1), ("100/m", 0.6, 1), ("1000/h", 3.6, 1), ("0.5/h", 7200.0, 1),
        ("20", 0.05, 2), (" 100 / s ", 0.01, 10), ("1000/s", 0.001, 100), ("7/s", 0.142857, 1), (1e6, 1e-6, 100_000),
    ],
)  # fmt: skip
def test_limits_are_read(limit: object, interval: float, burst: int) -> None:
    """Numbers are per second, texts name second, minute or hour; a tenth of a second's starts may come together."""
    assert rates.parse(limit) == rates.Rate(interval, burst)


@pytest.mark.parametrize("limit", [None, 0, 0.0, "0", "0/s", "0/m"])
def test_nothing_is_no_limit(limit: object) -> None:
    """As in Celery, zero does not stop a task."""
    assert rates.parse(limit) is None


@pytest.mark.parametrize(
    "limit", ["", "fast", "10/d", "10/", "/s", "10 per s", -1, "-1/s", "nan", "inf/s", True, [10], "2000000/s"]
)
def test_what_cannot_be_meant_is_an_error(limit: object) -> None:
    """Each names what was given and what belongs there."""
    with pytest.raises(ValueError, match=r"must be .*\d") as caught:
        rates.parse(limit)
    assert repr(limit) in str(caught.value)


def test_a_slot_lasts_a_minute_or_an_interval() -> None:
    """A slow limit waits for a late message as long as for its next slot."""
    lateness = []
    for limit in ("10/s", "1/h"):
        rate = rates.parse(limit)
        assert rate is not None
        lateness.append(rate.lateness)
    assert lateness == [60.0, 3600.0]
