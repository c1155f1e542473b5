"""An app in a time zone, with long delays and a key of its own: what needs EventBridge Scheduler and KMS."""

from dispatcher import Dispatcher
from dispatcher.schedules import crontab

app = Dispatcher("clocks", set_as_current=False)
app.conf.update(
    timezone="Europe/Berlin",
    infra={
        "kms_key": "arn:aws:kms:eu-central-1:111122223333:key/00000000-0000-0000-0000-000000000000",
        "scheduler": True,
        "vpc": {"subnets": ["subnet-0123456789abcdef0"], "security_groups": ["sg-0123456789abcdef0"]},
    },
    beat_schedule={"chime": {"task": "clocks.strike", "schedule": crontab(minute=0, hour="6-22")}},
)


@app.task
def strike() -> None:
    """Strike the hour."""
