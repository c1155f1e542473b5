"""Call the tasks of `celery_migration`, code as Celery projects have it, and print what they return.

    python examples/run_celery_migration.py

It starts the worker itself: ``dispatcher -A celery_migration worker -Q default,mail``.
"""

import subprocess
import sys
from pathlib import Path

# A package of its own beside this file; type checkers know it by its path from the repository's root.
from celery_migration.celery import app  # type: ignore[import-not-found]
from celery_migration.tasks import (  # type: ignore[import-not-found]
    add,
    close_account,
    export,
    send_newsletter,
    synchronise,
)

if __name__ == "__main__":
    worker = subprocess.Popen(
        [sys.executable, "-m", "dispatcher", "-A", "celery_migration", "worker", "-c", "2", "-Q", "default,mail"],
        cwd=Path(__file__).parent,
    )
    try:
        results = {
            "add": add.delay(2, 3),
            "synchronise": synchronise.apply_async((7,), countdown=0.5),
            "send_newsletter": send_newsletter.delay("ada@example.com"),
            "export": export.delay(100_000),
            "close_account": close_account.delay(8),
            "add by name": app.send_task("celery_migration.tasks.add", (20, 30)),
        }
        for name, result in results.items():
            value = result.get(timeout=30, propagate=False)
            print(f"{name}: {result.status} {value!r}")
    finally:
        worker.terminate()
        worker.wait()
