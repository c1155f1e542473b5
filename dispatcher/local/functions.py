"""The execution environments of a function: as many as run at once, each reused, all replaced when code changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dispatcher.local.sandbox import Function, Invocation, Sandbox

#: Bytecode is told from the source by second and size: of two quick edits it would keep the first.
_ALL: Final = {"PYTHONDONTWRITEBYTECODE": "1"}


@dataclass(frozen=True, slots=True)
class MappedFunction:
    """A function and the queue that feeds it; ``timeout`` and ``window`` in seconds, ``memory`` in MiB.

    ``concurrency`` is how many batches may run at once. ``lost`` says that it reads what SQS gave up, and runs no task.
    """

    name: str
    handler: str
    environment: Mapping[str, str]
    timeout: int
    memory: int
    queue_url: str
    queue_arn: str
    batch_size: int = 10
    window: int = 0
    concurrency: int = 2
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where functions run: the directory of the code, the interpreter, Lambda's client, and what is added to all."""

    code: Path
    python: str
    client: Path
    region: str
    environment: Mapping[str, str]
    owner: str

    def function(self, mapped: MappedFunction) -> Function:
        """Return a function as a sandbox takes it."""
        return Function(
            code=self.code,
            handler=mapped.handler,
            timeout=float(mapped.timeout),
            memory_mb=mapped.memory,
            python=self.python,
            client=self.client,
            environment={**_ALL, **self.environment, **mapped.environment},
            name=mapped.name,
            region=self.region,
        )


class Environments:
    """The execution environments of one function; safe to use from several threads."""

    def __init__(self, function: Function, owner: str, output: Callable[[str], None]) -> None:
        self.function = function
        self._owner = owner
        self._output = output
        self._lock = threading.Lock()
        self._idle: list[Sandbox] = []
        self._busy: set[Sandbox] = set()
        self._stale: set[Sandbox] = set()
        self._closed = False

    def invoke(self, event: Any) -> Invocation:
        """Run one invocation in an environment that is idle, else in a new one; raises `RuntimeError` when closed."""
        with self._lock:
            if self._closed:
                raise RuntimeError(f"the environments of {self.function.name} are closed")
            sandbox = self._idle.pop() if self._idle else self._made()
            self._busy.add(sandbox)
        try:
            return sandbox.invoke(event)
        finally:
            with self._lock:
                self._busy.discard(sandbox)
                keep = sandbox not in self._stale and not self._closed
                self._stale.discard(sandbox)
                if keep:
                    self._idle.append(sandbox)
            if not keep:
                sandbox.close()

    def _made(self) -> Sandbox:
        return Sandbox(self.function, output=self._output, owner=self._owner)

    def renew(self, function: Function) -> None:
        """Have invocations from now on run the code and settings of now; those under way finish as they began."""
        with self._lock:
            self.function = function
            idle, self._idle = self._idle, []
            self._stale |= self._busy
        for sandbox in idle:
            sandbox.close()

    def close(self) -> None:
        """End all environments, running invocations included."""
        with self._lock:
            self._closed = True
            ending = [*self._idle, *self._busy]
            self._idle = []
        for sandbox in ending:
            sandbox.close()
