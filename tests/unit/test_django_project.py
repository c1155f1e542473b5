"""What a process that runs tasks does for a Django project; a stand-in has the few names of Django that it asks for."""

import os
import subprocess
import sys
from pathlib import Path

DJANGO = {
    "django/__init__.py": """
def setup():
    from django.apps import apps
    apps.ready = True
    print("set up")
""",
    "django/apps.py": """
class Config:
    name = "shop"

class Apps:
    ready = False
    def get_app_configs(self):
        assert self.ready, "AppRegistryNotReady"
        return [Config]

apps = Apps()
""",
    "django/db.py": """
def close_old_connections():
    print("closed old ones")

class Connections:
    def close_all(self):
        print("closed all")

connections = Connections()
""",
    "shop/__init__.py": "",
    "shop/tasks.py": """
from django.apps import apps
from dispatcher import shared_task
assert apps.ready, "AppRegistryNotReady"

@shared_task
def sell():
    print("sold")
""",
    "main.py": """
from dispatcher import Dispatcher, signals
app = Dispatcher("proj", broker="memory://")
app.autodiscover_tasks()
app.import_default_modules()
app.import_default_modules()
signals.worker_before_create_process.send(None)
app.tasks["shop.tasks.sell"].apply()
from dispatcher.consumer.worker import Worker
app.tasks["shop.tasks.sell"].delay()
app.task(lambda: worker.stop(), name="stop").delay()
worker = Worker(app, pool="solo", handle_signals=False)
worker.start()
""",
}


def test_django_is_set_up_where_its_settings_are_named(tmp_path: Path) -> None:
    """Its apps are there before modules of tasks are; connections are looked after, but for those of eager callers."""
    for name, text in DJANGO.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "proj.settings", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "main.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    closed = "closed old ones"
    assert done.stdout.splitlines() == ["set up", "closed all", "sold", closed, "sold", closed, closed, closed], (
        done.stderr
    )


def test_missing_django_is_a_warning(tmp_path: Path) -> None:
    """The variable may be that of another program; nothing is done, and said."""
    program = "from dispatcher import Dispatcher; Dispatcher('x').import_default_modules()"
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "proj.settings"}
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['django'] = None; " + program],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert "DJANGO_SETTINGS_MODULE is set and Django is not installed" in done.stderr
    assert done.returncode == 0
