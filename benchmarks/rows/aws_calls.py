"""How many AWS calls a task is, and the capacity units it takes, in Lambda."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.rows import sqs
from benchmarks.rows.row import OURS, Bar, Row, Sample
from tests.emulation.endpoint import AwsEndpoint

_TABLE: Final = "calls"
_METHOD: Final = (
    "Counted by the emulator's endpoint, whoever calls it, and not timed: all tasks are sent by one call, then "
    "the Lambda handler works them off in batches of ten; the event source mapping's own receipts and deletions are "
    "included, its empty last one too. "
)


def _row(name: str, kind: str, title: str, about: str, settings: str, *bars: Bar, peers: tuple[str, ...] = ()) -> Row:
    """Return the row about one kind of tasks; peers take part as they do in the row `sqs`."""

    def measure(bench: Bench, contender: str) -> Sample:
        return sqs.measure(bench, contender) if contender in peers else _count(bench, kind)

    def describe(bench: Bench, contender: str) -> dict[str, Any]:
        if contender in peers:
            return sqs.describe(bench, contender)
        return {"versions": {}, "settings": settings, "on_kill": "received again after the visibility timeout"}

    return Row(
        name=name,
        title=title,
        unit="calls",
        better="lower",
        method=f"{_METHOD}{about}",
        contenders=(OURS, *peers),
        bars=bars,
        measure=measure,
        describe=describe,
        exact=True,
        budget=25.0,
    )


def _count(bench: Bench, kind: str) -> Sample:
    """Send tasks to an emulator of their own, and work them off in the Lambda handler."""
    count = bench.scale.chord
    with AwsEndpoint() as aws:
        aws.create_table(_TABLE, sort_key="sk")
        url = aws.create_queue("default", visibility_timeout=900)
        variables = {**aws.env(), "DISPATCHER_QUEUE_URL_DEFAULT": url}
        before = aws.calls()
        bench.python(["-m", "benchmarks.handlers.calls", "send", kind, str(count)], **variables)
        sent = aws.calls() - before
        units = bench.python(["-m", "benchmarks.handlers.calls", "work"], **variables)
        worked = aws.calls() - before - sent
    details = {
        "of sending": sent.total() / count,
        "of SQS else": sum(n for name, n in worked.items() if name.startswith("AmazonSQS.")) / count,
        "of DynamoDB": sum(n for name, n in worked.items() if name.startswith("DynamoDB")) / count,
        "write units": units["write_units"] / count,
        "read units": units["read_units"] / count,
    }
    return Sample((sent.total() + worked.total()) / count, details)


RESULTS: Final = _row(
    "aws-calls",
    "results",
    "AWS calls a task in Lambda, results on",
    "Units are DynamoDB's.",
    "sent with send_many, results on, all else at its default",
    Bar(1.5),
)
CHAINS: Final = _row(
    "aws-calls-chains",
    "chains",
    "AWS calls a task of a chain in Lambda, results on",
    "Chains of ten tasks, sent as one group. Units are DynamoDB's.",
    "a group of chains of ten, results on, all else at its default",
)
LEAN: Final = _row(
    "aws-calls-lean",
    "lean",
    "AWS calls a task in Lambda, lean",
    "Celery is that of the row `sqs`: worker processes, results off.",
    "sent with send_many, lean (ignore_result, not revocable)",
    Bar(0.4),
    peers=("celery",),
)
