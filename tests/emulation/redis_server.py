"""A redis-server of our own on loopback that tests may restart, pause and kill."""

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from dispatcher.local import processes
from tests.emulation.ports import free_port

#: Longer than either takes on a machine that is busy with other things.
_START_SECONDS = 60.0
_STOP_SECONDS = 60.0
_POLL_SECONDS = 0.01
_ATTEMPTS = 3


class RedisFailed(RuntimeError):
    """The server did not start; the message ends with its log."""


class RedisServer:
    """A redis-server with a directory of its own; data outlives `restart` and `kill` only as `options` say.

    `options` are lines of redis.conf: `{"appendonly": "yes", "appendfsync": "always"}`. Nothing is stored by default.
    """

    def __init__(self, executable: str, *, options: Mapping[str, str] | None = None) -> None:
        self._executable = executable
        self._options = {"save": "", "appendonly": "no", **dict(options or {})}
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The address for clients, database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def socket_path(self) -> Path:
        """The Unix socket on which the server listens as well."""
        assert self._directory is not None, "the server was never started"
        return self._directory / "redis.sock"

    @property
    def pid(self) -> int | None:
        """The server's process while it runs."""
        return self._process.pid if self._process is not None else None

    def start(self) -> Self:
        """Start the server, or start it again on the port and the data it had; return when it answers."""
        if self._process is not None:
            raise RuntimeError("the server runs already")
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="redis-server-"))
        chosen = self.port
        for _ in range(_ATTEMPTS):
            self.port = chosen or free_port()
            self._process = self._spawn(self._directory)
            if self._answers():
                return self
            ended = self._process.poll()
            self.kill()
            if ended is None:
                raise RedisFailed(f"redis-server does not answer for {_START_SECONDS:g} s:\n{self.log()}")
        raise RedisFailed(f"redis-server ends {_ATTEMPTS} times when started on port {self.port}:\n{self.log()}")

    def _spawn(self, directory: Path) -> subprocess.Popen[bytes]:
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "unixsocket": str(self.socket_path),
            "dir": str(directory),
            # A title is written over the environment, by which we find what a killed test run has left.
            "set-proc-title": "no",
            **self._options,
        }
        lines = [f'{name} "{value}"' if not value else f"{name} {value}" for name, value in settings.items()]
        (directory / "redis.conf").write_text("\n".join(lines) + "\n")
        with (directory / "log").open("ab") as log:
            return subprocess.Popen(
                [self._executable, str(directory / "redis.conf")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _answers(self) -> bool:
        """Whether the server is ready; False when it ended instead, most likely because its port was taken."""
        assert self._process is not None
        limit = time.monotonic() + _START_SECONDS
        while self._process.poll() is None and time.monotonic() < limit:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(64).startswith(b"+PONG"):
                        return self._process.poll() is None
            except OSError:
                pass
            time.sleep(_POLL_SECONDS)
        return False

    def stop(self) -> None:
        """Stop the server in good order (SIGTERM)."""
        process = self._running()
        process.send_signal(signal.SIGTERM)
        process.wait(_STOP_SECONDS)
        self._process = None

    def kill(self) -> None:
        """Kill the server as a crash would (SIGKILL)."""
        processes.kill_tree(self._running())
        self._process = None

    def restart(self) -> None:
        """Stop the server in good order and start it again."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Stop the server from running without closing its connections: it hangs."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server run on."""
        self._running().send_signal(signal.SIGCONT)

    def log(self) -> str:
        """What the server wrote."""
        return (self._directory / "log").read_text(errors="replace") if self._directory is not None else ""

    def close(self) -> None:
        """Kill the server if it runs and remove its directory."""
        if self._process is not None:
            self.kill()
        directory, self._directory = self._directory, None
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the server does not run")
        return self._process
