"""What an app costs: dollars from the plan, rates from options, schedules and logs, and what would be cheaper."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dispatcher import Dispatcher
from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.provision import measured, usage
from dispatcher.provision.cost import Use, estimate
from dispatcher.provision.demand import MONTH, Traffic
from dispatcher.provision.plan import Plan, PlannedSchedule, plan
from dispatcher.provision.prices import FreeTier, Prices
from dispatcher.provision.savings import savings
from dispatcher.schedules import crontab, schedule

US = Prices.of("us-east-1")
NOW = datetime(2026, 11, 22, tzinfo=UTC)


def shop(**function: Any) -> Plan:
    """A plan of two queues: one with a task that keeps its results, one with a lean task."""
    app = Dispatcher("shop", broker="sqs://", backend="dynamodb://shop", set_as_current=False)
    app.conf.infra = function
    app.task(name="shop.charge")(len)
    app.task(name="shop.mail", queue="mail", ignore_result=True, revocable=False)(len)
    return plan(app)


def test_a_million_calls_of_the_default_task() -> None:
    """Alone in its batch: three requests, an invocation, 115 ms of half a GB on arm64, a read and a write unit."""
    (line, _) = estimate(Use(shop(), {}, US)).lines
    assert (line.task, line.queue, line.filled) == ("shop.charge", "default", 1.0)
    assert line.per_million.sqs == pytest.approx(3 * 0.40)
    assert line.per_million.compute == pytest.approx(0.20 + 1e6 * 0.115 * 0.5 * 0.0000133334)
    assert line.per_million.dynamodb == pytest.approx(0.625 + 0.125, rel=0.06)  # and a month's storage of its record


def test_a_lean_task_in_full_batches_is_a_fraction_of_it() -> None:
    """Ten together, ten to a batch, no record."""
    use = Use(shop(), {"shop.mail": Traffic(together=10)}, US, {"mail": 10.0})
    (default, lean) = estimate(use).lines
    assert lean.per_million.dynamodb == 0.0
    assert lean.per_million.sqs == pytest.approx(0.12)
    assert lean.per_million.total < default.per_million.total / 3


def test_months_add_up() -> None:
    """Lines by their calls, and what is there without any: idle polls of both queues' mappings, and metrics."""
    result = estimate(Use(shop(), {"shop.charge": Traffic(calls=1e6)}, US))
    assert [each.what for each in result.fixed] == [
        "polls of default that find nothing", "polls of default-lost that find nothing", "5 metrics of default",
        "polls of mail that find nothing", "polls of mail-lost that find nothing", "10 alarms", "the dashboard",
    ]  # fmt: skip
    assert result.fixed[1].dollars == pytest.approx(5 * MONTH / 20 * 0.40 / 1e6)
    assert result.per_month == pytest.approx(result.lines[0].per_million.total + sum(f.dollars for f in result.fixed))


def test_the_free_tier_is_off_unless_asked_for() -> None:
    """A small app costs its table alone with it, and never less than nothing."""
    use = Use(shop(), {"shop.charge": Traffic(calls=10_000)}, US)
    free = estimate(dataclasses.replace(use, free=FreeTier()))
    assert free.fixed[-1].what == "free tier"
    assert 0.0 < free.per_month < estimate(use).per_month / 2


def test_windows_fill_batches() -> None:
    """At two a second a window of 4 s gathers nine messages; a batch never exceeds its size."""
    traffic = {"shop.charge": Traffic(calls=2 * MONTH)}
    assert estimate(Use(shop(batching_window=4), traffic, US)).lines[0].filled == pytest.approx(9.0)
    assert estimate(Use(shop(batching_window=20), traffic, US)).lines[0].filled == 10.0


def test_a_fifo_queue_has_its_own_price() -> None:
    """A quarter more for each request."""
    app = Dispatcher("shop", broker="sqs://", backend="dynamodb://shop", set_as_current=False)
    app.task(name="shop.charge", queue="orders.fifo")(len)
    assert estimate(Use(plan(app), {}, US)).lines[0].per_million.sqs == pytest.approx(1.50)


