"""A Lambda execution environment without Docker, around the runtime client that AWS ships (`awslambdaric`).

The client alone enforces nothing: its deadline is a header. `Sandbox` is what the service is around it: an init phase
of 10 s, a hard timeout that kills every process of the environment, the memory limit, the cap on responses, the frozen
state between invocations, reuse after a handler's error, and the platform's own error payloads and log lines.

https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html
"""

import fcntl
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from dispatcher.config.environment import inherited
from dispatcher.local import processes
from dispatcher.local.runtime_api import MAX_RESPONSE_BYTES, Event, Happened, RuntimeApi, Work

INIT_SECONDS = 10.0
"""Limit of the init phase; after it, init is repeated once under the function's own timeout."""

_MEMORY_CHECK_SECONDS = 0.05
_EXIT_GRACE_SECONDS = 0.2
"""How long the answer of a process that has just died may still be on its way from the socket to us."""
_MAX_LOG_BYTES = 1 << 20
_OUT_OF_MEMORY = "Runtime exited with error: signal: killed"

# The client comes last on the search path, as AWS's own packages do: what the function brings along goes before.
_RUN_CLIENT: Final = """
import runpy, sys
sys.path.append(sys.argv.pop(1))
runpy.run_module("awslambdaric", run_name="__main__")
"""


@dataclass(frozen=True)
class Invocation:
    """What one invocation came to; durations in seconds, `init_duration` only for a cold start."""

    request_id: str
    failed: bool
    payload: bytes
    log: str
    duration: float
    init_duration: float | None
    memory_mb: float

    def json(self) -> Any:
        """The decoded payload: the handler's result, or `errorType` and `errorMessage`."""
        return json.loads(self.payload)


@dataclass(frozen=True)
class Function:
    """The configuration of a function: what `CreateFunction` takes, with directories in place of archives.

    `timeout` in seconds. `path` is appended to the function's module search path: layers. `python` must have
    `awslambdaric` installed, unless `client` is a directory that holds it.
    """

    code: Path
    handler: str
    timeout: float = 3.0
    memory_mb: int = 512
    python: str = sys.executable
    environment: Mapping[str, str] | None = None
    name: str = "function"
    arn: str = ""
    region: str = "us-east-1"
    path: Sequence[Path] = ()
    client: Path | None = None

    def command(self) -> list[str]:
        """The runtime process's command line."""
        run = ["-m", "awslambdaric"] if self.client is None else ["-c", _RUN_CLIENT, str(self.client)]
        return [self.python, *run, self.handler]

    def function_arn(self) -> str:
        """The ARN that the handler's context shows."""
        return self.arn or f"arn:aws:lambda:{self.region}:000000000000:function:{self.name}"

    def process_environment(self, runtime_api: str) -> dict[str, str]:
        """The variables of the runtime process: Lambda's and the function's own, none of this process."""
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "HOME": "/tmp",
            "PYTHONUNBUFFERED": "1",
            **dict(self.environment or {}),
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EXECUTION_ENV": f"AWS_Lambda_python{sys.version_info[0]}.{sys.version_info[1]}",
            "AWS_LAMBDA_FUNCTION_NAME": self.name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self.memory_mb),
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{self.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": time.strftime("%Y/%m/%d/[$LATEST]", time.gmtime()) + uuid.uuid4().hex,
            "AWS_LAMBDA_RUNTIME_API": runtime_api,
            "LAMBDA_TASK_ROOT": str(self.code),
            "_HANDLER": self.handler,
            "PYTHONPATH": os.pathsep.join(map(str, (self.code, *self.path))),
        }


