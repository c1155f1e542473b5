"""The AWS session: the same addresses as plain botocore, one client per settings and process, errors that help."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import (
    ConnectTimeoutError,
    EndpointConnectionError,
    EndpointResolutionError,
    NoCredentialsError,
)

from dispatcher import aws
from dispatcher.aws import ServiceError
from dispatcher.aws_options import ClientSettings, Credentials, Role
from dispatcher.exceptions import ImproperlyConfigured
from tests.unit.aws_wire import Refused, Wire

KEYS = Credentials("AKIDEXAMPLE", "secret")


@pytest.fixture(autouse=True)
def no_ambient_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see no credentials, region or endpoint of the machine."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


def settings(**fields: Any) -> ClientSettings:
    """Settings that a client can be made with."""
    return ClientSettings(**{"region": "eu-west-1", "credentials": KEYS, **fields})


@pytest.fixture
def sqs() -> Iterator[Wire]:
    """Answers for an SQS client."""
    wire = Wire(aws.client("sqs", settings()))
    yield wire
    wire.close()
    aws.release("sqs", settings())


class _Seen(Exception):
    """Ends a request once its address is known."""


def address_of(client: Any, operation: str) -> tuple[str, str]:
    """The URL and the signing scope of a request."""
    seen: list[tuple[str, str]] = []

    def look(request: Any, **_: Any) -> None:
        seen.append((request.url, str(request.headers["Authorization"]).split("Credential=")[1].split(", ")[0]))
        raise _Seen

    client.meta.events.register("before-send", look)
    with pytest.raises(_Seen):
        getattr(client, operation)()
    ((url, scope),) = seen
    return url, scope.split("/", 2)[2]


@pytest.mark.parametrize("service", ["sqs", "dynamodb"])
@pytest.mark.parametrize(
    "region", ["us-east-1", "eu-central-1", "cn-north-1", "us-gov-west-1", "us-iso-east-1", "xx-new-1"]
)
@pytest.mark.parametrize("variant", [{}, {"use_fips_endpoint": True}, {"use_dualstack_endpoint": True}])
def test_the_quick_loader_changes_no_address(service: str, region: str, variant: dict[str, bool]) -> None:
    """Requests go where plain botocore would send them, signed for the same region and service."""
    operation = {"sqs": "list_queues", "dynamodb": "list_tables"}[service]
    plain = botocore.session.Session().create_client(
        service,
        region,
        aws_access_key_id=KEYS.access_key,
        aws_secret_access_key=KEYS.secret_key,
        config=Config(**variant),
    )
    ours = aws.client(service, settings(region=region, config=tuple(variant.items())))
    try:
        expected = address_of(plain, operation)
    except EndpointResolutionError:
        with pytest.raises(EndpointResolutionError):
            address_of(ours, operation)
    else:
        assert address_of(ours, operation) == expected


def test_clients_are_shared_by_settings() -> None:
    """The same settings give the same client, others another one."""
    first = aws.client("sqs", settings())
    assert aws.client("sqs", settings()) is first
    assert aws.client("sqs", settings(region="eu-west-2")) is not first
    assert aws.client("dynamodb", settings()) is not first
    nested = settings(config=(("proxies", {"https": "http://127.0.0.1:1"}),))
    assert aws.client("sqs", nested) is aws.client("sqs", nested)


def test_a_child_process_makes_clients_of_its_own() -> None:
    """A fork leaves the parent's client and its sockets alone."""
    mine = aws.client("sqs", settings())
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"same" if aws.client("sqs", settings()) is mine else b"own")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 10) == b"own"
    os.close(reader)
    os.close(writer)


def test_a_released_client_is_replaced() -> None:
    """Whoever asks after a release gets a new client; releasing twice is no error."""
    first = aws.client("sqs", settings())
    aws.release("sqs", settings())
    aws.release("sqs", settings())
    assert aws.client("sqs", settings()) is not first


def test_the_environment_names_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS's own variables choose the endpoint, the service's before the general one; an option wins."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1111")
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:2222")
    region = settings(region="ap-south-1")
    assert aws.client("sqs", region).meta.endpoint_url == "http://127.0.0.1:1111"
    assert aws.client("dynamodb", region).meta.endpoint_url == "http://127.0.0.1:2222"
    given = aws.client("sqs", region._replace(endpoint_url="http://127.0.0.1:3333"))
    assert given.meta.endpoint_url == "http://127.0.0.1:3333"
    aws.release("sqs", region)
    aws.release("dynamodb", region)


def test_localstack_needs_neither_keys_nor_region() -> None:
    """The endpoint 'localstack' is the one that localstack-client names."""
    client = aws.client("dynamodb", ClientSettings(endpoint_url="localstack"))
    assert client.meta.endpoint_url.endswith(":4566")
    assert client.meta.region_name == "us-east-1"


