"""Shortcuts through botocore: the same requests and answers as the long way, which is taken for all that is unusual."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import botocore
import botocore.session
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.credentials import Credentials as Keys
from botocore.exceptions import ClientError, ParamValidationError
from botocore.serialize import JSONSerializer
from hypothesis import given
from hypothesis import strategies as st

from dispatcher import aws, aws_shortcuts
from dispatcher.aws_options import ClientSettings, Credentials
from dispatcher.backends.base import Write
from dispatcher.backends.dynamodb_items import insert_statement, key, update_statement

SETTINGS = ClientSettings(region="eu-west-1", credentials=Credentials("AKIDEXAMPLE", "secret", "a token"))
WRITE = Write("ü", "SUCCESS", 1, 2, 3, final=True, token="t", expires_at=2e9, data='{"result": "\\u2028 \\"B\\":"}')
CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("dynamodb", "batch_get_item", {"RequestItems": {"table": {"Keys": [key("a"), key("b")], "ConsistentRead": True}}}),
    (
        "dynamodb", "batch_execute_statement",
        {"Statements": [insert_statement("table", WRITE), update_statement("table", WRITE, 1.5)]},
    ),
    ("dynamodb", "get_item", {"TableName": "table", "Key": key("a"), "ConsistentRead": True}),
    ("dynamodb", "list_tables", {}),
    ("dynamodb", "put_item", {"TableName": "table", "Item": {**key("a"), "d": {"L": [{"M": {"x": {"NULL": True}}}]}}}),
    ("dynamodb", "put_item", {"TableName": "table", "Item": {**key("a"), "d": {"B": b"\x00\xff"}}}),
    (
        "sqs", "send_message_batch",
        {
            "QueueUrl": "https://sqs.eu-west-1.amazonaws.com/123456789012/queue",
            "Entries": [
                {
                    "Id": "0", "MessageBody": "é", "DelaySeconds": 3,
                    "MessageAttributes": {"x": {"DataType": "Binary", "BinaryValue": b"\x00"}},
                },
            ],
        },
    ),
    ("sqs", "receive_message", {"QueueUrl": "https://example.com/1/q", "MaxNumberOfMessages": 10}),
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_ambient_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see no credentials, region or endpoint of the machine."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    # Powertools, once any test has imported it, has its name added to what plain sessions say of themselves.
    monkeypatch.setattr(botocore, "_INITIALIZERS", [])


@pytest.fixture
def dynamodb() -> Iterator[Any]:
    """A client of ours that has not been used yet."""
    yield aws.client("dynamodb", SETTINGS)
    aws.release("dynamodb", SETTINGS)


class Body(BytesIO):
    """A body as urllib3 hands it out."""

    def stream(self, **_: Any) -> Iterator[bytes]:
        """Yield the body."""
        yield self.read()


def answer(client: Any, *bodies: bytes, status: int = 200) -> list[Any]:
    """Answer the calls of a client, each with the next of the bodies; return the requests as they are made."""
    requests: list[Any] = []

    def reply(request: Any, **_: Any) -> AWSResponse:
        body = bodies[len(requests)] if len(requests) < len(bodies) else bodies[-1]
        requests.append(request)
        headers = {"content-type": "application/x-amz-json-1.0", "x-amzn-requestid": "id", "X-Other": "x"}
        return AWSResponse(request.url, status, headers, Body(body))

    client.meta.events.register(f"before-send.{client.meta.service_model.service_name}", reply)
    return requests


def plain(service: str) -> Any:
    """A client of ours as far as its settings go, made by botocore alone."""
    credentials = SETTINGS.credentials
    assert credentials is not None
    session = botocore.session.Session()
    ours = aws.client(service, SETTINGS).meta.config
    return session.create_client(service, SETTINGS.region, None, True, None, None, *credentials, config=ours)


def sent(request: Any) -> tuple[Any, ...]:
    """What is the same in two requests for the same, the moment and the signature aside."""
    names = {name.lower(): value for name, value in request.headers.items()}
    different = {"x-amz-date", "authorization", "amz-sdk-invocation-id"}
    scope = names["authorization"].decode().partition(", Signature=")[0]
    return request.method, request.url, request.body, scope, {k: v for k, v in names.items() if k not in different}


@pytest.mark.parametrize(("service", "operation", "parameters"), CALLS)
def test_requests_are_those_of_botocore(service: str, operation: str, parameters: dict[str, Any]) -> None:
    """What goes over the wire is what botocore alone would send, down to the byte."""
    ours, theirs = aws.client(service, SETTINGS), plain(service)
    seen = answer(ours, b"{}"), answer(theirs, b"{}")
    for client in (ours, ours, theirs):
        getattr(client, operation)(**parameters)
    aws.release(service, SETTINGS)
    (first, second), (expected,) = seen
    assert sent(first) == sent(second) == sent(expected)


def test_shortcuts_are_taken(dynamodb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the botocore that is installed, the calls of every batch go none of the long ways."""
    answer(dynamodb, b'{"Responses": {"table": []}}', b'{"Responses": [{"TableName": "table"}]}')
    walked: list[str] = []

    def note(owner: Any, name: str) -> None:
        usual = getattr(owner, name)

        def noting(*given: Any, **named: Any) -> Any:
            walked.append(name)
            return usual(*given, **named)

        monkeypatch.setattr(owner, name, noting)

    dynamodb.batch_get_item(**CALLS[0][2])
    dynamodb.batch_execute_statement(**CALLS[1][2])
    note(JSONSerializer, "_serialize")
    note(SigV4Auth, "add_auth")
    note(type(aws_shortcuts.Parsers().create_parser("json")), "_parse_shape")
    note(type(dynamodb._ruleset_resolver), "_get_provider_params")
    dynamodb.batch_get_item(**CALLS[0][2])
    dynamodb.batch_execute_statement(**CALLS[1][2])
    assert walked == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"Responses": {"t": [{"a": {"S": "x \\"B\\": null"}, "n": {"N": "1.5"}, "l": {"L": [{"BOOL": true}]}}]}}',
        b'{"Responses": {"t": [{"a": {"B": "AP8="}, "b": {"BS": ["AA=="]}}]}, "UnprocessedKeys": {}}',
        b'{"Responses": {"t": [{"a":{"B":"AP8="}}]}}',
        b'{"Responses": {"t": [{"a": {"B" : "AP8="}, "b": {"BS"\n:["AA=="]}}]}}',
        b'{"Responses": {"t": [{"a": {"\\u0042": "AP8="}, "b": {"B\\u0053": ["AA=="]}, "c": {"\\u0042S": ["AA=="]}}]}}',
        b'{"Responses": {"t": [{"a": {"L": [{"M": {"b": {"B": "AP8="}}}]}}]}}',
        b'{"Responses": null, "UnprocessedKeys": {}}',
        b'{"ConsumedCapacity": [{"TableName": "t", "CapacityUnits": 0.5}]}',
        b"{}",
        b"",
        b"no JSON",
    ],
)
def test_answers_are_those_of_botocore(dynamodb: Any, body: bytes) -> None:
    """What a call returns is what botocore alone returns, binary values, nulls and broken answers included."""
    theirs = plain("dynamodb")
    for client in (dynamodb, theirs):
        answer(client, body)
    assert dynamodb.batch_get_item(**CALLS[0][2]) == theirs.batch_get_item(**CALLS[0][2])


