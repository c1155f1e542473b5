"""How many AWS calls a task is, and the capacity units it takes, in Lambda."""

from __future__ import annotations

from collections.abc import Callable
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


def _measure(kind: str) -> Callable[[Bench, str], Sample]:
    def measure(bench: Bench, contender: str) -> Sample:
        """Send tasks to an emulator of its own, and work them off in the Lambda handler."""
        if contender != OURS:
            return sqs.measure(bench, contender)
        count = bench.scale.chord
        with AwsEndpoint() as aws:
            aws.create_table(_TABLE, sort_key="sk")
            url = aws.create_queue("default", visibility_timeout=900)
            variables = {**aws.env(), "DISPATCHER_QUEUE_URL_DEFAULT": url}
            before = aws.calls()
            bench.python(["-m", "benchmarks.handlers.calls", "send", kind, str(count)], **variables)
            sent = aws.calls() - before
            units = bench.python(["-m", "benchmarks.handlers.calls", "work", kind, str(count)], **variables)
            worked = aws.calls() - before - sent
        details = {
            "of sending": sent.total() / count,
            "of SQS else": sum(n for name, n in worked.items() if name.startswith("AmazonSQS.")) / count,
            "of DynamoDB": sum(n for name, n in worked.items() if name.startswith("DynamoDB")) / count,
            "write units": units["write_units"] / count,
            "read units": units["read_units"] / count,
        }
        return Sample((sent.total() + worked.total()) / count, details)

    return measure


def _describe(settings: str) -> Callable[[Bench, str], dict[str, Any]]:
    def describe(bench: Bench, contender: str) -> dict[str, Any]:
        """Return the versions and settings of a contender."""
        if contender != OURS:
            return sqs.describe(bench, contender)
        return {"versions": {}, "settings": settings, "on_kill": "received again after the visibility timeout"}

    return describe


RESULTS: Final = Row(
    name="aws-calls",
    title="AWS calls a task in Lambda, results on",
    unit="calls",
    better="lower",
    method=f"{_METHOD}Units are DynamoDB's.",
    contenders=(OURS,),
    bars=(Bar(1.5),),
    measure=_measure("results"),
    describe=_describe("sent with send_many, results on, all else at its default"),
    exact=True,
    budget=25.0,
)
CHAINS: Final = Row(
    name="aws-calls-chains",
    title="AWS calls a task of a chain in Lambda, results on",
    unit="calls",
    better="lower",
    method=f"{_METHOD}Chains of ten tasks, sent as one group. Units are DynamoDB's.",
    contenders=(OURS,),
    bars=(),
    measure=_measure("chains"),
    describe=_describe("a group of chains of ten, results on, all else at its default"),
    exact=True,
    budget=25.0,
)
LEAN: Final = Row(
    name="aws-calls-lean",
    title="AWS calls a task in Lambda, lean",
    unit="calls",
    better="lower",
    method=f"{_METHOD}Celery is that of the row `sqs`: worker processes, results off.",
    contenders=(OURS, "celery"),
    bars=(Bar(0.4),),
    measure=_measure("lean"),
    describe=_describe("sent with send_many, lean (ignore_result, not revocable)"),
    exact=True,
    budget=25.0,
)
