"""`app.schedules`: entries that are made, paused and removed while the app runs."""

from __future__ import annotations

import base64
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dispatcher.beat import stored
from dispatcher.exceptions import ImproperlyConfigured, MessageTooLarge
from dispatcher.execution.run import Kind
from dispatcher.schedules import BaseSchedule, crontab, schedule
from tests.unit.test_beat_firing import START, Beat
from tests.unit.test_beat_service import Beats

KEYS = {"signing_keys": {"k1": base64.b64encode(b"k" * 32).decode()}}


def test_an_entry_comes_back_as_it_was_put() -> None:
    """What is put is read again, by another process as well: the store has all of it."""
    beat = Beat()
    schedules = beat.app.schedules
    put = schedules.put(
        "mine", "shop.report", crontab(minute=5), [datetime(2027, 1, 1, tzinfo=UTC)], {"loud": True},
        options={"queue": "q", "expires": 60}, catch_up="all", catch_up_within=timedelta(hours=1),
    )  # fmt: skip
    found = schedules.get("mine")
    assert found == put
    assert found is not None
    assert (found.args, found.queue, found.within, found.dynamic) == (
        (datetime(2027, 1, 1, tzinfo=UTC),),
        "q",
        3600.0,
        True,
    )
    assert schedules.list() == {"mine": put}
    assert schedules.get("other") is None


def test_a_stored_entry_is_run_by_its_name() -> None:
    """A worker that never heard of an entry finds its task and arguments in the store."""
    beat = Beat()
    beat.app.schedules.put("mine", beat.app.tasks["shop.report"], 60, [7])
    beat.put({"v": 1, "beat": "mine", "at": "2027-01-15T08:00:00Z"})
    beat.work()
    assert beat.calls == [(7,)]


def test_a_local_beat_notices_changes() -> None:
    """An entry that is put, changed, paused, resumed or removed fires accordingly from the next look on."""
    beats = Beats()
    beat = beats.beat(max_interval=1)
    schedules = beats.app.schedules
    beats.run(beat, seconds=5)
    schedules.put("mine", "shop.report", 10)
    beats.run(beat, seconds=30)  # until 35
    assert beats.times() == [10, 20, 30]
    schedules.put("mine", "shop.report", schedule(20))
    beats.run(beat, seconds=30)  # until 65
    assert beats.times() == [40, 60]
    schedules.pause("mine")
    beats.run(beat, seconds=60)  # until 125
    assert beats.times() == []
    assert schedules.resume("mine").enabled
    beats.run(beat, seconds=30)  # until 155; what was due while it was paused is not missed
    assert beats.times() == [140]
    assert schedules.delete("mine")
    beats.run(beat, seconds=60)
    assert beats.times() == []
    assert not schedules.delete("mine")


def test_firings_of_a_paused_or_deleted_entry_start_nothing() -> None:
    """What is on its way when an entry is paused or removed is dropped, and is no dead letter."""
    beat = Beat()
    schedules = beat.app.schedules
    schedules.put("mine", "shop.report", 60)
    schedules.pause("mine")
    beat.put({"v": 1, "beat": "mine", "at": "2027-01-15T08:00:00Z"})
    assert beat.kinds(beat.work()) == [Kind.DROPPED]
    schedules.delete("mine")
    beat.put({"v": 1, "beat": "mine", "at": "2027-01-15T08:01:00Z"})
    assert beat.kinds(beat.work()) == [Kind.DROPPED]
    assert not beat.app.broker.dead_letters("default")
    schedules.put("mine", "shop.report", 60)
    beat.advance_to(START + timedelta(minutes=2))
    beat.put({"v": 1, "beat": "mine", "at": "2027-01-15T08:02:00Z"})
    beat.work()
    assert len(beat.calls) == 1


class Odd(BaseSchedule):
    """A schedule of one's own."""

    def next_after(self, moment: datetime) -> datetime | None:
        return None


@pytest.mark.parametrize(
    ("arguments", "more", "message"),
    [
        (("nightly", "shop.report", 60), {}, "is one of the app's own code"),
        (("mine", "shop.reprot", 60), {}, "did you mean 'shop.report'"),
        (("mine", "shop.report", "hourly"), {}, "is no schedule"),
        (("mine", "shop.report", Odd()), {}, "cannot be stored"),
        (("mine", "shop.report", crontab(nowfun=lambda: datetime.now(UTC))), {}, "its nowfun is a function"),
        (("mine", "shop.report", 60, [object()]), {}, "object"),
        (("mine", "shop.report", 60), {"options": {"que": 1}}, "did you mean 'queue'"),
        (("mine", "shop.report", 60), {"catch_up": "no"}, "'catch_up' must be one of"),
        (("mine", "shop.report", 60), {"options": {"expires": "2020-01-01T00:00:00Z"}}, "a moment in the past"),
        (("", "shop.report", 60), {}, "a name must be a text"),
    ],
)
def test_mistakes_are_named_before_anything_is_stored(
    arguments: tuple[Any, ...], more: dict[str, Any], message: str
) -> None:
    """What cannot work is refused when it is put, with the entry's name and the reason."""
    beat = Beat()
    with pytest.raises(ImproperlyConfigured) as raised:
        beat.app.schedules.put(*arguments, **more)
    assert message in str(raised.value)
    assert beat.app.schedules.list() == {}


