"""``dispatcher local`` from its start to its end: endpoint, deployment, functions, reloads, and nothing left behind."""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from dispatcher import aws
from dispatcher.aws_options import ClientSettings, Credentials
from dispatcher.config.environment import inherited
from dispatcher.local import endpoint, environments, processes, reaper
from dispatcher.local.console import Console
from dispatcher.local.deploying import AppBroken, AppRefused, Deployed, deploy
from dispatcher.local.emulator import Emulator
from dispatcher.local.functions import Place
from dispatcher.local.stack import Stack
from dispatcher.local.watching import LOOK_SECONDS, Watcher

#: How many batches of a queue run at once: an event source mapping begins with five.
#: https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html
CONCURRENCY: Final = 5
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_KILL_AFTER_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says. ``environment`` goes to all functions; ``command`` is run beside them."""

    spec: str
    directory: Path
    endpoint: str | None = None
    port: int | None = None
    install: bool = True
    reload: bool = True
    concurrency: int = CONCURRENCY
    environment: Mapping[str, str] = field(default_factory=dict)
    command: Sequence[str] = ()


class Stopped(BaseException):
    """A signal asks for the end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run(options: Options, console: Console) -> int:
    """Run the app until a signal comes or the command ends; return the exit code.

    Raises `ImproperlyConfigured`, `EnvironmentUnavailable`, `EmulatorFailed`, and `AppRefused` at the first deployment.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_signals())
        try:
            return _Session(options, console, stack).run()
        except Stopped as stopped:
            return 128 + stopped.number
        finally:
            _ignore_signals()  # while everything ends, which takes a moment


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class _Session:
    def __init__(self, options: Options, console: Console, stack: contextlib.ExitStack) -> None:
        self.options = options
        self.console = console
        self._stack = stack
        self._owner = f"{inherited().get(processes.TAG_VARIABLE, '')}/local-{uuid.uuid4().hex}"
        self._began = time.monotonic()
        self._told: Deployed | None = None
        self._emulator: Emulator | None = None

    def run(self) -> int:
        options, console = self.options, self.console
        given = endpoint.chosen_endpoint(options.endpoint, options.port)
        client = endpoint.installed(environments.RUNTIME_CLIENT, install=options.install, announce=console.say)
        scratch = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="dispatcher-local-"))
        self._scratch = Path(scratch)
        self._stack.callback(_end, reaper.start(self._owner, scratch))
        variables = self._endpoint(given)
        watcher = Watcher(options.directory)
        deployed = self._deploy(variables)
        if deployed is not None:
            watcher.add(deployed.files)
        place = Place(
            code=options.directory,
            python=sys.executable,
            client=environments.site_packages(client),
            region=variables["AWS_REGION"],
            environment={**_FOR_FUNCTIONS, **variables, **options.environment},
            owner=self._owner,
        )
        stack = Stack(_sqs(variables), place, console)
        self._stack.callback(stack.close)
        command: subprocess.Popen[bytes] | None = None
        while True:
            if deployed is not None:
                stack.update(deployed)
                self._tell(deployed, variables)
                command = command or self._start_command(deployed, variables)
            changed = self._wait(watcher, command)
            if changed is None:
                assert command is not None
                return command.returncode
            console.say(f"changed: {_names(changed, options.directory)}")
            deployed = self._deploy(variables)
            if deployed is None:
                stack.pause()
            else:
                watcher.add(deployed.files)

    def _endpoint(self, given: str | None) -> dict[str, str]:
        if given is not None:
            return endpoint.variables_of(given)
        options = self.options
        emulator = endpoint.emulator(
            options.port, install=options.install, owner=self._owner, scratch=self._scratch,
            announce=self.console.say,
        )  # fmt: skip
        self._stack.callback(emulator.close)
        self._emulator = emulator
        return emulator.environment()

    def _deploy(self, variables: Mapping[str, str]) -> Deployed | None:
        """Deploy the app as its code is now; `None`, with its traceback shown, where the code is broken."""
        try:
            everything = endpoint.environment_at(variables)
            deployed = deploy(self.options.spec, self.options.directory, everything, self._owner, self._scratch)
        except (AppBroken, AppRefused) as error:
            # Nobody mends an app that cannot be had at all, nor one that only a command waits for.
            waiting = self.options.reload and (self._told is not None or not self.options.command)
            if not waiting or (self._told is None and isinstance(error, AppRefused)):
                raise
            self.console.say(f"{error}\nnothing runs until this is mended; waiting for a change", "ERROR")
            return None
        most = self.options.concurrency
        functions = tuple(replace(each, concurrency=min(each.concurrency, most)) for each in deployed.functions)
        return replace(deployed, functions=functions)

    def _tell(self, deployed: Deployed, variables: Mapping[str, str]) -> None:
        """Say what runs now: everything at first, then what is new."""
        console, before = self.console, self._told
        lines = _facts(deployed)
        known = _facts(before) if before is not None else []
        for line in lines:
            if line not in known:
                console.say(line)
        for line in known:
            if line not in lines:
                console.say(f"no more: {line}")
        if before is not None:
            console.say("running the new code")
        else:
            console.say(f"ready after {time.monotonic() - self._began:.1f} s")
        if not self.options.command and (before is None or before.producer != deployed.producer):
            exports = {**variables, **deployed.producer}
            lines = [f"export {name}={shlex.quote(value)}" for name, value in exports.items()]
            console.plain("\n# in the shell of a producer:\n" + "\n".join(lines) + "\n")
        self._told = deployed

    def _start_command(self, deployed: Deployed, variables: Mapping[str, str]) -> subprocess.Popen[bytes] | None:
        if not self.options.command:
            return None
        process = subprocess.Popen(
            self.options.command,
            cwd=self.options.directory,
            env={**endpoint.environment_at(variables), **deployed.producer, processes.TAG_VARIABLE: self._owner},
        )
        self._stack.callback(_end, process)
        return process

    def _wait(self, watcher: Watcher, command: subprocess.Popen[bytes] | None) -> list[Path] | None:
        """Return the files that changed, or `None` once the command has ended."""
        while True:
            time.sleep(LOOK_SECONDS)
            if command is not None and command.poll() is not None:
                return None
            if self._emulator is not None:
                self._emulator.check()
            changed = watcher.changed() if self.options.reload else []
            if changed:
                return changed


def _facts(deployed: Deployed) -> list[str]:
    return [
        *(f"note: {note}" for note in deployed.notes),
        *(f"schedule {schedule}" for schedule in deployed.schedules),
        *(
            f"function {each.name}: {each.timeout} s, {each.memory} MB, batches of {each.batch_size}, "
            f"{each.concurrency} at once"
            for each in deployed.functions
            if not each.lost
        ),
    ]


#: One line for each task, as long as the app does not say otherwise.
_FOR_FUNCTIONS: Final = {"DISPATCHER_WORKER_LOG_LEVEL": "INFO"}


def _sqs(variables: Mapping[str, str]) -> object:
    keys = Credentials(
        variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"], variables.get("AWS_SESSION_TOKEN")
    )
    url = variables["AWS_ENDPOINT_URL"]
    return aws.client("sqs", ClientSettings(variables["AWS_REGION"], url, url.startswith("https"), keys))


def _names(files: Sequence[Path], directory: Path) -> str:
    names = [str(each.relative_to(directory)) if each.is_relative_to(directory) else str(each) for each in files]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process of ours: politely, then for good."""
    process.terminate()
    try:
        process.wait(_KILL_AFTER_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
