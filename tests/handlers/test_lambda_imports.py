"""What a cold function imports: the modules that its first batches need, listed here, and nothing heavy beside them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dispatcher.message import Message, encode
from tests.emulation.environments import ROOT
from tests.handlers.lab import Lab

APP = """
from dispatcher import Dispatcher
app = Dispatcher("shop")
@app.task(name="shop.lean", ignore_result=True, revocable=False)
def lean(): pass
@app.task(name="shop.add")
def add(x, y): return x + y
"""
PROGRAM = """
import json, sys, types
before = set(sys.modules)
from dispatcher.lambda_runtime.worker import handler
started = set(sys.modules)
context = types.SimpleNamespace(aws_request_id="1", get_remaining_time_in_millis=lambda: 60_000)
event = json.loads(sys.stdin.read())
answer = handler(event, context)
print("imported:" + json.dumps([sorted(started - before), sorted(set(sys.modules) - started), answer]))
"""

#: Our modules by what the first batches need them for; one that is new here makes every cold start longer.
NEEDED = {
    "": "_version aws aws_bounds aws_data aws_options aws_shortcuts call_options clock exceptions "
    "loading packing publishing quotas signals state states",
    "config": "celery_keys checks core environment names options structures types values words",
    "serialization": "codecs compression jsontext packing remote values",
    # the app: tasks with their options, and what it sends
    "(app)": "app app.base app.changes app.discovery app.foreign app.periodic app.wire app.workflows "
    "connections decorators registry request retry routing security sending sensitive shared task task_options "
    "task_signatures unique rates claims message",
    "canvas": "compound mapped plan signature stamping",
    # tasks may ask for results
    "(results)": "async_result eager_result result result_families result_reading result_sets",
    "brokers": "base sqs sqs_batches sqs_budget sqs_dead sqs_letters sqs_queues",
    "backends": "base dynamodb dynamodb_items dynamodb_joins dynamodb_rates joins locks meta",
    "execution": "acknowledging admission concealing environment errbacks executor handover heartbeat invocation "
    "launching leasing limits ordering recording renewal retrying run settling throttling watch workflow",
    "lambda_runtime": "alarm batches bootstrap collection deadline environment events guard handback logs metrics "
    "progress rescue sources transport watchdog worker",
    "utils": "forks graph log",
}
#: What takes its time to import, and has no part in a batch of plain functions.
HEAVY = {
    "asyncio", "multiprocessing", "sqlite3", "unittest", "xmlrpc", "pydoc", "pickle", "ctypes", "optparse",
    "boto3", "s3transfer", "aws_lambda_powertools", "redis", "msgpack", "yaml", "click", "rich",
}  # fmt: skip
#: The app, and botocore with what it imports, certifi where it happens to be installed.
OTHERS = {"app", "dispatcher", "botocore", "certifi", "dateutil", "jmespath", "six", "urllib3"}


@pytest.fixture
def imported(lab: Lab, tmp_path: Path) -> Any:
    """The modules of the start, those that a batch of both kinds of task adds, and the answer to it."""
    (tmp_path / "app.py").write_text(APP)
    names = ["shop.lean", "shop.lean", "shop.add", "shop.add"]
    for number, name in enumerate(names):
        arguments = (1, 2) if name == "shop.add" else ()
        body = encode(Message(id=f"{number:08}-0000-4000-8000-000000000000", task=name, args=arguments))
        lab.sqs.send_message(QueueUrl=lab.url, MessageBody=body)
    event = lab.take()
    assert len(event["Records"]) == len(names)
    variables = {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        **lab.aws.env(),
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
        "DISPATCHER_APP": "app:app",
        "DISPATCHER_BROKER_URL": "sqs://",
        "DISPATCHER_RESULT_BACKEND": str(lab.app.conf.result_backend),
        "DISPATCHER_QUEUE_URL_DEFAULT": lab.url,
        "AWS_LAMBDA_FUNCTION_NAME": "shop",
        "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(event), env=variables, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("imported:"))
    start, batch, answer = json.loads(line.removeprefix("imported:"))
    assert answer == {"batchItemFailures": []}
    return start, batch


def test_first_batches_import_what_they_need(imported: Any) -> None:
    """Our modules are the listed ones, of libraries there is only botocore with its own, and nothing is heavy."""
    start, batch = imported
    both = {*start, *batch}
    ours = {name for name in both if name.startswith("dispatcher.")}
    packages = {name.rpartition(".")[0] for name in ours} | {"dispatcher.app", "dispatcher.canvas"}
    listed = {
        f"dispatcher.{name}" if not group or group.startswith("(") else f"dispatcher.{group}.{name}"
        for group, names in NEEDED.items()
        for name in names.split()
    }
    assert (sorted(ours - packages - listed), sorted(listed - ours)) == ([], [])
    roots = {name.partition(".")[0] for name in both}
    assert sorted(roots & HEAVY) == []
    assert sorted(roots - sys.stdlib_module_names - OTHERS) == []


def test_start_imports_what_the_first_batch_needs(imported: Any) -> None:
    """Lambda gives the start of a function more CPU than a batch, and time that nobody waits for."""
    _, batch = imported
    assert [name for name in batch if name.startswith(("dispatcher.", "botocore."))] == []
