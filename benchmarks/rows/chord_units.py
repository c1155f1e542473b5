"""What a chord costs on AWS: calls and capacity units of each member."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.rows.row import OURS, Bar, Row, Sample
from tests.emulation.endpoint import AwsEndpoint

SMALL: Final = "of_100"
#: Contender -> members; ours has as many as the scale says.
SIZES: Final = {"of_1000": 1_000, SMALL: 100}


def measure(bench: Bench, contender: str) -> Sample:
    """Send a chord to an emulator of its own, and work it off in the Lambda handler."""
    size = SIZES.get(contender, bench.scale.chord)
    with AwsEndpoint() as aws:
        table = aws.create_table("chords", sort_key="sk")
        url = aws.create_queue("default", visibility_timeout=900)
        variables = {**aws.env(), "DISPATCHER_QUEUE_URL_DEFAULT": url, "DISPATCHER_TABLE": table}
        roles = {
            role: bench.python(["-m", "benchmarks.handlers.chord", role, str(size)], **variables)
            for role in ("send", "work")
        }
    calls = sum((Counter(role["calls"]) for role in roles.values()), Counter[str]())
    reads, writes = (sum(role[kind] for role in roles.values()) for kind in ("read_units", "write_units"))
    details = {
        "members": size,
        "write units a member": writes / size,
        "read units a member": reads / size,
        "calls a member": calls.total() / size,
        "of SQS": sum(count for name, count in calls.items() if name.startswith("sqs:")) / size,
        "producer peak MiB": roles["send"]["peak"] / 2**20,
        "worker peak MiB": roles["work"]["peak"] / 2**20,
    }
    return Sample((reads + writes) / size, details)


def describe(bench: Bench, contender: str) -> dict[str, Any]:
    """Return the setting of a contender."""
    settings = f"a chord of {SIZES.get(contender, bench.scale.chord):,} members on SQS and DynamoDB, the defaults"
    return {"versions": {}, "settings": settings, "on_kill": "received again after the visibility timeout"}


ROW = Row(
    name="chord-units",
    title="Chord through the Lambda handler, consumed units a member",
    unit="units",
    better="lower",
    method=(
        "Counted on the AWS emulator, not timed: additions and a sum, results on, batches of ten, the event source "
        "mapping's own receipts and deletions included. Units are DynamoDB's, of reads and writes alike. Ours is the "
        "largest chord, its opponents are smaller ones. Peaks are of the memory (VmHWM) of the process that sends, and "
        "of the one that runs every member and the body."
    ),
    contenders=(OURS, *SIZES),
    bars=(Bar(1.1, SMALL),),
    measure=measure,
    budget=30.0,
    describe=describe,
    exact=True,
)
