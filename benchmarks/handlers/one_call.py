"""The one botocore call that keeps the results of a batch, made by a plain client; nothing else.

The call is the one that our handler makes for its first batch, so that both send the same.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Final

import botocore.session

from benchmarks.handlers import canned, results
from dispatcher import aws
from dispatcher.aws_options import ClientSettings

ABOUT: Final = {
    "versions": {"botocore": version("botocore")},
    "settings": "one BatchExecuteStatement of ten INSERTs by a client as botocore makes it, the same call again and "
    "again",
    "on_kill": "–",
}

body = results.body
plain = botocore.session.get_session().create_client("dynamodb")
canned.answer(plain)
_calls: Final[list[dict[str, Any]]] = []


def _note(params: dict[str, Any], **_: Any) -> None:
    _calls.append(params)


def handler(event: dict[str, Any], context: Any) -> Any:
    """Make the call."""
    if not _calls:
        ours = aws.client("dynamodb", ClientSettings())
        ours.meta.events.register("provide-client-params.dynamodb.BatchExecuteStatement", _note)
        results.handler(event, context)
    plain.batch_execute_statement(**_calls[0])
    return {"batchItemFailures": []}