@pytest.mark.parametrize(
    ("url", "answer"),
    [
        ("https://sqs.eu-west-1.amazonaws.com", True),
        ("https://dynamodb.cn-north-1.amazonaws.com.cn", True),
        ("https://sqs.eu-west-1.api.aws", True),
        ("https://vpce-1-2.sqs.us-east-1.vpce.amazonaws.com", True),
        ("http://localhost:4566", False),
        ("http://127.0.0.1:4566", False),
        ("https://sqs.us-east-1.localhost.localstack.cloud:4566", False),
        ("https://amazonaws.com.example.org", False),
    ],
)
def test_emulators_are_told_from_aws(url: str, answer: bool) -> None:
    """Only AWS's own domains, in any partition, count as AWS."""
    assert aws.is_aws(url) is answer


def test_a_role_is_assumed_with_the_given_keys() -> None:
    """Calls are signed with the role's keys, which are asked for with the option's."""
    requests: list[Any] = []

    class Offline(Exception):
        pass

    def look(request: Any, **_: Any) -> None:
        requests.append((request.url, request.body, str(request.headers["Authorization"])))
        raise Offline

    keys = {"aws_access_key_id": KEYS.access_key, "aws_secret_access_key": KEYS.secret_key}
    session = aws._assume(Role("arn:aws:iam::1:role/tasks", 900), {"region_name": "eu-west-1", **keys}, {})
    provider = session.get_component("credential_provider")
    provider.source.register("before-send.sts", look)
    with pytest.raises(Offline):
        session.get_credentials()
    ((url, body, authorization),) = requests
    assert url.startswith("https://sts.eu-west-1.")
    assert "role%2Ftasks" in body
    assert "DurationSeconds=900" in body
    assert "Credential=AKIDEXAMPLE/" in authorization


# Errors


def test_an_error_names_service_operation_target_and_remedy(sqs: Wire) -> None:
    """A refusal of the service keeps its code and says where permissions are listed."""
    sqs.script("PurgeQueue", Refused("AccessDeniedException", "not authorized to perform: sqs:purgequeue", 403))
    with pytest.raises(ServiceError) as caught:
        aws.call(aws.client("sqs", settings()), "purge_queue", "queue orders", QueueUrl="https://x/1/orders")
    assert caught.value.code == "AccessDeniedException"
    text = str(caught.value)
    for part in ("sqs purge_queue of queue orders", "sqs.eu-west-1.amazonaws.com", "sqs:purgequeue", "docs/aws.md"):
        assert part in text


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("RequestThrottled", "try later"),
        ("ProvisionedThroughputExceededException", "try later"),
        ("AWS.SimpleQueueService.NonExistentQueue", "deploy the template"),
        ("SignatureDoesNotMatch", "credentials are wrong"),
    ],
)
def test_an_error_code_says_what_to_do(sqs: Wire, monkeypatch: pytest.MonkeyPatch, code: str, hint: str) -> None:
    """Whether to wait, to deploy, or to look for other keys."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # botocore's pauses
    sqs.script("PurgeQueue", Refused(code))
    with pytest.raises(ServiceError, match=hint):
        aws.call(aws.client("sqs", settings()), "purge_queue", "queue orders", QueueUrl="https://x/1/orders")


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (NoCredentialsError(), "AWS_ACCESS_KEY_ID"),
        (EndpointConnectionError(endpoint_url="https://x"), "AWS_ENDPOINT_URL"),
        (ConnectTimeoutError(endpoint_url="https://x"), "check the network"),
    ],
)
def test_an_unanswered_call_says_what_to_check(error: Exception, hint: str) -> None:
    """Errors of botocore become ours, with what to do and no code."""
    once = settings(config=(("retries", {"total_max_attempts": 1, "mode": "standard"}),))
    client = aws.client("sqs", once)
    wire = Wire(client)
    wire.script("ListQueues", error)
    with pytest.raises(ServiceError, match=hint) as caught:
        aws.call(client, "list_queues", "all queues")
    wire.close()
    assert caught.value.code == ""


def test_wrong_credentials_are_named() -> None:
    """Codes that mean bad keys say so."""
    client = aws.client("dynamodb", settings())
    wire = Wire(client)
    wire.script("ListTables", Refused("UnrecognizedClientException", "The security token is invalid"))
    with pytest.raises(ServiceError, match="credentials are wrong or have expired"):
        aws.call(client, "list_tables", "tables")
    wire.close()


def test_a_missing_region_is_an_error_of_configuration() -> None:
    """Without a region nothing is guessed."""
    with pytest.raises(ImproperlyConfigured, match="AWS_DEFAULT_REGION"):
        aws.client("sqs", ClientSettings(credentials=KEYS))


def test_secrets_stay_out_of_reprs() -> None:
    """Settings may be logged."""
    assert "secret" not in repr(settings())


# Helpers


def test_work_side_by_side_keeps_its_order() -> None:
    """Results come in the order of the items; the first error is raised."""
    assert aws.together(lambda n: n * 2, list(range(50))) == [n * 2 for n in range(50)]
    assert aws.together(str, []) == []
    with pytest.raises(ZeroDivisionError):
        aws.together(lambda n: 1 // n, [1, 0, 2])


def test_chunks_cover_everything() -> None:
    """Pieces are full except the last."""
    assert list(aws.chunks(range(5), 2)) == [range(2), range(2, 4), range(4, 5)]
    assert list(aws.chunks([], 2)) == []
