"""SQS events become deliveries, wherever they come from and whatever they lack."""

import json
from pathlib import Path
from typing import Any

import pytest

from dispatcher import Dispatcher
from dispatcher.brokers.sqs import SQSBroker
from dispatcher.lambda_runtime import events
from dispatcher.lambda_runtime.sources import Sources, names_of

NOW = 1763831480.0


def event(name: str) -> dict[str, Any]:
    """Read an event as AWS sends it."""
    loaded: dict[str, Any] = json.loads((Path(__file__).parent / "events" / f"{name}.json").read_text())
    return loaded


def delivered(name: str, index: int = 0) -> Any:
    """Return a record of an event as a delivery of the queue that its ARN ends in."""
    records = events.records_of(event(name))
    return events.deliveries_of(records, lambda arn: arn.rpartition(":")[2], NOW)[index]


def test_standard_event() -> None:
    """A message has its body, receipt, count, queue, and times in epoch seconds."""
    delivery = delivered("standard")
    assert json.loads(delivery.body)["task"] == "shop.add"
    assert delivery.receipt.startswith("AQEB")
    assert delivery.message_id == "059f36b4-87a3-44ab-83d2-661975830a7d"
    assert delivery.queue == "my-queue"
    assert delivery.receive_count == 1
    assert delivery.sent_at == 1763831471.239
    assert delivery.group_id is None
    assert delivery.order is None


def test_receipt_is_as_old_as_the_first_receive() -> None:
    """The 12 hours of a message received once run since then; of another one only the batch's arrival is known."""
    assert delivered("standard").attributes["received_at"] == 1763831471.245
    assert delivered("standard", 1).receive_count == 4
    assert delivered("standard", 1).attributes["received_at"] == NOW


def test_fifo_event() -> None:
    """A message of a FIFO queue has a group whose order counts."""
    delivery = delivered("fifo")
    assert delivery.group_id == "customer-7"
    assert delivery.order == "customer-7"


def test_message_attributes_are_plain_values() -> None:
    """Texts and numbers are texts, binary attributes bytes."""
    assert delivered("attributes").attributes["message_attributes"] == {
        "reason": "failed", "retries": "3", "trace": b"\x00\x01\x02\x03",
    }  # fmt: skip


@pytest.mark.parametrize(
    "strange",
    [None, [], "Records", 7, {}, {"Records": None}, {"Records": {}}, {"Records": [None, 7, [], "x"]},
     {"Records": [{"eventSource": "aws:sns", "messageId": "1"}]},
     {"Records": [{"eventSource": "aws:sqs"}]},
     {"Records": [{"eventSource": "aws:sqs", "messageId": ""}]}],
)  # fmt: skip
def test_what_is_no_sqs_message_is_left_out(strange: Any) -> None:
    """Other events have no messages."""
    assert events.records_of(strange) == []


@pytest.mark.parametrize("broken", ["", "1.5", "-3", "x", "9" * 40, "٣", None, [], -1, 10**30])
def test_broken_figures_count_as_missing(broken: Any) -> None:
    """A count or time that is no whole number is as if it were not there."""
    [record] = event("fifo")["Records"]
    record["attributes"].update(ApproximateReceiveCount=broken, SentTimestamp=broken)
    delivery = events.delivery_of(record, "q", NOW)
    assert delivery.receive_count in (1, 3)
    assert delivery.sent_at in (None, 0.003)


def test_broken_attributes_are_left_out() -> None:
    """Message attributes of another shape, or with illegal base64, do not disturb the others."""
    attributes = {"a": None, "b": {"binaryValue": "§"}, "c": {"stringValue": 7}, "d": {"stringValue": "kept"}}
    assert events.message_attributes_of(attributes) == {"d": "kept"}
    assert events.message_attributes_of("none") == {}


def sources(environ: dict[str, str], prefix: str = "", **settings: Any) -> Sources:
    """Return what maps ARNs for an app with these settings."""
    from dispatcher.config import queue_url_for, queue_urls

    app = Dispatcher("shop", broker="sqs://", set_as_current=False, **settings)
    broker = SQSBroker("sqs://", {"queue_name_prefix": prefix} if prefix else {})
    names = names_of(app)
    return Sources(
        names,
        lambda name: queue_url_for(name, environ),
        queue_urls(environ),
        lambda name: broker.local_name(name, names),
    )


ARN = "arn:aws:sqs:eu-west-1:123456789012:"
URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/"


def test_queue_is_found_by_its_url() -> None:
    """The name a stack gave a queue leads to the app's name for it, dots and dashes included."""
    found = sources(
        {"DISPATCHER_QUEUE_URL_ORDERS_EU_1": f"{URL}stack-Orders-X7"}, task_routes={"shop.*": {"queue": "orders.eu-1"}}
    )
    assert found.queue_of(f"{ARN}stack-Orders-X7") == "orders.eu-1"


def test_queue_of_another_account_is_another_queue() -> None:
    """Account and name must both match."""
    found = sources({"DISPATCHER_QUEUE_URL_DEFAULT": f"{URL}tasks"})
    assert found.queue_of("arn:aws:sqs:eu-west-1:999999999999:tasks") == "tasks"


def test_queue_that_only_the_environment_names() -> None:
    """A queue that the app never mentions is called after its variable."""
    found = sources({"DISPATCHER_QUEUE_URL_MAILS_FIFO": f"{URL}stack-mails.fifo"})
    assert found.queue_of(f"{ARN}stack-mails.fifo") == "mails.fifo"


def test_queue_is_found_by_its_prefixed_name() -> None:
    """Without URLs the broker's own naming is undone, also where it changed characters."""
    found = sources({}, "shop_", task_queues={"orders.eu": {}})
    assert found.queue_of(f"{ARN}shop_orders-eu") == "orders.eu"
    assert found.queue_of(f"{ARN}shop_mails") == "mails"
    assert found.queue_of(f"{ARN}elsewhere") == "elsewhere"


def test_lost_queue_is_found_by_its_own_queue() -> None:
    """By the URL or the name of the queue whose messages it holds; their signatures name that one."""
    by_url = sources({"DISPATCHER_QUEUE_URL_ORDERS_FIFO": f"{URL}stack-o.fifo"}, task_queues={"orders.fifo": {}})
    assert by_url.queue_of(f"{ARN}stack-o-lost.fifo") == "orders-lost.fifo"
    assert by_url.queue_of(f"{ARN}stack-o-dead.fifo") == "orders-dead.fifo"
    by_name = sources({}, "shop_", task_queues={"orders.eu": {}})
    assert by_name.queue_of(f"{ARN}shop_orders-eu-lost") == "orders.eu-lost"


def test_names_come_from_settings_routes_and_tasks() -> None:
    """Every queue that an app names anywhere is known."""
    app = Dispatcher(
        "shop", set_as_current=False, task_default_queue="base", task_queues={"a": {}},
        task_routes=[{"x.*": "b"}, {"y": {"queue": "c"}}],
    )  # fmt: skip
    app.task(name="shop.t", queue="d")(lambda: None)
    assert names_of(app) == ["a", "b", "base", "c", "d"]
