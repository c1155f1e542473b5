"""``dispatcher cost``: what the app costs on AWS, and what would make it cheaper."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dispatcher.cli.errors import OK, say_error
from dispatcher.cli.options import shown
from dispatcher.cli.session import Session
from dispatcher.cli.tables import console, show_table

if TYPE_CHECKING:
    from dispatcher.provision.cost import Estimate, Line, Use
    from dispatcher.provision.savings import Saving

_COST = """\b
Examples:
  dispatcher -A shop.tasks cost                                   a million calls of each task
  dispatcher -A shop.tasks cost --rate 1000/h --rate shop.tasks.mail=5/s
  dispatcher -A shop.tasks cost --rate 50/s --set duration=0.4 --set 'shop.tasks.mail:retries=0.02'
  aws logs tail /aws/lambda/shop-worker --since 1d > day.log; dispatcher -A shop.tasks cost --measured day.log

\b
What --set knows: duration (seconds of a run), together (messages of a send), retries, failures, joined (members of
chords), linked (another call follows), following (it follows another), payloads (arguments in the bucket), scheduled
(by EventBridge Scheduler), fired (by the beat), reads (polls of a result), body and record (bytes). All are means of
one call. TASK may be a pattern: 'shop.*'. Later options win.
"""


@click.command(epilog=_COST)
@click.option(
    "--rate",
    "rates",
    multiple=True,
    metavar="[TASK=]N/UNIT",
    help="Calls: a number per s, m, h, d or month. Without TASK: of all that the beat does not fire.",
)
@click.option("--set", "settings", multiple=True, metavar="[TASK:]NAME=VALUE", help="How calls are; see below.")
@click.option("--batch", "batches", multiple=True, metavar="[QUEUE=]N", help="Messages of a batch, if you know them.")
@click.option("--measured", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
              help="Log lines of workers, which tell rates, durations, retries, failures and batches.")  # fmt: skip
@click.option("--region", default="us-east-1", show_default=True, help="Whose prices.")
@click.option("--prices", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
              help="A JSON object of prices, above the table.")  # fmt: skip
@click.option("--stage", help="The stage of the plan.")
@click.option("--free-tier", is_flag=True, help="Take off what an account has free each month.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def cost(
    session: Session,
    rates: Sequence[str],
    settings: Sequence[str],
    batches: Sequence[str],
    measured: Path | None,
    region: str,
    prices: Path | None,
    stage: str | None,
    free_tier: bool,
    as_json: bool,
) -> int:
    """Estimate what each task and each month costs on AWS, and show what would be cheaper."""
    from dispatcher.beat.entries import entries
    from dispatcher.provision import measured as logs
    from dispatcher.provision import usage
    from dispatcher.provision.cost import Use, estimate
    from dispatcher.provision.plan import plan
    from dispatcher.provision.prices import FreeTier, Prices
    from dispatcher.provision.savings import savings

    app = session.app_with_modules()
    planned = plan(app, spec=session.spec, stage=stage)
    queues = {task.name: task.queue for task in planned.tasks}
    timed, now = [entry for entry in entries(app).values() if entry.enabled], datetime.now(UTC)
    firings = {entry.name: usage.firings(entry.schedule, now) for entry in timed}
    known = usage.of_entries(timed, firings)
    filled: dict[str, float] = {}
    if measured is not None:
        seen = logs.read(measured, queues)
        known, filled = usage.measured(known, seen.traffic), seen.filled
        for note in seen.notes:
            say_error(note)
    most = {queue.name: queue.function.batch_size for queue in planned.queues if queue.function}
    for text in batches:
        filled |= usage.batch(text, most)
    given = [*map(usage.rate, rates), *map(usage.setting, settings)]
    use = Use(
        planned,
        usage.traffic(list(queues), given, known),
        Prices.of(region) if prices is None else Prices.read(prices, region),
        {name: size for name, size in filled.items() if name in {queue.name for queue in planned.queues}},
        firings,
        FreeTier() if free_tier else None,
        metrics=app.conf.metrics_namespace is not None,
    )
    result, cheaper = estimate(use), savings(use)
    if as_json:
        click.echo(shown(_object(use, result, cheaper), indent=2))
    else:
        _print(use, result, cheaper)
    return OK


def _object(use: Use, result: Estimate, cheaper: Sequence[Saving]) -> dict[str, Any]:
    return {
        "region": use.prices.region,
        "prices": dataclasses.asdict(use.prices),
        "tasks": [
            {
                **dataclasses.asdict(line),
                "dollars_per_million": line.per_million.total,
                "dollars_per_month": line.per_month,
            }
            for line in result.lines
        ],
        "fixed": [dataclasses.asdict(each) for each in result.fixed],
        "dollars_per_month": result.per_month,
        "savings": [dataclasses.asdict(each) for each in cheaper],
    }


def _print(use: Use, result: Estimate, cheaper: Sequence[Saving]) -> None:
    busy = {line.task for line in result.lines if line.traffic.calls}
    show_table(
        ("task", "queue", "calls/month", "a batch", "SQS", "Lambda", "DynamoDB", "other", "$/million", "$/month"),
        [_row(line) for line in result.lines],
        text=2,
    )
    show_table(
        ("whether there is work or not", "$/month"), [(each.what, _dollars(each.dollars)) for each in result.fixed]
    )
    if cheaper:
        show_table(
            ("what would be cheaper", "where", "condition", "$/million less", "$/month less"),
            [(each.what, each.where, each.condition, "" if each.per_million is None else _dollars(each.per_million),
              _dollars(each.per_month) if each.per_million is None or each.where in busy else "–") for each in cheaper],
            text=3,
        )  # fmt: skip
    said = f"{_dollars(result.per_month)} dollars a month: list prices of {use.prices.region}, {use.prices.date}"
    console().print(said if use.free is None else f"{said}, less what is free")
    if not busy:
        console().print("No rate is known: --rate 1000/h, --rate TASK=5/s or --measured FILE make months of it.")


def _row(line: Line) -> tuple[str, ...]:
    parts = line.per_million
    other = parts.total - parts.sqs - parts.compute - parts.dynamodb
    calls, month = (f"{line.traffic.calls:,.0f}", _dollars(line.per_month)) if line.traffic.calls else ("–", "–")
    money = [_dollars(each) for each in (parts.sqs, parts.compute, parts.dynamodb, other, parts.total)]
    return (line.task, line.queue, calls, f"{line.filled:.1f}", *money, month)


def _dollars(value: float) -> str:
    return f"{value:,.2f}" if abs(value) >= 0.005 or abs(value) < 0.00005 else f"{value:.4f}"
