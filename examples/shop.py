"""A small shop whose orders are tasks: the app that `template.yaml` deploys.

    order = place.delay(42, ["book", "lamp"])
    print(order.get(timeout=10))

Set ``DISPATCHER_BROKER_URL=sqs://`` and the variables that the stack prints, and a Lambda function runs them; set
nothing, and ``dispatcher -A examples.shop worker`` does, on the embedded SQLite file.
"""

from __future__ import annotations

import asyncio
import datetime
import time
from typing import Any

from dispatcher import Dispatcher
from dispatcher.exceptions import SoftTimeLimitExceeded
from dispatcher.utils.log import get_task_logger

app = Dispatcher("shop")
logger = get_task_logger(__name__)


class PaymentDeclined(Exception):
    """The bank said no, and will say so again."""


class BankUnavailable(Exception):
    """The bank did not answer; it may at the next try."""


@app.task
def add(x: float, y: float) -> float:
    """Add two prices."""
    return x + y


@app.task(bind=True)
def charge(self: Any, order_id: int, failures: int = 1) -> str:
    """Charge a card at a bank that does not answer the first ``failures`` times."""
    if self.request.retries < failures:
        raise self.retry(exc=BankUnavailable(f"no answer for order {order_id}"), countdown=1, max_retries=10)
    return f"order {order_id} charged at try {self.request.retries + 1}"


@app.task
def decline(order_id: int) -> None:
    """Fail for good."""
    raise PaymentDeclined(f"order {order_id}: no funds")


@app.task
async def notify(address: str) -> str:
    """Wait for a mail server, together with other mails of the batch."""
    await asyncio.sleep(0.05)
    return f"mail to {address}"


@app.task(soft_time_limit=0.2)
def render(pages: int) -> str:
    """Draw an invoice; what is drawn at the soft limit has to do."""
    drawn = 0
    try:
        while drawn < pages:
            time.sleep(0.01)
            drawn += 1
    except SoftTimeLimitExceeded:
        return f"some of {pages} pages"
    return f"{drawn} pages"


@app.task
def archive(invoice: bytes, day: datetime.date, at: datetime.datetime) -> dict[str, Any]:
    """Take and return what plain JSON cannot carry."""
    return {"invoice": invoice[::-1], "week": day.isocalendar().week, "kept_until": at + datetime.timedelta(days=365)}


@app.task(bind=True)
def pack(self: Any, items: list[str]) -> int:
    """Tell how far it is, by a state of its own."""
    for number, item in enumerate(items, start=1):
        self.update_state(state="PACKING", meta={"done": number, "item": item})
    return len(items)


@app.task(ignore_result=True, revocable=False)
def count_view(page: str) -> None:
    """Do so little that no record is worth it: a lean task."""
    logger.info("%s was looked at", page)