@pytest.mark.parametrize(
    "attribute",
    [
        b'"StringValue": "\\u0042inary B", "DataType": "String"',
        b'"BinaryValue": "AP8=", "DataType": "Binary"',
        b'"BinaryValue" : "AP8="',
        b'"\\u0042inaryValue": "AP8="',
        b'"B\\u0069naryValue": "AP8="',
        b'"Binary\\u0056alue": "AP8="',
        b'"BinaryListValues": ["AP8="]',
    ],
)
def test_messages_are_those_of_botocore(attribute: bytes) -> None:
    """Binary attributes of messages are bytes, however their names are written."""
    ours, theirs = aws.client("sqs", SETTINGS), plain("sqs")
    for client in (ours, theirs):
        answer(client, b'{"Messages": [{"Body": "{\\"B\\": 1}", "MessageAttributes": {"k": {%b}}}]}' % attribute)
    asked = {"QueueUrl": "https://example.com/1/q"}
    received = ours.receive_message(**asked), theirs.receive_message(**asked)
    aws.release("sqs", SETTINGS)
    assert received[0] == received[1]


@pytest.mark.parametrize(
    ("service", "operation", "body", "walks"),
    [
        ("dynamodb", "GetItem", rb'{"Item":{"b":{"S":"Bob \u00e9 \u0041 {\"B\": 1}"}}}', False),
        ("dynamodb", "GetItem", b'{"Item":{"b":{"B":"AP8="}}}', True),
        ("sqs", "ReceiveMessage", rb'{"Messages":[{"Body":"B\u00e9","Attributes":{"SenderId":"B"}}]}', False),
        ("sqs", "ReceiveMessage", b'{"Messages":[{"MessageAttributes":{"k":{"BinaryValue":"AP8="}}}]}', True),
        ("kms", "Decrypt", b'{"KeyId":"k","Plaintext":"AP8="}', True),
    ],
)  # fmt: skip
def test_answers_are_walked_through_where_there_may_be_bytes(
    monkeypatch: pytest.MonkeyPatch, service: str, operation: str, body: bytes, walks: bool
) -> None:
    """Names, texts and escapes that hide no binary member cost no walk."""
    parser, walked = aws_shortcuts.Parsers().create_parser("json"), []
    usual = type(parser)._parse_shape
    monkeypatch.setattr(type(parser), "_parse_shape", lambda *given: walked.append(1) or usual(*given))
    shape = botocore.session.Session().get_service_model(service).operation_model(operation).output_shape
    parser.parse({"body": body, "headers": {}, "status_code": 200}, shape)
    assert bool(walked) is walks