class Sandbox:
    """The execution environment of one function: at most one invocation at a time, as in Lambda.

    A process serves invocation after invocation until it dies, is killed by a limit or the sandbox is closed; the next
    invocation then starts a new one. `freeze=False` lets it run on between invocations, which Lambda never does.
    `output` is called with each line that the function writes, soon after it is written. `owner` tags the processes,
    for a reaper; without one it is that of this process.
    """

    def __init__(
        self,
        function: Function,
        *,
        freeze: bool = True,
        output: Callable[[str], None] | None = None,
        owner: str | None = None,
    ) -> None:
        self.function = function
        self._owner = inherited().get(processes.TAG_VARIABLE, "") if owner is None else owner
        self._freeze = freeze
        self._output = output
        self._runtime: _Runtime | None = None
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The runtime process; None before the first invocation and after the process died."""
        runtime = self._runtime
        return runtime.process.pid if runtime is not None and runtime.alive else None

    def close(self) -> None:
        """Kill the environment for good; a running invocation ends with `Runtime.ExitError`."""
        self._closed = True
        runtime = self._runtime
        if runtime is not None:
            runtime.kill()
        with self._lock:
            self._discard()

    def invoke(self, event: Any, *, request_id: str | None = None, trace_id: str = "") -> Invocation:
        """Run the handler once on `event` (anything JSON can hold) and return when the environment is idle or dead."""
        request_id = request_id or str(uuid.uuid4())
        with self._lock:
            if self._closed:
                raise RuntimeError(f"the sandbox of {self.function.name} is closed")
            runtime, init_duration, outcome = self._warm_runtime(request_id)
            started = time.monotonic()
            if outcome is None:
                outcome = runtime.run(self._work(event, request_id, trace_id), self.function)
            invocation = Invocation(
                request_id=request_id,
                failed=outcome.what is not Happened.SUCCEEDED,
                payload=outcome.body,
                log=runtime.take_log(),
                duration=time.monotonic() - started,
                init_duration=init_duration,
                memory_mb=runtime.peak_mb,
            )
            if runtime.alive and self._freeze:
                runtime.freeze()
            if not runtime.alive:
                self._discard()
            return invocation

    def _work(self, event: Any, request_id: str, trace_id: str) -> Work:
        return Work(
            request_id=request_id,
            payload=json.dumps(event).encode(),
            deadline=time.time() + self.function.timeout,
            function_arn=self.function.function_arn(),
            trace_id=trace_id or "Root=1-00000000-000000000000000000000000;Sampled=0",
        )

    def _warm_runtime(self, request_id: str) -> tuple["_Runtime", float | None, Event | None]:
        """(an initialised runtime, seconds its start took or None, the failure if it did not start)."""
        runtime = self._runtime
        if runtime is not None and runtime.alive:
            runtime.thaw()
            return runtime, None, None
        self._discard()
        started = time.monotonic()
        failure: Event | None = None
        # https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html#runtimes-lifecycle-ib
        for limit in (INIT_SECONDS, self.function.timeout):
            self._discard()
            runtime = self._runtime = _Runtime(self.function, self._owner, self._output)
            ready = runtime.wait_until_ready(limit)
            if ready is None:
                runtime.kill()
                failure = _platform_error("Sandbox.Timedout", request_id, _timed_out(self.function.timeout))
                continue
            failure = None
            if ready.what is Happened.INIT_FAILED:
                failure = Event(Happened.FAILED, ready.body)
            elif ready.what is Happened.EXITED:
                failure = _platform_error("Runtime.ExitError", request_id, runtime.exit_reason())
            break
        assert runtime is not None
        if failure is not None:
            runtime.kill()
        return runtime, time.monotonic() - started, failure

    def _discard(self) -> None:
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            runtime.close()


class _Runtime:
    """One process of the runtime client, from its start to its death."""

    def __init__(self, function: Function, owner: str, output: Callable[[str], None] | None) -> None:
        self.api = RuntimeApi()
        self.peak_mb = 0.0
        self._output = output
        self._shown = 0
        # Handlers may leave processes in sessions of their own, which belong to the environment all the same.
        self._tag = f"{owner}/{uuid.uuid4().hex}"
        # A file, not a pipe: what was written before an invocation ended is all there when it has ended, a chatty
        # handler never blocks, and processes that the handler left behind hold nothing open.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the runtime
        fcntl.fcntl(self._log, fcntl.F_SETFL, os.O_APPEND)  # it is truncated after each invocation
        self.process = subprocess.Popen(
            function.command(),
            cwd=function.code,
            env={**function.process_environment(self.api.address), processes.TAG_VARIABLE: self._tag},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        self._waiting = threading.Thread(target=self._report_exit, name="runtime-exit", daemon=True)
        self._waiting.start()

    def _report_exit(self) -> None:
        self.process.wait()
        self.api.events.put(Event(Happened.EXITED))

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def wait_until_ready(self, limit: float) -> Event | None:
        """READY, INIT_FAILED or EXITED; None after `limit` seconds."""
        try:
            event = self.api.events.get(timeout=limit)
        except queue.Empty:
            return None
        # The client reports why it could not start and exits; its report may still be on the way.
        return self._late_answer(event, Happened.INIT_FAILED) if event.what is Happened.EXITED else event

    def run(self, work: Work, function: Function) -> Event:
        """SUCCEEDED with the handler's result or FAILED with an error payload, the process then idle or dead."""
        self.peak_mb = 0.0
        self.api.submit(work)
        limit = time.monotonic() + function.timeout
        while True:
            left = limit - time.monotonic()
            if left <= 0:
                self.kill()
                self._note(f"{work.request_id} {_timed_out(function.timeout)}")
                return _platform_error("Sandbox.Timedout", work.request_id, _timed_out(function.timeout))
            try:
                event = self.api.events.get(timeout=min(left, _MEMORY_CHECK_SECONDS))
            except queue.Empty:
                event = None
            self.show_output()
            self.peak_mb = max(self.peak_mb, processes.memory_mb(self.process.pid))
            if event is not None:
                return self._conclude(event, work.request_id)
            if self.peak_mb > function.memory_mb:
                self.kill()
                return _platform_error("Runtime.OutOfMemory", work.request_id, _OUT_OF_MEMORY)

    def _conclude(self, event: Event, request_id: str) -> Event:
        if event.what is Happened.EXITED:
            event = self._late_answer(event, Happened.SUCCEEDED, Happened.FAILED, Happened.OVERSIZE)
        if event.what is Happened.EXITED:
            return _platform_error("Runtime.ExitError", request_id, self.exit_reason())
        if event.what is Happened.OVERSIZE:
            self.kill()
            return _too_large(int(event.body))
        # The environment is idle when the runtime asks for more; one that never does is of no further use.
        if self.wait_until_ready(INIT_SECONDS) != Event(Happened.READY):
            self.kill()
        return event

    def _late_answer(self, event: Event, *wanted: Happened) -> Event:
        """What arrived before the process died though it is seen only after; else `event`."""
        try:
            late = self.api.events.get(timeout=_EXIT_GRACE_SECONDS)
        except queue.Empty:
            return event
        return late if late.what in wanted else event

    def exit_reason(self) -> str:
        """Why the dead process died, as the service words it."""
        code = self.process.wait()
        reason = f"signal: {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return f"Runtime exited with error: {reason}"

    def freeze(self) -> None:
        """Stop every process of the environment, as the service does between invocations."""
        processes.signal_group(self.process, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen environment go on."""
        processes.signal_group(self.process, signal.SIGCONT)

    def kill(self) -> None:
        """Kill every process of the environment; return when the runtime is gone."""
        processes.kill_tree(self.process)
        processes.kill(processes.tagged(self._tag))

    def close(self) -> None:
        """Kill the environment and release what belongs to it."""
        self.kill()
        self._waiting.join()
        self.api.close()
        self._log.close()

    def _note(self, line: str) -> None:
        self._log.write(f"{line}\n".encode())
        self._log.flush()

    def take_log(self) -> str:
        """Everything that the function wrote since the last call, at most the last MiB of it."""
        self.show_output(last=True)
        size = os.fstat(self._log.fileno()).st_size
        written = os.pread(self._log.fileno(), _MAX_LOG_BYTES, max(0, size - _MAX_LOG_BYTES))
        os.ftruncate(self._log.fileno(), 0)
        self._shown = 0
        return written.decode(errors="replace")

    def show_output(self, *, last: bool = False) -> None:
        """Hand over the lines that are new; an unfinished one only if it is the `last`."""
        if self._output is None:
            return
        written = os.pread(self._log.fileno(), _MAX_LOG_BYTES, self._shown)
        whole = written if last else written[: written.rfind(b"\n") + 1]
        self._shown += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            self._output(line)


def _timed_out(timeout: float) -> str:
    return f"Task timed out after {timeout:.2f} seconds"


def _platform_error(kind: str, request_id: str, reason: str) -> Event:
    message = f"RequestId: {request_id} Error: {reason}"
    return Event(Happened.FAILED, json.dumps({"errorType": kind, "errorMessage": message}).encode())


def _too_large(size: int) -> Event:
    message = (
        f"Response payload size ({size} bytes) exceeded maximum allowed payload size ({MAX_RESPONSE_BYTES} bytes)."
    )
    body = {"errorType": "Function.ResponseSizeTooLarge", "errorMessage": message}
    return Event(Happened.FAILED, json.dumps(body).encode())
