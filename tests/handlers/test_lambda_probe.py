"""An import is tried in a child process before it may harm the one that matters."""

import os
import time
from pathlib import Path

import pytest

from dispatcher import Dispatcher
from dispatcher.lambda_runtime.probe import probed


def app() -> Dispatcher:
    """An app that is fine."""
    return Dispatcher("fine", broker="memory://", set_as_current=False)


def test_what_survives_is_loaded_here_too() -> None:
    """The child's app is the child's; the parent gets its own."""
    assert probed(app)().main == "fine"


def test_an_import_that_never_ends_is_ended(tmp_path: Path) -> None:
    """The child is killed, and leaves no zombie behind."""
    pids = tmp_path / "pid"

    def hang() -> Dispatcher:
        pids.write_text(str(os.getpid()))
        time.sleep(600)
        raise AssertionError

    with pytest.raises(ImportError, match=r"more than 0\.5 s"):
        probed(hang, longest=0.5)()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pids.read_text()), 0)


def test_modules_that_the_app_includes_are_tried_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are imported after the app's own, when the function gets ready."""
    (tmp_path / "deadly_module.py").write_text("import os; os._exit(7)")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImportError, match="exit code 7"):
        probed(lambda: Dispatcher("x", broker="memory://", include=["deadly_module"], set_as_current=False))()


def test_an_exception_is_raised_here() -> None:
    """With its own type and traceback, which a child could not hand over."""

    def fail() -> Dispatcher:
        raise KeyError("DB_URL")

    with pytest.raises(KeyError, match="DB_URL"):
        probed(fail)()
