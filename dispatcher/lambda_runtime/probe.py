"""Trying an import in a child process first: one that hangs or ends the process must not take its reader along.

The worker's messages end in the lost queue where the app's import does that. If their reader died of it as well, nobody
would be left to tell whoever waits for the results.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Final

from dispatcher.app import Dispatcher

#: Seconds that the import may take: with as long again for the real one it fits into the function's timeout.
LONGEST: Final = 45.0
_PAUSE: Final = 0.02


def probed(load: Callable[[], Dispatcher], longest: float = LONGEST) -> Callable[[], Dispatcher]:
    """Return a function that returns what ``load`` does, once a child process has survived it.

    It raises `ImportError` where the child did not, and what ``load`` raises.
    """

    def careful() -> Dispatcher:
        if hasattr(os, "fork"):
            _try(load, longest)
        return load()

    return careful


def _try(load: Callable[[], Dispatcher], longest: float) -> None:
    child = os.fork()
    if child == 0:
        _import_and_leave(load)
    deadline = time.monotonic() + longest
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise ImportError(f"it took more than {longest:g} s")
        time.sleep(_PAUSE)
    if os.WIFSIGNALED(status):
        raise ImportError(f"the process died of {signal.Signals(os.WTERMSIG(status)).name} meanwhile")
    if os.WEXITSTATUS(status):
        raise ImportError(f"the process ended meanwhile, with exit code {os.WEXITSTATUS(status)}")


def _import_and_leave(load: Callable[[], Dispatcher]) -> None:
    """Import everything that the app does, and end; an exception is for the parent to see, which can tell of it."""
    try:
        app = load()
        app.import_default_modules()
        app.finalize(auto=True)
    except BaseException:  # noqa: BLE001, S110 - see above
        pass
    finally:
        os._exit(0)