def test_errors_are_those_of_botocore(dynamodb: Any) -> None:
    """An error has the code, the message and the fields that botocore alone makes of it."""
    body = b'{"__type": "x#ConditionalCheckFailedException", "message": "no", "Item": {"a": {"S": "x"}, "b": null}}'
    theirs, errors = plain("dynamodb"), []
    for client in (dynamodb, theirs):
        answer(client, body, status=400)
        with pytest.raises(client.exceptions.ConditionalCheckFailedException) as caught:
            client.put_item(**CALLS[4][2])
        assert isinstance(caught.value, ClientError)
        errors.append(caught.value.response)
    assert errors[0] == errors[1]


def test_throttled_calls_are_repeated() -> None:
    """A throttled call is repeated as ever, and signed anew."""
    settings = SETTINGS._replace(config=(("retries", {"mode": "standard", "total_max_attempts": 2}),))
    client = aws.client("dynamodb", settings)
    body = b'{"__type": "x#ProvisionedThroughputExceededException", "message": "slow down"}'
    requests = answer(client, body, status=400)
    with pytest.raises(ClientError, match="slow down"):
        client.list_tables()
    aws.release("dynamodb", settings)
    assert len({request.headers["amz-sdk-request"] for request in requests}) == 2
    assert all(request.headers["Authorization"].startswith(b"AWS4-HMAC-SHA256") for request in requests)


def test_addresses_follow_the_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address that DynamoDB has for an account changes with the account of the credentials."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ACCOUNT_ID", "111111111111")
    settings = ClientSettings(region="eu-west-1", config=(("use_dualstack_endpoint", True),))
    client = aws._make_client(aws._Process(), "dynamodb", settings)
    requests = answer(client, b"{}")
    client.get_item(**CALLS[2][2])
    client._request_signer._credentials.account_id = "222222222222"
    client.get_item(**CALLS[2][2])
    assert [request.url for request in requests] == [
        f"https://{account}.ddb.eu-west-1.api.aws/" for account in ("111111111111", "222222222222")
    ]


@pytest.mark.parametrize("name", ["_serializer", "_ruleset_resolver"])
def test_a_botocore_that_is_different_goes_its_own_way(name: str) -> None:
    """A client without the parts that are looked for is left as it is, and works."""
    client = plain("dynamodb")
    part = getattr(client, name)
    setattr(client, name, None)
    aws_shortcuts.shorten(client)
    setattr(client, name, part)
    requests = answer(client, b"{}")
    client.get_item(**CALLS[2][2])
    assert len(requests) == 1


def test_the_usual_way_where_parameters_are_checked() -> None:
    """Whoever asks botocore to check parameters has it do so."""
    settings = SETTINGS._replace(config=(("parameter_validation", True),))
    client = aws.client("dynamodb", settings)
    answer(client, b"{}")
    with pytest.raises(ParamValidationError, match="Unknown parameter"):
        client.list_tables(Nonsense=1)
    aws.release("dynamodb", settings)


_text = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


@given(
    headers=st.dictionaries(st.sampled_from(["X-Amz-Target", "content-type", "User-Agent", "a+b", "X-Amzn-Trace-Id",
                                             "Host", "Date", "X-Amz-Date", "Authorization"]), _text),
    body=st.binary(max_size=50),
    url=st.sampled_from(["https://dynamodb.eu-west-1.amazonaws.com/", "http://LOCALHOST:8000/", "https://[::1]:443/",
                         "http://name@Host.example:80/", "https://example.com:80/",
                         "https://example.com", "https://example.com/a%20b/?x=1&y=%2F"]),
    token=st.none() | _text,
    secret=st.text(min_size=1),
)  # fmt: skip
def test_signatures_are_those_of_botocore(
    headers: dict[str, str], body: bytes, url: str, token: str | None, secret: str
) -> None:
    """Whatever the request, it is signed as botocore alone signs it at that moment."""
    keys = Keys("AKID", secret, token).get_frozen_credentials()
    request = AWSRequest("POST", url, headers, body)
    aws_shortcuts.Signer(keys, "dynamodb", "eu-west-1").add_auth(request)
    other, theirs = AWSRequest("POST", url, headers, body), SigV4Auth(keys, "dynamodb", "eu-west-1")
    other.context["timestamp"] = request.context["timestamp"]
    theirs._modify_request_before_signing(other)
    text = theirs.string_to_sign(other, theirs.canonical_request(other))
    theirs._inject_signature_to_request(other, theirs.signature(text, other))
    assert request.headers.items() == other.headers.items()


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner), max_leaves=9))
def test_bodies_hold_any_text(value: Any) -> None:
    """Texts of any characters come out of a request as they went in."""
    text = json.dumps(value)
    client = aws.client("dynamodb", SETTINGS)
    body = client._serializer.serialize_to_request(
        {"TableName": "t", "Item": {"d": {"S": text}}}, client.meta.service_model.operation_model("PutItem")
    )["body"]
    assert json.loads(body)["Item"]["d"]["S"] == text


def test_invocations_keep_an_id_of_their_own(dynamodb: Any) -> None:
    """Two calls are not taken for tries of one."""
    requests = answer(dynamodb, b"{}")
    dynamodb.list_tables()
    dynamodb.list_tables()
    ids = {request.headers["amz-sdk-invocation-id"].decode() for request in requests}
    assert len({uuid.UUID(each) for each in ids}) == 2
