"""Ways to retry: by exception with backoff, by hand with a delay of one's own, and what happens when retries run out.

    python examples/retries.py

The tasks run in this process (eager mode), where delays are skipped, so that the whole story takes no time. The log
shows when each retry would have been.
"""

import logging
from typing import Any

from dispatcher import Dispatcher
from dispatcher.exceptions import MaxRetriesExceededError, SoftTimeLimitExceeded

app = Dispatcher("retries", task_always_eager=True)


class RateLimited(Exception):
    """The service asks us to come back in so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


@app.task(
    bind=True,
    autoretry_for=(ConnectionError,),
    dont_autoretry_for=(ConnectionRefusedError,),
    retry_backoff=2,
    retry_backoff_max=60,
    retry_jitter=False,
    max_retries=4,
)
def fetch(self: Any, failures: int) -> str:
    """Retry lost connections after 2, 4, 8 and 16 seconds; a refused one fails at once."""
    if failures < 0:
        raise ConnectionRefusedError("nobody listens there")
    if self.request.retries < failures:
        raise ConnectionResetError(f"lost at attempt {self.request.retries + 1}")
    return f"fetched at attempt {self.request.retries + 1}"


@app.task(bind=True, max_retries=3)
def post(self: Any, limited: int) -> str:
    """Retry when the service says so; without ``countdown`` it would be after ``default_retry_delay``, 180 s."""
    try:
        if self.request.retries < limited:
            raise RateLimited(30 * (self.request.retries + 1))
    except RateLimited as error:
        # With exc=error that would be raised when the retries run out; without it, MaxRetriesExceededError is.
        raise self.retry(countdown=error.seconds) from None
    return f"posted after {self.request.retries} retries"


@app.task(bind=True, soft_time_limit=0.2, max_retries=1)
def draw(self: Any, size: int) -> str:
    """Clean up at the soft limit, and try once more with less to do."""
    try:
        drawn = draw_points(size)
    except SoftTimeLimitExceeded:
        raise self.retry(kwargs={"size": 1000}, args=(), countdown=5) from None
    return f"{drawn} points"


def draw_points(size: int) -> int:
    """Count them. A limit may miss the ``try`` of a loop that stands right in it: some releases leave its jump out."""
    drawn = 0
    while drawn < size:
        drawn += 1
    return drawn


def main() -> None:
    """Run each task and print what became of it."""
    logging.basicConfig(level=logging.WARNING, format="    %(message).100s")
    print("two lost connections:", fetch.delay(2).get())
    print("a refused one:", repr(fetch.delay(-1).get(propagate=False)))
    print("more than max_retries:", repr(fetch.delay(9).get(propagate=False)))
    print("a service that is busy twice:", post.delay(2).get())
    try:
        post.delay(9).get()
    except MaxRetriesExceededError as error:
        print("busy for too long:", type(error).__name__)
    print("too much to draw in time:", draw.delay(10**12).get())


if __name__ == "__main__":
    main()
