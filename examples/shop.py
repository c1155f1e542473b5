"""A small shop whose orders are tasks: the app that `template.yaml` deploys.

    python examples/shop.py                                          a worker of its own runs them, on SQLite
    DISPATCHER_TASK_ALWAYS_EAGER=1 python examples/shop.py           they run in this process
    python examples/shop.py --send-only                              somebody else runs them: Lambda, or a worker

Set ``DISPATCHER_BROKER_URL=sqs://`` and the variables that the stack prints, and a Lambda function runs them. Whoever
runs them, what is printed is the same.
"""

from __future__ import annotations

import asyncio
import datetime
import importlib
import json
import subprocess
import sys
import time
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

from dispatcher import AsyncResult, Dispatcher, group
from dispatcher.exceptions import Ignore, SoftTimeLimitExceeded
from dispatcher.utils.log import get_task_logger

app = Dispatcher("shop")
# What `sam build` runs for the functions' package: handlers/Makefile.
app.conf.infra = {"code": "handlers/", "build": "makefile"}
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


@app.task
def total(prices: list[Decimal]) -> Decimal:
    """Add prices to the cent, which floats cannot."""
    return sum(prices, Decimal(0))


@app.task
def largest(prices: list[float]) -> float:
    """Take the results of several tasks."""
    return max(prices)


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


@app.task(unique=True)
def restock(article: str) -> str:
    """Order an article once, however many calls ask for it before that is done."""
    return f"{article} ordered"


@app.task(bind=True)
def hold(self: Any, order_id: int, reason: str) -> None:
    """End in a state of the shop's own."""
    self.update_state(state="ON_HOLD", meta={"order": order_id, "reason": reason})
    raise Ignore


def visit() -> dict[str, Any]:
    """Send one task of each kind, wait for all of them, and return what became of them."""
    noon = datetime.datetime(2026, 11, 22, 12, tzinfo=datetime.UTC)
    receipt = str(uuid.uuid4())
    results: dict[str, AsyncResult[Any]] = {
        "add": add.delay(19.5, 0.5),
        "charge": charge.delay(42),
        "decline": decline.delay(43),
        "notify": notify.delay("ada@example.com"),
        "render": render.delay(10_000),
        "archive": archive.delay(b"\x00PDF", noon.date(), noon),
        "total": total.delay([Decimal("0.10"), Decimal("0.20")]),
        "pack": pack.delay(["book", "lamp"]),
        "hold": hold.delay(44, "out of stock"),
        "restock": restock.delay("lamp"),
        "again": restock.delay(article="lamp"),
        # Its value becomes the first argument of the task that is linked.
        "first": add.apply_async((1, 2), link=add.s(10).set(task_id=receipt)),
    }
    # One task, then two side by side, one of them a chain of its own, then one with the results of both.
    results["basket"] = (add.s(1, 2) | group(add.s(10), add.s(20) | add.s(1)) | largest.s()).apply_async()
    count_view.delay("/books/1")
    if not app.conf.task_always_eager or app.conf.task_store_eager_result:
        results["linked"] = app.AsyncResult(receipt)
    return {name: _told(result) for name, result in results.items()}


def _told(result: AsyncResult[Any]) -> str:
    value = result.get(timeout=60, propagate=False)
    return f"{result.state} {type(value).__name__} {value}"


def main() -> None:
    """Send the tasks, and run them in a worker process unless somebody else does."""
    if "--send-only" in sys.argv or app.conf.task_always_eager:
        print(json.dumps(visit(), indent=2))
        return
    here = Path(__file__)
    worker = subprocess.Popen([sys.executable, "-m", "dispatcher", "-q", "-A", here.stem, "worker"], cwd=here.parent)
    try:
        print(json.dumps(visit(), indent=2))
    finally:
        worker.terminate()
        worker.wait()


if __name__ == "__main__":
    # By its own name, as the worker knows it: then a PaymentDeclined from there is the one that is caught here.
    importlib.import_module(Path(__file__).stem).main()