@pytest.mark.parametrize("change", ["pause", "resume"])
def test_what_is_not_there_cannot_change(change: str) -> None:
    """Pausing an unknown entry is an error of the caller."""
    with pytest.raises(KeyError, match="no entry 'mine'"):
        getattr(Beat().app.schedules, change)("mine")


def test_an_entry_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that keeps no more than so much says so, and nothing is stored."""
    beat = Beat()
    monkeypatch.setattr(beat.app.backend, "max_data", 500)
    with pytest.raises(MessageTooLarge, match="the entry 'mine' has"):
        beat.app.schedules.put("mine", "shop.report", 60, ["x" * 500])
    assert beat.app.schedules.list() == {}


def test_with_signing_keys_entries_are_signed() -> None:
    """Who can write the store and has no key cannot have a task run with arguments of their choice."""
    beat = Beat(conf=KEYS)
    beat.app.schedules.put("mine", "shop.report", 60, ["ours"])
    beat.put({"v": 1, "beat": "mine", "at": "2027-01-15T08:00:00Z"})
    beat.work()
    assert beat.calls == [("ours",)]
    row = stored.Store(beat.app)._row("mine")
    backend: Any = beat.app.backend
    record = backend.read([row])[row]
    forged = stored._write(row, record.status, record, record.retries + 1, record.data.replace("ours", "evil"), 4e9)
    assert backend.write([forged]) == [None]
    beat.put({"v": 1, "beat": "mine", "at": "2027-01-15T08:01:00Z"})
    beat.clock.advance(60)
    beat.work()
    assert len(beat.calls) == 1
    [letter] = beat.app.broker.dead_letters("default")
    assert "was altered" in str(letter.reason)


def test_a_broken_stored_entry_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """A local beat leaves out what it cannot use, such as an entry of a task that is gone, and says so."""
    beats = Beats()
    schedules = beats.app.schedules
    schedules.put("good", "shop.report", 10)

    @beats.app.task(name="shop.gone")
    def gone() -> None: ...

    schedules.put("bad", "shop.gone", 10)
    beats.app.tasks.unregister("shop.gone")
    beats.run(beats.beat(max_interval=1), seconds=25)
    assert {firing.entry for firing in beats.fired()} == {"good"}
    assert "the stored entry bad fires no more" in caplog.text


def test_an_entry_of_a_task_that_is_gone_can_be_deleted(caplog: pytest.LogCaptureFixture) -> None:
    """It hides no other entry, and what of it is under way starts nothing."""
    beat = Beat()
    schedules = beat.app.schedules
    schedules.put("good", "shop.report", 60)
    beat.app.task(lambda: None, name="shop.gone")
    schedules.put("bad", "shop.gone", 60)
    beat.app.tasks.unregister("shop.gone")
    assert list(schedules.list()) == ["good"]
    assert "the stored entry 'bad' fires no more" in caplog.text
    assert schedules.delete("bad")
    assert schedules.get("bad") is None
    beat.put({"v": 1, "beat": "bad", "at": "2027-01-15T08:00:00Z"})
    assert beat.kinds(beat.work()) == [Kind.DROPPED]


def test_a_task_that_began_goes_on_when_its_entry_is_deleted() -> None:
    """Its firing may come again, after a crash; the entry is known for as long as records are."""
    beat = Beat()
    started: list[int] = []

    @beat.app.task(name="shop.fragile", bind=True)
    def fragile(this: Any) -> None:
        started.append(this.request.retries)
        if not this.request.retries:
            raise this.retry(countdown=5)

    beat.app.schedules.put("mine", "shop.fragile", 60)
    beat.put({"v": 1, "beat": "mine", "at": "2027-01-15T08:00:00Z"})
    beat.step()
    beat.app.broker.purge("default")  # as if the retry had been recorded, and not sent
    beat.app.schedules.delete("mine")
    beat.put({"v": 1, "beat": "mine", "at": "2027-01-15T08:00:00Z"})
    beat.work()
    assert started == [0, 1]


def test_entries_put_at_once_are_all_there() -> None:
    """Several who change entries at the same time lose nothing of each other's."""
    beat = Beat()
    schedules = beat.app.schedules

    def some(number: int) -> None:
        for each in range(5):
            schedules.put(f"entry-{number}-{each}", "shop.report", 60)

    threads = [threading.Thread(target=some, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(schedules.list()) == 20