def test_savings_are_differences_of_estimates() -> None:
    """Each change is worth what the whole costs less after it; the greatest first."""
    use = Use(shop(architecture="x86_64", memory=1024), {"shop.charge": Traffic(calls=50 * MONTH)}, US)
    found = {(each.what, each.where): each for each in savings(use)}
    arm = found[("architecture arm64", "default")]
    other = shop(architecture="arm64", memory=1024)
    assert arm.per_month == pytest.approx(
        estimate(use).per_month - estimate(dataclasses.replace(use, plan=other)).per_month
    )
    assert ("memory 512 MiB", "default") in found
    assert ("batching_window 1 s", "default") in found
    assert ("batch_size 100, batching_window 2 s", "default") not in found
    assert ("metrics_namespace=None", "the app") in found
    lean = found[("ignore_result=True, revocable=False", "shop.charge")]
    assert lean.per_million is not None
    assert lean.per_month == pytest.approx(lean.per_million * 50 * MONTH / 1e6)
    assert [each.per_month for each in savings(use)] == sorted((e.per_month for e in found.values()), reverse=True)


@pytest.mark.parametrize("traffic", [Traffic(calls=1e6, joined=1.0), Traffic(calls=1e6, reads=2.0)])
def test_results_that_are_read_are_not_to_be_ignored(traffic: Traffic) -> None:
    """Of members of chords, and of calls whose results somebody gets."""
    whats = {each.what for each in savings(Use(shop(), {"shop.charge": traffic}, US)) if each.where == "shop.charge"}
    assert "ignore_result=True, revocable=False" not in whats


def test_a_region_without_prices_is_refused() -> None:
    """With the regions there are, and what to do."""
    with pytest.raises(ImproperlyConfigured, match=r"no prices of region 'mars-1'.*us-east-1.*--prices FILE"):
        Prices.of("mars-1")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[]", "an object of prices is wanted"),
        ("{", "no prices can be read"),
        ('{"sqs": 1}', "'sqs' is no price; there are alarm, dashboard"),
        ('{"logs": "dear"}', "logs must be a number of dollars, not 'dear'"),
        ('{"logs": Infinity}', "logs must be a number of dollars, not inf"),
        ('{"date": 5}', "date must be a text such as .*, not 5"),
        ('{"logs": 1}', "has no region 'mars-1', so alarm is missing"),
    ],
)
def test_files_of_prices_that_cannot_be_meant_are_refused(tmp_path: Path, text: str, why: str) -> None:
    """Naming the file and what is wrong."""
    (tmp_path / "prices.json").write_text(text)
    with pytest.raises(ImproperlyConfigured, match=rf"prices\.json: .*{why}"):
        Prices.read(tmp_path / "prices.json", "mars-1")


def test_a_file_of_prices_stands_above_the_table(tmp_path: Path) -> None:
    """What it leaves out is the region's."""
    (tmp_path / "mine.json").write_text('{"logs": 0.1, "date": "2027-01-01"}')
    prices = Prices.read(tmp_path / "mine.json", "us-east-1")
    assert (prices.logs, prices.sqs_fifo, prices.date) == (0.1, 0.50, "2027-01-01")


def test_rates_and_settings_are_read() -> None:
    """For one task, for those of a pattern, for all; later ones win."""
    given = [usage.rate("1000/h"), usage.rate("shop.m*=2/s"), usage.setting("shop.mail:duration=0.5")]
    given += [usage.setting("retries=0.1"), usage.setting("shop.mail:body=2000")]
    traffic = usage.traffic(["shop.charge", "shop.mail"], given, {"shop.charge": {"duration": 3.0}})
    assert traffic["shop.charge"] == Traffic(calls=pytest.approx(730_000), duration=3.0, retries=0.1)
    assert traffic["shop.mail"] == Traffic(calls=2 * MONTH, duration=0.5, retries=0.1, body=2000)


