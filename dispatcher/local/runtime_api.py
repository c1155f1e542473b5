"""The Lambda Runtime API (version 2018-06-01) on loopback, for one runtime process.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

import http.server
import json
import queue
import re
import socket
import threading
from dataclasses import dataclass
from enum import Enum, auto

MAX_RESPONSE_BYTES = 6 * 1024 * 1024
"""Largest synchronous response: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html"""

_PREFIX = "/2018-06-01/runtime"
_RESULT = re.compile(re.escape(_PREFIX) + r"/invocation/([^/]+)/(response|error)")


class Happened(Enum):
    """What the runtime process did."""

    READY = auto()
    """It asked for work: initialised, or done with the invocation before."""
    INIT_FAILED = auto()
    SUCCEEDED = auto()
    FAILED = auto()
    OVERSIZE = auto()
    EXITED = auto()


@dataclass(frozen=True)
class Event:
    """Something that the runtime process did, with the body it sent, if any."""

    what: Happened
    body: bytes = b""


@dataclass(frozen=True)
class Work:
    """One invocation as the runtime receives it; the deadline is in epoch seconds."""

    request_id: str
    payload: bytes
    deadline: float
    function_arn: str
    trace_id: str

    def headers(self) -> dict[str, str]:
        """The headers that carry everything but the payload."""
        return {
            "Lambda-Runtime-Aws-Request-Id": self.request_id,
            "Lambda-Runtime-Deadline-Ms": str(int(self.deadline * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": self.function_arn,
            "Lambda-Runtime-Trace-Id": self.trace_id,
        }


class RuntimeApi:
    """Hands work to one runtime process and reports on `events` what it did with it.

    `address` is what the runtime expects in `AWS_LAMBDA_RUNTIME_API`.
    """

    def __init__(self) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        self._changed = threading.Condition()
        self._work: Work | None = None
        self._current: str | None = None
        self._closed = False
        self._server = _Server(self)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._accepting = threading.Thread(target=self._accept, name="runtime-api", daemon=True)
        self._accepting.start()

    def submit(self, work: Work) -> None:
        """Give the runtime its next invocation; the one before must be over."""
        with self._changed:
            self._work = work
            self._changed.notify_all()

    def close(self) -> None:
        """Stop serving; a runtime that waits for work is hung up on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        # Nothing else ends a blocking accept() on every platform.
        with socket.create_connection(("127.0.0.1", self._server.server_address[1])):
            self._accepting.join()
        self._server.server_close()

    def _accept(self) -> None:
        while not self._closed:
            self._server.handle_request()

    def next_work(self) -> Work | None:
        """Report that the runtime is ready and wait for its next invocation; None when the API closed."""
        self.events.put(Event(Happened.READY))
        with self._changed:
            self._changed.wait_for(lambda: self._work is not None or self._closed)
            work, self._work = self._work, None
            self._current = work.request_id if work is not None and not self._closed else None
            return None if self._closed else work

    def accept_result(self, request_id: str, kind: str, body: bytes) -> tuple[int, dict[str, str]]:
        """Take the outcome of the current invocation; (status, answer)."""
        with self._changed:
            if request_id != self._current:
                return 400, {"errorType": "InvalidRequestID", "errorMessage": "Invalid request ID"}
            self._current = None
        if kind == "response" and len(body) > MAX_RESPONSE_BYTES:
            self.events.put(Event(Happened.OVERSIZE, str(len(body)).encode()))
            return 413, {"errorType": "RequestEntityTooLarge", "errorMessage": "Exceeded maximum allowed payload size"}
        self.events.put(Event(Happened.SUCCEEDED if kind == "response" else Happened.FAILED, body))
        return 202, {"status": "OK"}

    def accept_init_error(self, body: bytes) -> None:
        """Take the runtime's reason for not starting."""
        self.events.put(Event(Happened.INIT_FAILED, body))


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, api: RuntimeApi) -> None:
        self.api = api
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A runtime that is killed while it talks to us is everyday business here."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """The access log of a loopback API is noise."""

    def do_GET(self) -> None:
        if self.path != f"{_PREFIX}/invocation/next":
            self._answer(404, {"errorType": "NotFound", "errorMessage": self.path})
            return
        work = self.server.api.next_work()
        if work is None:
            self.close_connection = True
            return
        self._send(200, work.payload, work.headers())

    def do_POST(self) -> None:
        body = self._body()
        result = _RESULT.fullmatch(self.path)
        if result is not None:
            self._answer(*self.server.api.accept_result(result[1], result[2], body))
        elif self.path == f"{_PREFIX}/init/error":
            self.server.api.accept_init_error(body)
            self._answer(202, {"status": "OK"})
        else:
            self._answer(404, {"errorType": "NotFound", "errorMessage": self.path})

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length")
        if length is not None:
            return self.rfile.read(int(length))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self, status: int, body: dict[str, str]) -> None:
        self._send(status, json.dumps(body).encode(), {})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
