"""Powertools for AWS Lambda doing the least a task queue must: read the body, look the task up, call it."""

from __future__ import annotations

import json
from typing import Any, Final

from aws_lambda_powertools.utilities.batch import process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

from benchmarks.handlers import powertools

ABOUT: Final = {
    **powertools.ABOUT,
    "settings": "the same, but the record handler decodes a JSON body and calls the no-op it names",
}


def noop() -> None:
    """Do nothing."""


TASKS: Final = {"tasks.noop": noop}
body = powertools.body


def record_handler(record: SQSRecord) -> None:
    """Call the task the body names."""
    TASKS[json.loads(record.body)["task"]]()


def handler(event: dict[str, Any], context: Any) -> Any:
    """Handle a batch."""
    return process_partial_response(
        event=event, record_handler=record_handler, processor=powertools.processor, context=context
    )
