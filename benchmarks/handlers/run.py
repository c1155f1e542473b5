"""A warm handler under load: ``python -m benchmarks.handlers.run MODULE [BATCHES]``.

Without a number the handler is described. With one, it is called with that many different SQS events of ten records;
hands back the CPU seconds (``process_time``) a record took.
"""

from __future__ import annotations

import importlib
import sys
import time
import uuid
from types import SimpleNamespace
from typing import Any, Final

from benchmarks.outcome import emit

BATCH_SIZE: Final = 10
WARM_UP: Final = 50
_QUEUE_ARN: Final = "arn:aws:sqs:us-east-1:123456789012:bench"


def main(arguments: list[str]) -> None:
    """Describe or measure one handler."""
    module = importlib.import_module(f"benchmarks.handlers.{arguments[0]}")
    emit(cpu_per_record(module, int(arguments[1])) if len(arguments) > 1 else module.ABOUT)


def cpu_per_record(module: Any, batches: int) -> float:
    """Return CPU seconds per record; raises SystemExit if any record is handed back."""
    events = [event(module, number) for number in range(WARM_UP + batches)]
    about = context()
    responses = [module.handler(event, about) for event in events[:WARM_UP]]
    started = time.process_time()
    responses += [module.handler(event, about) for event in events[WARM_UP:]]
    elapsed = time.process_time() - started
    if failed := [response for response in responses if response["batchItemFailures"]]:
        raise SystemExit(f"error: {len(failed)} batches handed records back, the first: {failed[0]}")
    return elapsed / (batches * BATCH_SIZE)


def event(module: Any, number: int) -> dict[str, Any]:
    """Return an event of ten records as an SQS event source mapping sends it."""
    return {"Records": [_record(module.body(number * BATCH_SIZE + index)) for index in range(BATCH_SIZE)]}


def _record(body: str) -> dict[str, Any]:
    sent = str(int(time.time() * 1000))
    return {
        "messageId": str(uuid.uuid4()),
        "receiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a",
        "body": body,
        "attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": sent,
            "SenderId": "AIDAIENQZJOLO23YVJ4VO",
            "ApproximateFirstReceiveTimestamp": sent,
        },
        "messageAttributes": {},
        "md5OfBody": "e4e68fb7bd0e697a0ae8f1bb342846b3",
        "eventSource": "aws:sqs",
        "eventSourceARN": _QUEUE_ARN,
        "awsRegion": "us-east-1",
    }


def context() -> SimpleNamespace:
    """Return what the runtime client passes beside the event."""
    deadline = time.time() + 900
    return SimpleNamespace(
        aws_request_id=str(uuid.uuid4()),
        function_name="bench",
        function_version="$LATEST",
        invoked_function_arn="arn:aws:lambda:us-east-1:123456789012:function:bench",
        memory_limit_in_mb="512",
        log_group_name="/aws/lambda/bench",
        log_stream_name="bench",
        get_remaining_time_in_millis=lambda: int((deadline - time.time()) * 1000),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