@pytest.mark.parametrize(
    ("read", "text", "why"),
    [
        (usage.rate, "9" * 400 + "/s", "is no rate"),
        (usage.rate, "10", "'10' is no rate; write .*tasks.add=1000/h"),
        (usage.rate, "=5/s", "'=5/s' is no rate"),
        (usage.setting, ":duration=1", "':duration=1' says nothing"),
        (usage.rate, "a=10/y", "units are s, m, h, d, month"),
        (usage.setting, "duration", "says nothing"),
        (usage.setting, "durtion=1", "no 'durtion', did you mean 'duration'"),
        (usage.setting, "calls=1", "--rate is for calls"),
        (usage.setting, "duration=long", "'long' is no number"),
        (usage.setting, "failures=2", "failures must be from 0 to 1"),
        (usage.setting, "duration=1000", "duration must be from 0 to 900"),
        (usage.setting, "body=5000000", "body must be from 0 to 1,048,576"),
        (usage.setting, "together=0", "together must be 1 or more"),
        (
            lambda text: usage.batch(text, {"default": 10}),
            "mail=3",
            "no queue 'mail' that a function reads; there are default",
        ),
        (lambda text: usage.batch(text, {"default": 10}), "=3", "no queue ''"),
        (lambda text: usage.batch(text, {"default": 10}), "default=0", "one message or more"),
        (lambda text: usage.batch(text, {"default": 10}), "default=11", "batches of default have 10 messages at most"),
        (lambda text: usage.batch(text, {"default": 10, "bulk": 100}), "50", "batches of default have 10 messages"),
        (
            lambda text: usage.traffic(["a"], [usage.rate(text)], {"a": {"fired": 1.0}}),
            "1/s",
            "the beat fires every task",
        ),
        (lambda text: usage.traffic(["tasks.add"], [usage.rate(text)]), "tasks.ad=1/s", "did you mean 'tasks.add'"),
    ],
)
def test_what_cannot_be_meant_is_refused(read: Any, text: str, why: str) -> None:
    """With what is wrong and what there is."""
    with pytest.raises(ImproperlyConfigured, match=why):
        read(text)


def test_the_beat_s_calls_of_lean_tasks_have_records() -> None:
    """A firing is known by its record, whatever its task keeps; calls beside the beat's are lean."""
    entry = SimpleNamespace(name="hourly", task="shop.mail")
    known = usage.of_entries([entry], {"hourly": 730.0})
    alone = usage.traffic(["shop.mail"], [], known)
    (_, line) = estimate(Use(shop(), alone, US)).lines
    assert (line.demand.writes, line.demand.reads) == (1.0, 1.0)
    among = usage.traffic(["shop.mail"], [usage.rate("shop.mail=2/h")], known)
    (_, line) = estimate(Use(shop(), among, US)).lines
    assert (line.demand.writes, line.demand.reads) == (0.5, 0.5)


def test_a_rate_without_a_task_leaves_the_beat_s_alone() -> None:
    """Their schedules say how often they run; a pattern means them all the same."""
    known = usage.of_entries([SimpleNamespace(name="hourly", task="shop.mail")], {"hourly": 730.0})
    tasks = ["shop.charge", "shop.mail"]
    traffic = usage.traffic(tasks, [usage.rate("5/s"), usage.setting("duration=0.2")], known)
    assert {name: round(each.calls) for name, each in traffic.items()} == {"shop.charge": 5 * MONTH, "shop.mail": 730}
    assert {each.duration for each in traffic.values()} == {0.2}
    assert usage.traffic(tasks, [usage.rate("*=5/s")], known)["shop.mail"].calls == 5 * MONTH


def test_the_beat_s_calls_are_a_part_of_what_was_measured() -> None:
    """So many of the calls seen are firings, which have records."""
    known = usage.of_entries([SimpleNamespace(name="hourly", task="shop.mail")], {"hourly": 730.0})
    seen = usage.measured(known, {"shop.mail": {"calls": 1460.0, "duration": 2.0}, "shop.charge": {"calls": 5.0}})
    assert seen["shop.mail"] == {"calls": 1460.0, "duration": 2.0, "fired": 0.5}
    assert seen["shop.charge"] == {"calls": 5.0}
    assert usage.measured(known, {"shop.mail": {"calls": 0.0}})["shop.mail"]["fired"] == 0.0


def test_schedules_of_eventbridge_scheduler_are_paid_for_each_firing() -> None:
    """Those of rules are not."""
    timers = [
        PlannedSchedule(entry, "shop.mail", "mail", kind, "rate(1 minute)")
        for entry, kind in (("a", "rule"), ("b", "scheduler"))
    ]
    use = Use(dataclasses.replace(shop(), schedules=tuple(timers)), {}, US, firings={"a": 1e6, "b": 1e6})
    assert [each.dollars for each in estimate(use).fixed if "firings" in each.what] == [1.0]


def test_a_queue_of_other_people_s_workers_costs_no_lambda() -> None:
    """Its lost messages have a function all the same."""
    use = Use(shop(queues={"mail": {"function": False}}), {"shop.mail": Traffic(calls=1e6)}, US)
    result = estimate(use)
    assert result.lines[1].per_million.compute == 0.0
    assert [each.what for each in result.fixed if "mail" in each.what] == ["polls of mail-lost that find nothing"]
    assert all(each.where != "mail" for each in savings(use))


