"""An app with everything that a plan can hold: several queues, one of them FIFO, limits, rates and schedules."""

from dispatcher import Dispatcher
from dispatcher.schedules import crontab

app = Dispatcher("press")
app.conf.update(
    task_routes={"press.archive_*": {"queue": "archive"}},
    task_queues=["default", "orders.fifo", "archive", "video", "gpu"],
    timezone="UTC",
    infra={
        "memory": 1024,
        "payload_days": 45,
        "producers": ["111122223333"],
        "queues": {
            "video": {"memory": 3008, "architecture": "x86_64", "maximum_concurrency": 4},
            "archive": {"batch_size": 100, "batching_window": 20, "environment": {"DEPTH": "3"}},
            "gpu": {"function": False},
        },
        "stages": {"prod": {"queues": {"video": {"maximum_concurrency": 40}}}},
    },
    beat_schedule={
        "morning <report>": {"task": "press.report", "schedule": crontab(minute=0, hour=6, day_of_week="mon-fri")},
        "payday": {
            "task": "press.report",
            "schedule": crontab(minute=0, hour=6, day_of_month="1-7", day_of_week="mon"),
        },
        "poll": {"task": "press.poll", "schedule": 15.0},
        "close": {"task": "press.close", "schedule": 300.0, "options": {"queue": "orders.fifo"}},
        "off": {"task": "press.poll", "schedule": 3600.0, "enabled": False},
    },
)


@app.task(name="press.report")
def report() -> None:
    """Write a report."""


@app.task(name="press.poll", ignore_result=True, revocable=False, rate_limit="100/m", rate_limit_scope="global")
def poll() -> None:
    """Look for news."""


@app.task(name="press.close", queue="orders.fifo", time_limit=30, unique=True)
def close() -> None:
    """Close the books."""


@app.task(name="press.archive_day")
def archive_day(day: str) -> None:
    """Put a day away."""


@app.task(name="press.cut", queue="video", time_limit=280, soft_time_limit=270)
def cut(path: str) -> None:
    """Cut a film."""


@app.task(name="press.train", queue="gpu", time_limit=7200)
def train() -> None:
    """Take hours, on a machine of one's own."""
