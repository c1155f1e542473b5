"""template.yaml, built and deployed as it stands, runs the example app under the role it gives the function."""

import time
import uuid
from collections.abc import Iterator

import pytest

from dispatcher import Dispatcher, signature
from dispatcher.backends.base import Write
from dispatcher.brokers.base import Outgoing
from dispatcher.exceptions import WorkerLostError
from dispatcher.execution.settling import derived_id
from tests.e2e import lambda_stack
from tests.emulation.endpoint import AwsEndpoint

TIMEOUT = 120.0
#: The first test waits for the build and the deployment as well.
pytestmark = pytest.mark.timeout(4 * lambda_stack.PATIENCE)


@pytest.fixture(scope="module")
def outputs(aws_iam: AwsEndpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the deployed stack gives out."""
    return lambda_stack.deploy(aws_iam, lambda_stack.build(tmp_path_factory.mktemp("built")))


@pytest.fixture
def shop(aws_iam: AwsEndpoint, outputs: dict[str, str]) -> Iterator[Dispatcher]:
    """A producer for the stack."""
    with lambda_stack.producer("shop", aws_iam, outputs) as app:
        yield app


def test_role_suffices_for_results(shop: Dispatcher) -> None:
    """Batches of tasks are read and recorded: GetItem, BatchGetItem, UpdateItem and PartiQL are allowed."""
    assert shop.send_task("shop.add", (1, 2)).get(timeout=TIMEOUT) == 3
    results = [shop.send_task("shop.add", (number, 1)) for number in range(30)]
    assert [result.get(timeout=TIMEOUT) for result in results] == list(range(1, 31))


def test_role_suffices_for_retries(shop: Dispatcher) -> None:
    """A retry changes its message's visibility, and so is back long before the queue's timeout of minutes."""
    assert shop.send_task("shop.charge", (1,)).get(timeout=TIMEOUT) == "order 1 charged at try 2"


def test_role_suffices_for_dead_letters(aws_iam: AwsEndpoint, outputs: dict[str, str], shop: Dispatcher) -> None:
    """A failure's copy reaches the dead-letter queue."""
    with pytest.raises(Exception, match="no funds"):
        shop.send_task("shop.decline", (1,)).get(timeout=TIMEOUT)
    answer = aws_iam.client("sqs").receive_message(QueueUrl=outputs["DefaultDeadQueueUrl"], WaitTimeSeconds=20)
    assert len(answer["Messages"]) == 1


def test_role_suffices_for_lost_messages(aws_iam: AwsEndpoint, outputs: dict[str, str], shop: Dispatcher) -> None:
    """What SQS gave up is sent home or fails, with its error callback and a dead letter, as its record says."""
    sent: list[Outgoing] = []
    task_id, lost_id = str(uuid.uuid4()), str(uuid.uuid4())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shop.broker, "send", sent.extend)
        result = shop.send_task("shop.add", (20, 22), task_id=task_id)
        errback = signature("shop.notify", app=shop, immutable=True, args=("ops",))
        lost = shop.send_task("shop.add", (1, 2), task_id=lost_id, link_error=errback)
    start = Write(lost_id, "PENDING", 0, 0, 0, final=False, token="x", starts=1, started_at=1.0, expires_at=2e9)
    assert shop.backend.write([start]) == [None]
    for message in sent:  # as SQS moves them
        aws_iam.client("sqs").send_message(QueueUrl=outputs["DefaultLostQueueUrl"], MessageBody=message.body)
    assert result.get(timeout=TIMEOUT) == 42
    with pytest.raises(WorkerLostError, match=r"never ended"):
        lost.get(timeout=TIMEOUT)
    told = shop.AsyncResult(derived_id(lost_id, "link_error/0"))
    assert told.get(timeout=TIMEOUT) == "mail to ops"
    found: list[str] = []
    deadline = time.monotonic() + TIMEOUT
    while lost_id not in found and time.monotonic() < deadline:
        answer = aws_iam.client("sqs").receive_message(
            QueueUrl=outputs["DefaultDeadQueueUrl"], MessageAttributeNames=["All"], MaxNumberOfMessages=10,
            VisibilityTimeout=0, WaitTimeSeconds=1,
        )  # fmt: skip
        found += [each["MessageAttributes"]["task_id"]["StringValue"] for each in answer.get("Messages", [])]
    assert lost_id in found


def test_role_suffices_for_states(shop: Dispatcher) -> None:
    """A task may record a state of its own."""
    assert shop.send_task("shop.pack", (["book", "lamp"],)).get(timeout=TIMEOUT) == 2


def test_role_suffices_for_unique_tasks(shop: Dispatcher) -> None:
    """Leases are taken, and given up in one transaction with the outcome."""
    results = [shop.send_task("shop.restock", ("lamp",)) for _ in range(3)]
    assert [result.get(timeout=TIMEOUT) for result in results] == ["lamp ordered"] * 3


def test_no_call_was_denied(aws_iam: AwsEndpoint, outputs: dict[str, str]) -> None:
    """The log of the tests above speaks of no denied call, not even of one that was made up for."""
    groups = aws_iam.client("logs").describe_log_groups()["logGroups"]
    lines = [
        event["message"]
        for group in groups
        for event in aws_iam.client("logs").filter_log_events(logGroupName=group["logGroupName"])["events"]
    ]
    assert any("BatchSize" in line for line in lines)
    assert not [line for line in lines if "AccessDenied" in line]
