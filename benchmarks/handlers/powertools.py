"""Powertools for AWS Lambda: the least a partial batch response costs."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Final

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

ABOUT: Final = {
    "versions": {"aws-lambda-powertools": version("aws-lambda-powertools")},
    "settings": "BatchProcessor for SQS by process_partial_response; the record handler does nothing and reads no body",
    "on_kill": "received again after the visibility timeout",
}

processor = BatchProcessor(event_type=EventType.SQS)


def body(number: int) -> str:
    """Return the body of a record."""
    return f'{{"task":"tasks.noop","number":{number}}}'


def record_handler(record: SQSRecord) -> None:
    """Do nothing."""


def handler(event: dict[str, Any], context: Any) -> Any:
    """Handle a batch."""
    return process_partial_response(event=event, record_handler=record_handler, processor=processor, context=context)