def test_busy_queues_may_have_larger_batches() -> None:
    """Where so many arrive in a second, and fit half the timeout."""
    use = Use(shop(), {"shop.mail": Traffic(calls=200 * MONTH, duration=0.01)}, US, {"mail": 10.0})
    whats = {each.what for each in savings(use) if each.where == "mail"}
    assert "batch_size 100, batching_window 1 s" in whats
    slow = dataclasses.replace(use, traffic={"shop.mail": Traffic(calls=200 * MONTH, duration=2.0)})
    assert not any(each.what.startswith("batch_size") for each in savings(slow))


@pytest.mark.parametrize(
    ("every", "times"),
    [
        (schedule(60.0), MONTH / 60),
        (crontab(hour=3, minute=0), MONTH / 86_400),
        (crontab(0, 0, day_of_month=1), 12 / 12),
    ],
)
def test_the_beat_s_entries_are_calls(every: Any, times: float) -> None:
    """As often as their schedules fire in a month."""
    assert usage.firings(every, NOW) == pytest.approx(times, rel=0.01)


def _metrics(second: int, **values: Any) -> str:
    return json.dumps({"_aws": {"Timestamp": 1_000_000 + second * 1000}, "service": "shop", **values})


def _outcome(second: int, task: str, outcome: str) -> str:
    at = f"1970-01-01 00:16:{40 + second},000+0000"
    return json.dumps({"logger": "dispatcher.task.outcome", "timestamp": at, "task": task, "outcome": outcome,
                       "duration": 2.0})  # fmt: skip


def test_logs_tell_of_queues(tmp_path: Path) -> None:
    """Metrics of batches: how full, how long, how many; lines of others and what stands before a line are left out."""
    first = {"BatchSize": 4, "TasksSucceeded": 2, "TasksFailed": 1, "TasksRetried": 1, "TaskDuration": [100, 300]}
    lines = [
        _metrics(0, queue="default", **first),
        "2026-11-22T10:00:00 stream " + _metrics(10, queue="default", BatchSize=2, TasksSucceeded=2),
        "START RequestId", "{", "[1]",
    ]  # fmt: skip
    (tmp_path / "day.log").write_text("\n".join(lines))
    seen = measured.read(tmp_path / "day.log", {"shop.charge": "default"})
    assert (seen.seconds, seen.filled, seen.notes) == (10.0, {"default": 3.0}, [])
    assert seen.traffic["shop.charge"] == pytest.approx(
        {"calls": 5 / 10 * MONTH, "duration": 0.2, "failures": 0.2, "retries": 0.2}
    )


def test_tasks_of_a_queue_are_told_apart_by_their_outcomes(tmp_path: Path) -> None:
    """Where all of them are logged; otherwise they are taken to be alike, which a note says."""
    tasks = {"shop.charge": "default", "shop.mail": "default"}
    batch = _metrics(0, queue="default", BatchSize=3, TasksSucceeded=2, TasksFailed=1)
    ends = [_outcome(0, "shop.charge", "success"), _outcome(1, "shop.charge", "retry")]
    ends += [_outcome(2, "shop.charge", "success"), _outcome(10, "shop.mail", "failure")]
    document = {"events": [{"message": line} for line in (batch, *ends)]}
    (tmp_path / "day.json").write_text(json.dumps(document))
    seen = measured.read(tmp_path / "day.json", tasks)
    assert seen.traffic["shop.charge"] == pytest.approx(
        {"calls": 2 / 10 * MONTH, "duration": 2.0, "failures": 0.0, "retries": 0.5}
    )
    assert seen.traffic["shop.mail"]["failures"] == 1.0
    (tmp_path / "day.json").write_text("\n".join((batch, ends[-1])))
    alike = measured.read(tmp_path / "day.json", tasks)
    assert alike.traffic["shop.charge"] == alike.traffic["shop.mail"]
    assert "2 tasks of default are taken to be used alike" in alike.notes[0]


def test_logs_without_anything_are_refused(tmp_path: Path) -> None:
    """With what would have been read."""
    (tmp_path / "day.log").write_text("START\n")
    with pytest.raises(ImproperlyConfigured, match=r"no two log lines of workers.*metrics_namespace"):
        measured.read(tmp_path / "day.log", {})
