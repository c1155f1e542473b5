"""Answers to AWS calls, put in beneath botocore: the real client builds, signs and parses, and nothing leaves."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from botocore.awsrequest import AWSPreparedRequest, AWSResponse

from dispatcher import aws
from dispatcher.aws_options import ClientSettings, Credentials

Answer = dict[str, Any]

#: Options of SQS brokers that know every queue's URL.
SQS_OPTIONS: dict[str, Any] = {
    "region": "eu-west-3",
    "access_key_id": "AKID",
    "secret_access_key": "secret",
    "queue_urls": lambda queue: f"https://sqs.eu-west-3.amazonaws.com/1/{queue}",
}
SQS_BATCHES = ("SendMessageBatch", "DeleteMessageBatch", "ChangeMessageVisibilityBatch")


class Call(NamedTuple):
    """A request that the client would have sent."""

    operation: str
    parameters: dict[str, Any]


class Refused(Exception):
    """Raised by an answering function: the service answers with this error code."""

    def __init__(self, code: str, message: str = "refused", status: int = 400, **fields: Any) -> None:
        super().__init__(code)
        self.body = {"__type": f"com.amazonaws#{code}", "message": message, **fields}
        self.status = status


class _Raw(io.BytesIO):
    def stream(self, **_: Any) -> Iterator[bytes]:
        """Yield the body as urllib3 would."""
        yield self.read()


class Wire:
    """Answers for one botocore client; what an operation gets is set by ``wire.on("Operation", function)``.

    The function takes the parameters of the call and returns the answer, or raises `Refused` or a botocore error.
    """

    def __init__(self, client: Any) -> None:
        self.calls: list[Call] = []
        self._answers: dict[str, Callable[[dict[str, Any]], Answer]] = {}
        self._client = client
        self._event = f"before-send.{client.meta.service_model.service_id.hyphenize()}"
        client.meta.events.register(self._event, self._answer)

    def on(self, operation: str, answer: Callable[[dict[str, Any]], Answer]) -> None:
        """Set what an operation gets."""
        self._answers[operation] = answer

    def script(self, operation: str, *answers: Answer | Exception) -> None:
        """Set what the next calls of an operation get; the last one stays."""
        left = list(answers)

        def answer(_: dict[str, Any]) -> Answer:
            item = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(item, Exception):
                raise item
            return item

        self.on(operation, answer)

    def of(self, operation: str) -> list[dict[str, Any]]:
        """The parameters of every call of an operation."""
        return [call.parameters for call in self.calls if call.operation == operation]

    @property
    def operations(self) -> list[str]:
        """The operations that were called, in order."""
        return [call.operation for call in self.calls]

    def close(self) -> None:
        """Let the client talk to the network again."""
        self._client.meta.events.unregister(self._event, self._answer)

    def _answer(self, request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        target = request.headers["X-Amz-Target"]
        operation = (target.decode() if isinstance(target, bytes) else target).rpartition(".")[2]
        parameters = json.loads(request.body or b"{}")
        self.calls.append(Call(operation, parameters))
        answering = self._answers.get(operation)
        assert answering is not None, f"{operation} was called and has no answer: {parameters}"
        try:
            status, body = 200, answering(parameters)
        except Refused as refused:
            status, body = refused.status, refused.body
        return AWSResponse(request.url, status, {"x-amzn-requestid": "1"}, _Raw(json.dumps(body).encode()))


@contextlib.contextmanager
def sqs_wire(accepted: Iterable[str] = ()) -> Iterator[Wire]:
    """Answers for the client of brokers with `SQS_OPTIONS`; batches of these operations succeed."""
    wire = Wire(aws.client("sqs", ClientSettings("eu-west-3", credentials=Credentials("AKID", "secret"))))
    for operation in accepted:
        wire.on(operation, accept_batch)
    yield wire
    wire.close()


def accept_batch(parameters: dict[str, Any]) -> Answer:
    """Every entry of a batch succeeds."""
    return {"Successful": [{"Id": e["Id"], "MessageId": f"m{e['Id']}"} for e in parameters["Entries"]], "Failed": []}


def fail_entries(code: str, *numbers: int, sender_fault: bool = False) -> Answer:
    """An answer that fails the entries with these ids."""
    failed = [{"Id": str(n), "Code": code, "Message": "no", "SenderFault": sender_fault} for n in numbers]
    return {"Successful": [], "Failed": failed}
