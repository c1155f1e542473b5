"""Which SQS queue a name means: names, URLs, options, and queues made where that is allowed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher import aws
from dispatcher.aws_options import ClientSettings, Credentials
from dispatcher.brokers.base import Outgoing
from dispatcher.brokers.sqs import SQSBroker
from dispatcher.brokers.sqs_queues import Queues
from dispatcher.exceptions import ImproperlyConfigured, OperationalError, UnsupportedOption
from tests.unit.aws_wire import Refused, Wire, accept_batch

AWS: dict[str, Any] = {"region": "sa-east-1", "access_key_id": "AKID", "secret_access_key": "secret"}
EMULATOR: dict[str, Any] = {**AWS, "endpoint_url": "http://127.0.0.1:9"}
MISSING = Refused("AWS.SimpleQueueService.NonExistentQueue")


def client(options: dict[str, Any]) -> Any:
    """The client that a broker with these options uses."""
    keys = Credentials(options["access_key_id"], options["secret_access_key"])
    return aws.client("sqs", ClientSettings(options["region"], options.get("endpoint_url"), credentials=keys))


@pytest.fixture
def wire() -> Iterator[Wire]:
    """Answers for brokers with the options `AWS`."""
    wire = Wire(client(AWS))
    wire.on("SendMessageBatch", accept_batch)
    yield wire
    wire.close()


@pytest.fixture
def emulator() -> Iterator[Wire]:
    """Answers for brokers with the options `EMULATOR`: no queue exists until it is made."""
    wire = Wire(client(EMULATOR))
    made: set[str] = set()

    def find(parameters: dict[str, Any]) -> dict[str, Any]:
        if parameters["QueueName"] not in made:
            raise MISSING
        return {"QueueUrl": f"http://127.0.0.1:9/1/{parameters['QueueName']}"}

    def make(parameters: dict[str, Any]) -> dict[str, Any]:
        made.add(parameters["QueueName"])
        return find(parameters)

    wire.on("GetQueueUrl", find)
    wire.on("CreateQueue", make)
    wire.on("GetQueueAttributes", lambda p: {"Attributes": {"QueueArn": "arn:" + p["QueueUrl"].rsplit("/", 1)[1]}})
    wire.on("SendMessageBatch", accept_batch)
    yield wire
    wire.close()


def send(options: dict[str, Any], queue: str = "orders") -> SQSBroker:
    """Send a message with a broker of these options."""
    broker = SQSBroker("sqs://", options)
    broker.send([Outgoing(queue, "{}", "t1")])
    return broker


# Names


@pytest.mark.parametrize(
    ("queue", "name"),
    [
        ("celery", "celery"),
        ("orders.eu", "dev-x-orders-eu"),
        ("a:b/c d", "dev-x-a_b_c d"),
        ("orders.fifo", "dev-x-orders.fifo"),
        ("orders.eu.fifo", "dev-x-orders-eu.fifo"),
    ],
)
def test_names_are_made_legal_as_in_celery(queue: str, name: str) -> None:
    """A dot becomes a dash, other punctuation an underscore; the prefix comes first; .fifo stays."""
    queues = Queues({"queue_name_prefix": "" if queue == "celery" else "dev.x-"})
    if " " in queue:
        with pytest.raises(ImproperlyConfigured, match="cannot be the name of an SQS queue"):
            queues.sqs_name(queue)
    else:
        assert queues.sqs_name(queue) == name


@pytest.mark.parametrize("queue", ["", ".fifo", "bücher", "x" * 81])
def test_names_that_cannot_be_made_legal_are_refused(queue: str) -> None:
    """Letters beyond ASCII, nothing at all, and more than 80 characters."""
    with pytest.raises(ImproperlyConfigured):
        Queues({}).sqs_name(queue)


def test_two_names_for_one_queue_are_refused() -> None:
    """Messages of one would be run for the other."""
    queues = Queues({})
    assert queues.sqs_name("a.b") == "a-b"
    assert queues.sqs_name("a.b") == "a-b"
    with pytest.raises(ImproperlyConfigured, match=r"'a\.b' and 'a-b'"):
        queues.sqs_name("a-b")


def test_dead_letters_have_a_queue_of_the_same_kind() -> None:
    """FIFO queues need FIFO dead-letter queues."""
    assert (Queues.dead("orders"), Queues.dead("orders.fifo")) == ("orders-dead", "orders-dead.fifo")
    assert (Queues.lost("orders"), Queues.lost("orders.fifo")) == ("orders-lost", "orders-lost.fifo")
    assert (Queues.dead("orders-lost"), Queues.dead("orders-lost.fifo")) == ("orders-dead", "orders-dead.fifo")


# URLs


def test_a_url_is_looked_up_once(wire: Wire) -> None:
    """By its name with the prefix; later sends use what was found."""
    wire.script("GetQueueUrl", {"QueueUrl": "https://sqs.sa-east-1.amazonaws.com/1/dev-orders"})
    broker = send({**AWS, "queue_name_prefix": "dev-"})
    broker.send([Outgoing("orders", "{}", "t2")])
    assert wire.of("GetQueueUrl") == [{"QueueName": "dev-orders"}]
    assert {call["QueueUrl"] for call in wire.of("SendMessageBatch")} == {
        "https://sqs.sa-east-1.amazonaws.com/1/dev-orders"
    }


@pytest.mark.parametrize(
    "options",
    [
        {"queue_urls": {"orders": "https://x/1/stack-orders"}},
        {"queue_urls": lambda queue: {"orders": "https://x/1/stack-orders"}.get(queue)},
        {"predefined_queues": {"orders": {"url": "https://x/1/stack-orders"}}},
    ],
)
def test_a_configured_url_needs_no_look_up(wire: Wire, options: dict[str, Any]) -> None:
    """From a mapping, a function (the environment's) or Celery's predefined_queues."""
    send({**AWS, **options})
    assert wire.operations == ["SendMessageBatch"]


def test_dead_letters_of_a_configured_queue_go_by_its_name(wire: Wire) -> None:
    """What the template named is what its dead-letter queue is named after."""
    queues = Queues({**AWS, "queue_urls": {"o.fifo": "https://x/1/stack-o-1A.fifo"}.get})
    wire.script("GetQueueUrl", {"QueueUrl": "https://x/1/stack-o-1A-dead.fifo"})
    assert queues.url("o-dead.fifo") == "https://x/1/stack-o-1A-dead.fifo"
    assert queues.find_lost("o.fifo") == "o-lost.fifo"
    assert wire.of("GetQueueUrl") == [{"QueueName": "stack-o-1A-dead.fifo"}, {"QueueName": "stack-o-1A-lost.fifo"}]


def test_a_lost_queue_has_no_lost_queue(wire: Wire) -> None:
    """A worker that is told to consume one runs its messages, and does not send them home to another as well."""
    wire.script("GetQueueUrl", {"QueueUrl": "https://x/1/orders-lost"})
    broker = SQSBroker("sqs://", AWS)
    assert broker.lost_queues(["orders-lost", "orders-dead"]) == []
    assert broker.lost_queues(["orders", "orders-lost"]) == ["orders-lost"]


def test_lost_queues_that_we_may_not_know_of_do_not_exist(wire: Wire) -> None:
    """A role from before there were lost queues goes on working."""
    for refusal in (MISSING, Refused("AccessDenied", status=403)):
        wire.script("GetQueueUrl", refusal)
        assert SQSBroker("sqs://", AWS).lost_queues(["orders"]) == []
    wire.script("GetQueueUrl", Refused("InternalError", status=500))
    with pytest.raises(OperationalError):
        SQSBroker("sqs://", AWS).lost_queues(["orders"])


def test_a_missing_queue_on_aws_is_a_clear_error(wire: Wire) -> None:
    """Nothing is made by itself in an account; the message names the variable to set."""
    wire.script("GetQueueUrl", MISSING)
    with pytest.raises(OperationalError, match=r"DISPATCHER_QUEUE_URL_ORDERS_EU_FIFO.*create_missing_queues=True"):
        send(AWS, "orders-eu.fifo")
    assert wire.operations == ["GetQueueUrl"]


def test_a_queue_made_anew_is_found_anew(wire: Wire) -> None:
    """A URL that no longer exists is looked up once more."""
    urls = iter(["https://x/1/old", "https://x/2/new"])
    wire.on("GetQueueUrl", lambda _: {"QueueUrl": next(urls)})

    def answer(parameters: dict[str, Any]) -> dict[str, Any]:
        if parameters["QueueUrl"].endswith("old"):
            raise MISSING
        return accept_batch(parameters)

    wire.on("SendMessageBatch", answer)
    send(AWS)
    assert [call["QueueUrl"] for call in wire.of("SendMessageBatch")] == ["https://x/1/old", "https://x/2/new"]


def test_predefined_queues_may_have_keys_of_their_own() -> None:
    """Each entry's keys and region are used for it and its dead letters."""
    own = {"url": "https://x/1/orders", "access_key_id": "OTHER", "secret_access_key": "s2", "region": "eu-north-1"}
    queues = Queues({**AWS, "predefined_queues": {"orders": own}})
    assert queues.client("orders").meta.region_name == "eu-north-1"
    assert queues.client("orders-dead") is queues.client("orders")
    assert queues.client("mails").meta.region_name == "sa-east-1"
    assert queues.listed() == ["orders"]


@pytest.mark.parametrize(
    ("entry", "error", "match"),
    [
        ({}, ImproperlyConfigured, "with a 'url'"),
        ({"url": "https://x/1/orders.fifo"}, ImproperlyConfigured, "must both end in '.fifo'"),
        ({"url": "https://x/1/o", "backoff_policy": {1: 10}}, UnsupportedOption, "retry_backoff"),
        ({"url": "https://x/1/o", "backoff_tasks": ["a"]}, UnsupportedOption, "retry_backoff"),
        ({"url": "https://x/1/o", "urll": "x"}, ImproperlyConfigured, "did you mean 'url'"),
        ({"url": "https://x/1/o", "access_key_id": "only"}, ImproperlyConfigured, "both"),
    ],
)
def test_wrong_predefined_queues_are_refused(entry: dict[str, Any], error: type[Exception], match: str) -> None:
    """At construction, naming the entry."""
    with pytest.raises(error, match=match):
        SQSBroker("sqs://", {"region": "eu-west-1", "predefined_queues": {"orders": entry}})


# Making queues


def test_a_missing_queue_is_made_on_an_emulator(emulator: Wire) -> None:
    """As the template would: each queue redrives to the next, which keeps messages longer."""
    send(EMULATOR)
    dead, lost, own = emulator.of("CreateQueue")
    assert dead == {"QueueName": "orders-dead", "Attributes": {"MessageRetentionPeriod": "1209600"}}
    assert (lost["QueueName"], own["QueueName"]) == ("orders-lost", "orders")
    assert own["Attributes"]["VisibilityTimeout"] == lost["Attributes"]["VisibilityTimeout"] == "5400"
    policy = json.loads(own["Attributes"]["RedrivePolicy"])
    assert policy == {"deadLetterTargetArn": "arn:orders-lost", "maxReceiveCount": 100}
    policy = json.loads(lost["Attributes"]["RedrivePolicy"])
    assert policy == {"deadLetterTargetArn": "arn:orders-dead", "maxReceiveCount": 1000}
    assert lost["Attributes"]["MessageRetentionPeriod"] == "777600"


def test_a_fifo_queue_is_made_with_its_attributes(emulator: Wire) -> None:
    """All three are FIFO, of the kind whose groups do not wait for one another."""
    send(EMULATOR, "orders.fifo")
    names = [call["QueueName"] for call in emulator.of("CreateQueue")]
    assert names == ["orders-dead.fifo", "orders-lost.fifo", "orders.fifo"]
    for call in emulator.of("CreateQueue"):
        assert call["QueueName"].endswith(".fifo")
        assert call["Attributes"]["FifoQueue"] == "true"
        assert call["Attributes"]["FifoThroughputLimit"] == "perMessageGroupId"


def test_creation_attributes_and_tags_are_the_users(emulator: Wire) -> None:
    """Encryption goes to all queues, the rest to the queue; the user's value wins."""
    options = {
        "sqs-creation-attributes": {"KmsMasterKeyId": "alias/k", "VisibilityTimeout": "60"},
        "queue_tags": {"team": "backend"},
    }
    send({**EMULATOR, **options})
    dead, lost, own = emulator.of("CreateQueue")
    assert lost["Attributes"]["KmsMasterKeyId"] == "alias/k"
    assert dead["Attributes"] == {"KmsMasterKeyId": "alias/k", "MessageRetentionPeriod": "1209600"}
    assert (own["Attributes"]["KmsMasterKeyId"], own["Attributes"]["VisibilityTimeout"]) == ("alias/k", "60")
    assert dead["tags"] == lost["tags"] == own["tags"] == {"team": "backend"}


def test_making_queues_can_be_forbidden(emulator: Wire) -> None:
    """create_missing_queues=False holds everywhere."""
    with pytest.raises(OperationalError, match="there is no SQS queue 'orders'"):
        send({**EMULATOR, "create_missing_queues": False})
    assert emulator.of("CreateQueue") == []


def test_a_queue_that_another_process_made_is_used(emulator: Wire) -> None:
    """Its attributes may differ from ours."""
    urls = iter([MISSING, MISSING])

    def find(parameters: dict[str, Any]) -> dict[str, Any]:
        error = next(urls, None)
        if error:
            raise error
        return {"QueueUrl": f"http://127.0.0.1:9/1/{parameters['QueueName']}"}

    emulator.on("GetQueueUrl", find)
    emulator.script("CreateQueue", Refused("QueueAlreadyExists"))
    queues = Queues({**EMULATOR, "sqs-creation-attributes": {"RedrivePolicy": "{}"}})
    assert queues.find("orders") is None
    assert queues.url("orders").endswith("/1/orders")


# Looking


def test_listed_queues_lose_their_prefix_and_dead_letters(wire: Wire) -> None:
    """All pages; names that were used before come as they were used."""
    pages = iter(
        [
            {
                "QueueUrls": ["https://x/1/dev-a-b", "https://x/1/dev-a-b-dead", "https://x/1/dev-z-lost"],
                "NextToken": "t",
            },
            {"QueueUrls": ["https://x/1/dev-o.fifo", "https://x/1/dev-o-dead.fifo"]},
        ]
    )
    wire.on("ListQueues", lambda _: next(pages))
    queues = Queues({**AWS, "queue_name_prefix": "dev-"})
    queues.sqs_name("a.b")
    assert queues.listed() == ["a.b", "o.fifo"]
    first, second = wire.of("ListQueues")
    assert first["QueueNamePrefix"] == "dev-"
    assert second["NextToken"] == "t"


def test_a_missing_queue_counts_as_empty(wire: Wire) -> None:
    """Looking makes no queue."""
    wire.script("GetQueueUrl", MISSING)
    broker = SQSBroker("sqs://", {**AWS, "create_missing_queues": True})
    assert broker.counts("orders") == (0, 0, 0, 0)
    assert broker.dead_letters("orders") == []
    assert broker.purge("orders") == 0
    assert wire.of("CreateQueue") == []


# Options


@pytest.mark.parametrize(
    "option",
    [
        "sqs_base64_encoding", "fetch_message_attributes", "supports_fanout", "predefined_exchanges", "port",
        "regioninfo", "sts_token_buffer_time", "max_retries", "priority_steps", "queue_order_strategy",
    ],
)  # fmt: skip
def test_celerys_options_without_meaning_are_refused(option: str) -> None:
    """Each by its name, with the reason."""
    with pytest.raises(UnsupportedOption, match=f"'{option}' cannot work here: .+"):
        SQSBroker("sqs://", {"region": "eu-west-1", option: 1})


def test_the_url_names_no_queue() -> None:
    """A queue's name in the URL is a mistake that is explained."""
    with pytest.raises(ImproperlyConfigured, match="task_default_queue"):
        SQSBroker("sqs://eu-west-1/orders")


def test_constructing_calls_nothing(wire: Wire) -> None:
    """Connections are opened on first use."""
    SQSBroker("sqs://", AWS)
    assert wire.calls == []


def test_threads_that_meet_a_queue_made_anew_all_look_again(wire: Wire) -> None:
    """One has forgotten the old URL and is looking for the new one when the other learns that the old one is gone."""
    old, new = (f"https://sqs.sa-east-1.amazonaws.com/{account}/orders" for account in (1, 2))
    broker = SQSBroker("sqs://", AWS)
    wire.script("GetQueueUrl", {"QueueUrl": old})
    broker.send([Outgoing("orders", "{}", "t0")])
    first_is_out, others_are_done = threading.Event(), threading.Event()
    errors: list[Exception] = []

    def send_first() -> None:
        try:
            broker.send([Outgoing("orders", "{}", "first")])
        except OperationalError as error:
            errors.append(error)
        others_are_done.set()

    def accept(parameters: dict[str, Any]) -> dict[str, Any]:
        if parameters["QueueUrl"] == new:
            return accept_batch(parameters)
        if threading.current_thread() is first:
            first_is_out.set()
            assert looks.wait(30)
        raise MISSING

    def look(parameters: dict[str, Any]) -> dict[str, Any]:
        if threading.current_thread() is not first:
            looks.set()
            assert others_are_done.wait(30)
        return {"QueueUrl": new}

    looks, first = threading.Event(), threading.Thread(target=send_first)
    wire.on("SendMessageBatch", accept)
    wire.on("GetQueueUrl", look)
    first.start()
    assert first_is_out.wait(30)
    broker.send([Outgoing("orders", "{}", "second")])
    first.join()
    assert errors == []
