"""What the commands share: the global options, and the app they lead to."""

from __future__ import annotations

import dataclasses
import os
import sys

from dispatcher.app import Dispatcher
from dispatcher.cli.errors import FAILED, MISUSED, CommandError, origin_of_import_error
from dispatcher.config import app_name
from dispatcher.exceptions import DispatcherError, ImproperlyConfigured
from dispatcher.loading import find_app

NEEDS_APP = "no app: name it with -A module:attribute (or in DISPATCHER_APP), before the command"


@dataclasses.dataclass
class Session:
    """The global options of one command line."""

    app_spec: str | None = None
    broker: str | None = None
    backend: str | None = None
    quiet: bool = False
    debug: bool = False
    _app: Dispatcher | None = None

    @property
    def spec(self) -> str | None:
        """The app's name, from ``-A`` or the environment."""
        return self.app_spec or app_name()

    def enter(self, workdir: str | None) -> None:
        """Change to the working directory, and let modules be found there."""
        if workdir is not None:
            try:
                os.chdir(workdir)
            except OSError as error:
                raise CommandError(f"--workdir: {error}", MISUSED) from error
        here = os.getcwd()
        if here not in sys.path:
            sys.path.insert(0, here)

    def app(self) -> Dispatcher:
        """Return the app that was named, with the broker and backend of the command line.

        Raises `CommandError` where none is named or it cannot be loaded.
        """
        if self._app is None:
            if self.spec is None:
                raise CommandError(NEEDS_APP)
            self._app = self._configured(self._load(self.spec))
        return self._app

    def app_with_modules(self) -> Dispatcher:
        """Return the app with the modules of its tasks imported, as a worker has them."""
        app = self.app()
        try:
            app.import_default_modules()
        except Exception as error:
            raise self._unloadable(f"a module of the app {self.spec!r}", error) from error
        return app

    def any_app(self) -> Dispatcher:
        """Return the app that was named, else one that only knows the broker and backend given.

        Raises `CommandError` where neither is there.
        """
        if self._app is None and self.spec is None:
            app = self._configured(Dispatcher(set_as_current=True))
            if not app.conf.broker_url:
                raise CommandError(f"{NEEDS_APP}; or name the broker with -b")
            self._app = app
        return self.app()

    def optional_app(self) -> Dispatcher | None:
        """Return the app if one is named, `None` otherwise."""
        return self.app() if self.spec is not None else None

    def _configured(self, app: Dispatcher) -> Dispatcher:
        app.conf.override(broker_url=self.broker, result_backend=self.backend)
        return app

    def _load(self, spec: str) -> Dispatcher:
        try:
            return find_app(spec)
        except ImproperlyConfigured as error:
            raise CommandError(_without_deployment_hint(str(error))) from error
        except Exception as error:
            raise self._unloadable(f"the app {spec!r}", error) from error

    def _unloadable(self, what: str, error: Exception) -> CommandError:
        code = MISUSED if isinstance(error, DispatcherError | ImportError | SyntaxError) else FAILED
        return CommandError(
            f"{what} cannot be imported: {type(error).__name__}: {error}{origin_of_import_error(error)}"
            + ("" if self.debug else "; --debug shows the traceback"),
            code,
        )


def _without_deployment_hint(message: str) -> str:
    return message.replace("is it in the package that was deployed, and is its directory", "is its directory")
