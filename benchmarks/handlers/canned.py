"""DynamoDB's answers without DynamoDB: what a client does stays, what the network and the service do is left out.

Answers are given where botocore would hand the signed request to its HTTP library, with the headers of the service.
"""

from __future__ import annotations

import json
import zlib
from io import BytesIO
from typing import Any, Final

from botocore.awsrequest import AWSResponse

#: The events of the operations that take part; any other call fails, since nobody listens at the endpoint.
_EVENTS: Final = tuple(
    f"before-send.dynamodb.{operation}"
    for operation in ("BatchGetItem", "BatchExecuteStatement", "PutItem", "UpdateItem")
)


class _Raw(BytesIO):
    """A body as urllib3 hands it out."""

    def stream(self, **_: Any) -> Any:
        """Yield the body."""
        yield self.read()


def answer(client: Any) -> None:
    """Have a DynamoDB client's calls answered on the spot: no item is there, every statement and write takes effect."""
    for name in _EVENTS:
        client.meta.events.register(name, _answer)


def _answer(request: Any, event_name: str, **_: Any) -> AWSResponse:
    # A slow moment makes the handler keep the results of a batch in two portions.
    kind = event_name, request.body.count(b'"Statement":')
    if kind not in _KNOWN:
        _KNOWN[kind] = _body(json.loads(request.body))
    body = _KNOWN[kind]
    headers = {
        "content-type": "application/x-amz-json-1.0",
        "content-length": str(len(body)),
        "x-amzn-requestid": "MCLR2A3QTFE0P1QIOGA1JVCS2NVV4KQNSO5AEMVJF66Q9ASUAAJG",
        "x-amz-crc32": str(zlib.crc32(body)),
    }
    return AWSResponse(request.url, 200, headers, _Raw(body))


#: Event and number of statements -> the answer's body, which is the same for all of them.
_KNOWN: Final[dict[tuple[str, int], bytes]] = {}


def _body(asked: dict[str, Any]) -> bytes:
    if "Statements" in asked:
        return json.dumps({"Responses": [{"TableName": "bench"} for _ in asked["Statements"]]}).encode()
    if "RequestItems" not in asked:
        return b"{}"
    return json.dumps({"Responses": {table: [] for table in asked["RequestItems"]}, "UnprocessedKeys": {}}).encode()
