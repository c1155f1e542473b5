"""The app, where Celery projects keep it: ``dispatcher -A celery_migration worker`` finds it here."""

from dispatcher import Dispatcher as Celery

app = Celery("celery_migration", include=["celery_migration.tasks"])

app.config_from_object(
    {
        "task_serializer": "json",
        "accept_content": ["json"],
        "result_expires": 3600,
        "task_track_started": True,
        "task_default_queue": "default",
        "task_routes": {"celery_migration.tasks.send_*": {"queue": "mail"}},
        "worker_prefetch_multiplier": 1,
    }
)
