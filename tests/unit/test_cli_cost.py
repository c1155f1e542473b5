"""``dispatcher cost``: tables, JSON and errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.test_cli import Cli, cli

__all__ = ["cli"]


@pytest.fixture
def shop(cli: Cli) -> Cli:
    """An app with a task on each of two queues, and one that the beat calls."""
    cli.name = cli.module(
        "from dispatcher import Dispatcher\n"
        "app = Dispatcher('shop', broker='sqs://', backend='dynamodb://shop', set_as_current=False)\n"
        "app.conf.beat_schedule = {'hourly': {'task': 'shop.tidy', 'schedule': 3600.0}}\n"
        "for name, queue in ('shop.charge', None), ('shop.mail', 'mail'), ('shop.tidy', None):\n"
        "    app.task(name=name, queue=queue)(lambda *given: given)\n"
    )
    return cli


def test_a_million_calls_without_any_rate(shop: Cli) -> None:
    """A line for each task; the beat's own calls are known."""
    said = shop("cost")
    assert said.code == 0
    charge, tidy, mail = [line.split() for line in said.out.splitlines() if line.strip().startswith("shop.")][:3]
    assert charge[:4] == ["shop.charge", "default", "–", "1.0"]
    assert tidy[2] == "730"
    assert mail[1] == "mail"
    assert "list prices of us-east-1, 2026-" in said.out


def test_rates_make_months(shop: Cli) -> None:
    """The JSON object has what the tables have, and the counts behind them."""
    said = shop("cost", "--rate", "shop.charge=1000/h", "--set", "duration=0.5", "--batch", "5", "--json")
    found = json.loads(said.out)
    charge = next(task for task in found["tasks"] if task["task"] == "shop.charge")
    assert charge["traffic"]["calls"] == pytest.approx(730_000)
    assert charge["demand"]["invocations"] == pytest.approx(0.2)
    assert charge["dollars_per_month"] == pytest.approx(charge["dollars_per_million"] * 0.73)
    assert found["dollars_per_month"] > charge["dollars_per_month"]
    assert {"what", "where", "condition", "per_month", "per_million"} == found["savings"][0].keys()
    assert "free tier" not in said.out
    assert "less what is free" in shop("cost", "--free-tier").out


def test_logs_are_measured(shop: Cli, tmp_path: Path) -> None:
    """A note goes to where errors go."""
    lines = [{"_aws": {"Timestamp": at}, "queue": "default", "BatchSize": 4, "TasksSucceeded": 4} for at in (0, 60_000)]
    (tmp_path / "day.log").write_text("\n".join(map(json.dumps, lines)))
    said = shop("cost", "--measured", str(tmp_path / "day.log"), "--json")
    assert "taken to be used alike" in said.err
    assert {task["filled"] for task in json.loads(said.out)["tasks"] if task["queue"] == "default"} == {4.0}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--region", "mars-1"), "no prices of region 'mars-1'"),
        (("--rate", "shop.charg=1/s"), "did you mean 'shop.charge'"),
        (("--set", "x=1"), "no 'x'"),
    ],
)
def test_what_cannot_be_meant_is_one_line_of_error(shop: Cli, arguments: tuple[str, ...], why: str) -> None:
    """And exit code 2."""
    said = shop("cost", *arguments)
    assert said.code == 2
    assert why in said.err
    assert len(said.err.splitlines()) == 1
