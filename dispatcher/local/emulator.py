"""The emulator's process: MiniStack on a loopback port, started and ended."""

from __future__ import annotations

import errno
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from dispatcher.config.environment import inherited
from dispatcher.exceptions import DispatcherError
from dispatcher.local import processes, starting

REGION: Final = "us-east-1"
ACCESS_KEY: Final = "test"
SECRET_KEY: Final = "test"

_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 10.0
_LOG_LINES: Final = 30
_KEPT: Final = ("PATH", "HOME", "LANG", "LC_ALL")


class EmulatorFailed(DispatcherError):
    """The emulator did not start, or ended; the message ends with its log."""


class Emulator:
    """SQS, DynamoDB, EventBridge, Scheduler, S3, CloudFormation … on one loopback URL.

    ``python`` has MiniStack; ``port`` 0 takes any that is free. ``owner`` tags its processes and ``scratch`` is where
    its files are, for a reaper. ``command`` and ``arguments`` run another launcher than this package's. Nothing is kept
    from one start to the next. Use as a context manager, or call `start` and `close`.
    """

    def __init__(
        self,
        python: str | Path,
        *,
        port: int = 0,
        auth: bool = False,
        command: Sequence[str] = (),
        arguments: Sequence[str] = (),
        directory: Path | None = None,
        owner: str | None = None,
        scratch: Path | None = None,
    ) -> None:
        self._command = [*(command or starting.command(python, "dispatcher.local.ministack")), *arguments]
        self._directory = directory
        self._parent = scratch
        self._auth = auth
        self._wanted = port
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch: Path | None = None
        owner = inherited().get(processes.TAG_VARIABLE, "") if owner is None else owner
        self._tag = f"{owner}/emulator-{uuid.uuid4().hex}"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """What to put into ``AWS_ENDPOINT_URL``."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        """The emulator's process while it runs."""
        return self._process.pid if self._process is not None else None

    def start(self) -> Self:
        """Start the emulator and return when it answers.

        Raises `OSError` where the port is taken, `EmulatorFailed` where the emulator does not come up.
        """
        with socket.create_server(("127.0.0.1", self._wanted)) as listener:
            self._port = listener.getsockname()[1]
            self._scratch = Path(tempfile.mkdtemp(prefix="aws-endpoint-", dir=self._parent))
            listener.set_inheritable(True)
            with (self._scratch / "log").open("wb") as log:
                self._process = subprocess.Popen(
                    [*self._command, "--socket", str(listener.fileno()), "--scratch", str(self._scratch)],
                    cwd=self._directory or self._scratch,
                    env=self._environment(self._scratch),
                    stdin=subprocess.PIPE,  # its end tells the emulator that we are gone, however that came about
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=[listener.fileno()],
                )
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Stop the emulator and every process that its functions started; remove its files."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                pass
            processes.kill_tree(process)
            processes.kill(processes.tagged(self._tag))
            assert process.stdin is not None
            process.stdin.close()
        scratch, self._scratch = self._scratch, None
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)

    def log(self) -> str:
        """Return what the emulator wrote: warnings, and failed batches with the function's output."""
        return (self._scratch / "log").read_text(errors="replace") if self._scratch is not None else ""

    def environment(self) -> dict[str, str]:
        """Return the variables that point any AWS SDK at the emulator."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def _environment(self, scratch: Path) -> dict[str, str]:
        """MiniStack reads its settings from the environment when it is imported."""
        variables = inherited()
        kept: dict[str, str] = {name: variables[name] for name in _KEPT if name in variables}
        return {
            **kept,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
            "MINISTACK_HOST": "127.0.0.1",  # in URLs of queues; `localhost` would be tried over IPv6 first
            "GATEWAY_PORT": str(self._port),
            "LAMBDA_EXECUTOR": "local",
            "AUTH": "true" if self._auth else "false",
            "LOG_LEVEL": "WARNING",
            "PYTHONUNBUFFERED": "1",
            "STATE_DIR": str(scratch / "state"),
            "S3_DATA_DIR": str(scratch / "s3"),
            "TMPDIR": str(scratch),
            processes.TAG_VARIABLE: self._tag,
        }

    def check(self) -> None:
        """Raise `EmulatorFailed` if the process has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise self._failed(f"ended with status {self._process.returncode}")

    def _wait_until_ready(self) -> None:
        limit = time.monotonic() + _START_SECONDS
        while True:
            try:
                # The socket is open already: the answer is held back until somebody serves it, or hangs up on it.
                urllib.request.urlopen(f"{self.url}/_ministack/health", timeout=1).close()
                return
            except (OSError, urllib.error.URLError):
                self.check()
            if time.monotonic() > limit:
                raise self._failed(f"does not answer for {_START_SECONDS:g} s")

    def _failed(self, how: str) -> EmulatorFailed:
        tail = "\n".join(self.log().splitlines()[-_LOG_LINES:])
        return EmulatorFailed(f"the emulator {how}:\n{tail}")


def is_port_taken(error: OSError) -> bool:
    """Say whether a port could not be had because somebody else has it."""
    return error.errno == errno.EADDRINUSE
