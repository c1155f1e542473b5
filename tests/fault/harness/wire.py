"""The faults between botocore and AWS: throttles, 5xx, resets, answers that are lost, batches of which a part fails.

They are put in at botocore's own ``before-send`` event: the real client builds, signs, parses and repeats its calls.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import botocore.exceptions
from botocore.awsrequest import AWSPreparedRequest, AWSResponse

from tests.fault.harness.injector import Gate, Injector
from tests.fault.harness.sqs import ServiceFault

Answer = dict[str, Any]
#: What carries out a call: a model of the service, or the service itself.
Service = Callable[[str, Mapping[str, Any]], Any]

_THROTTLES = {"sqs": "RequestThrottled", "dynamodb": "ThrottlingException"}
_UNCERTAIN = ("InternalServerError", "ThrottlingError", "ProvisionedThroughputExceeded", "RequestLimitExceeded")


class _Raw(io.BytesIO):
    def stream(self, **_: Any) -> Iterator[bytes]:
        """Yield the body as urllib3 would."""
        yield self.read()


class Wire:
    """What lies between the clients of one service and the service."""

    def __init__(self, name: str, service: Service, injector: Injector, gate: Gate) -> None:
        self._name = name
        self.service = service
        self._injector = injector
        self._gate = gate

    def attach(self, session: Any) -> None:
        """Let the calls of the service's clients that a session makes from now on go over this wire."""
        session.register(f"before-send.{self._name}", self._send)

    def _send(self, request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        target = request.headers["X-Amz-Target"]
        operation = (target.decode() if isinstance(target, bytes) else target).rpartition(".")[2]
        parameters = json.loads(request.body or b"{}")
        self._gate.before()
        self._fail_before(request.url)
        try:
            status, body = 200, self._carry_out(operation, parameters)
        except ServiceFault as fault:
            status = fault.status
            body = {"__type": f"com.amazonaws#{fault.code}", "message": fault.message, **fault.fields}
        self._gate.after()
        if self._gate.draw("lost answer"):
            raise botocore.exceptions.ReadTimeoutError(endpoint_url=request.url)
        return AWSResponse(request.url, status, {"x-amzn-requestid": "1"}, _Raw(json.dumps(body).encode()))

    def _fail_before(self, url: str) -> None:
        """Let a call fail before it reaches the service."""
        kind = self._gate.draw("refused", "reset")
        if kind == "refused":
            raise botocore.exceptions.EndpointConnectionError(endpoint_url=url)
        if kind == "reset":
            raise botocore.exceptions.ConnectionClosedError(endpoint_url=url)

    def _carry_out(self, operation: str, parameters: Answer) -> Any:
        kind = self._gate.draw("throttled", "server error")
        if kind == "throttled":
            raise ServiceFault(_THROTTLES[self._name])
        if kind == "server error":
            raise ServiceFault("InternalServerError", status=self._injector.random.choice([500, 503]))
        partial = _PARTIAL.get(operation)
        if partial is not None and self._gate.draw("half-failed batch"):
            return partial(self, operation, parameters)
        return self.service(operation, parameters)

    # Batches of which a part fails

    def _half_of_entries(self, operation: str, parameters: Answer) -> Any:
        """SendMessageBatch, DeleteMessageBatch, ChangeMessageVisibilityBatch: entries fail alone, some for good."""
        entries = parameters["Entries"]
        failing = self._injector.some(entries)
        rest = [entry for entry, fails in zip(entries, failing, strict=True) if not fails]
        answer = self.service(operation, {**parameters, "Entries": rest}) if rest else {"Successful": [], "Failed": []}
        for entry, fails in zip(entries, failing, strict=True):
            if fails:
                passing = self._injector.random.random() < 0.7
                code = "InternalError" if passing else "AccessDenied"
                if passing and self._gate.draw("entry applied and failed"):
                    self.service(operation, {**parameters, "Entries": [entry]})
                answer["Failed"].append(
                    {"Id": entry["Id"], "Code": code, "Message": "no", "SenderFault": not passing}
                )  # fmt: skip
        return answer

    def _half_of_keys(self, operation: str, parameters: Answer) -> Any:
        """BatchGetItem: some keys are left for another call."""
        ((table, wanted),) = parameters["RequestItems"].items()
        left = self._injector.some(wanted["Keys"])
        now = [key for key, later in zip(wanted["Keys"], left, strict=True) if not later]
        later = [key for key, later in zip(wanted["Keys"], left, strict=True) if later]
        answer = self.service(operation, {"RequestItems": {table: {**wanted, "Keys": now}}})
        return {**answer, "UnprocessedKeys": {table: {**wanted, "Keys": later}}}

    def _half_of_writes(self, operation: str, parameters: Answer) -> Any:
        """BatchWriteItem: some items are left for another call."""
        ((table, requests),) = parameters["RequestItems"].items()
        left = self._injector.some(requests)
        now = [request for request, later in zip(requests, left, strict=True) if not later]
        later = [request for request, later in zip(requests, left, strict=True) if later]
        self.service(operation, {"RequestItems": {table: now}})
        return {"UnprocessedItems": {table: later}}

    def _half_of_statements(self, operation: str, parameters: Answer) -> Any:
        """BatchExecuteStatement: statements fail alone; of some nobody knows whether they were carried out."""
        statements = parameters["Statements"]
        responses = []
        for statement, fails in zip(statements, self._injector.some(statements), strict=True):
            if not fails or self._gate.draw("entry applied and failed"):
                (response,) = self.service(operation, {"Statements": [statement]})["Responses"]
            if fails:
                code = self._injector.random.choice([*_UNCERTAIN, "AccessDenied"])
                response = {"Error": {"Code": code, "Message": "no"}}
            responses.append(response)
        return {"Responses": responses}


_PARTIAL: Mapping[str, Callable[[Wire, str, Answer], Any]] = {
    "SendMessageBatch": Wire._half_of_entries,
    "DeleteMessageBatch": Wire._half_of_entries,
    "ChangeMessageVisibilityBatch": Wire._half_of_entries,
    "BatchGetItem": Wire._half_of_keys,
    "BatchWriteItem": Wire._half_of_writes,
    "BatchExecuteStatement": Wire._half_of_statements,
}
