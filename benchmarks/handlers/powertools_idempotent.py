"""Powertools for AWS Lambda with its Idempotency utility: each record's result is kept, and a duplicate is not run.

DynamoDB's own time is left out, as in `benchmarks.handlers.results`.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any, Final

import boto3
from aws_lambda_powertools.utilities.batch import process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.idempotency import (
    DynamoDBPersistenceLayer,
    IdempotencyConfig,
    idempotent_function,
)

from benchmarks import work
from benchmarks.handlers import canned, powertools

ABOUT: Final = {
    "versions": {package: version(package) for package in ("aws-lambda-powertools", "boto3")},
    "settings": (
        "BatchProcessor and @idempotent_function on the messageId with the DynamoDB persistence layer, as the "
        "guide's page on batches and idempotency has it; the record handler decodes a JSON body, calls tasks.add "
        "(1, 2) and returns the sum, which is kept"
    ),
    "on_kill": "received again after the visibility timeout; refused until the lock's end, which is the invocation's",
}

TASKS: Final = {"tasks.add": work.add}

client = boto3.client("dynamodb")
canned.answer(client)
config = IdempotencyConfig(event_key_jmespath="messageId")
store = DynamoDBPersistenceLayer(table_name="bench", boto3_client=client)


def body(number: int) -> str:
    """Return the body of a record."""
    return f'{{"task":"tasks.add","args":[1,2],"number":{number}}}'


@idempotent_function(  # type: ignore[untyped-decorator]
    data_keyword_argument="record", config=config, persistence_store=store
)
def record_handler(record: SQSRecord) -> int:
    """Call the task the body names."""
    asked = json.loads(record.body)
    return TASKS[asked["task"]](*asked["args"])


def handler(event: dict[str, Any], context: Any) -> Any:
    """Handle a batch."""
    config.register_lambda_context(context)
    return process_partial_response(
        event=event, record_handler=record_handler, processor=powertools.processor, context=context
    )
