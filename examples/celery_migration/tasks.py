"""Tasks as they are often written for Celery."""

import time
from typing import Any

from dispatcher import Task, shared_task
from dispatcher.exceptions import SoftTimeLimitExceeded
from dispatcher.utils.log import get_task_logger

logger = get_task_logger(__name__)


class ServiceUnavailable(Exception):
    """The service is down for a moment."""


class BaseTask(Task):
    """What all tasks of this project share: retries with backoff, and a line in the log when one fails for good."""

    abstract = True
    autoretry_for = (ServiceUnavailable,)
    retry_kwargs = {"max_retries": 5}  # noqa: RUF012 - as Celery's users write it
    retry_backoff = True
    retry_backoff_max = 2
    retry_jitter = True

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Tell whoever is on duty."""
        logger.error("%s failed: %r", self.name, exc)
        super().on_failure(exc, task_id, args, kwargs, einfo)


@shared_task(
    max_retries=3,
    default_retry_delay=180,
    rate_limit=None,
    ignore_result=False,
    time_limit=None,
    soft_time_limit=None,
    serializer="json",
)
def add(x: int, y: int) -> int:
    """Add two numbers."""
    return x + y


@shared_task(bind=True, base=BaseTask)
def synchronise(self: Any, account: int) -> str:
    """Meet a service that is down once; the base class retries."""
    if self.request.retries == 0:
        raise ServiceUnavailable(f"account {account}")
    return f"account {account} synchronised after {self.request.retries} retries"


@shared_task(bind=True, base=BaseTask)
def send_newsletter(self: Any, address: str) -> str:
    """Retry by hand, with a delay of its own."""
    try:
        if self.request.retries < 1:
            raise TimeoutError("the mail server is slow")
    except TimeoutError as exc:
        raise self.retry(exc=exc, countdown=1) from exc
    return f"sent to {address} from queue {self.request.delivery_info['routing_key']}"


@shared_task(soft_time_limit=1)
def export(rows: int) -> dict[str, Any]:
    """Clean up at the soft limit and return what is there."""
    done = 0
    try:
        for _ in range(rows):
            time.sleep(0.01)
            done += 1
    except SoftTimeLimitExceeded:
        logger.warning("export stopped after %s rows", done)
        return {"rows": done > 0, "complete": False}
    return {"rows": True, "complete": True}


@shared_task(base=BaseTask)
def close_account(account: int) -> None:
    """Fail for good; ``on_failure`` is called."""
    raise LookupError(f"there is no account {account}")
