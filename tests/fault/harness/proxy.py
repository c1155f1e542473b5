"""The faults between redis-py and a real server: connections cut at any byte, replies that never come, a full server.

A proxy on TCP does what networks do. Where a worker dies or is overtaken is decided in its own thread, beneath the
adapter in redis-py's connection.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

from redis.connection import Connection

from tests.fault.harness.injector import Gate, Injector

_BUFFER = 1 << 20
#: Seconds of silence after which a reply is whole: the server answers at once, but for blocking reads.
_DRIBBLE = 7


class Proxy:
    """Listens on a port of its own and forwards to the server, with faults; ``port`` is where clients go."""

    def __init__(self, server_port: int, injector: Injector, gate: Gate) -> None:
        self._server = ("127.0.0.1", server_port)
        self._injector = injector
        self._gate = gate
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._closing = False
        self._thread = threading.Thread(target=self._accept, name="redis-proxy", daemon=True)
        self._thread.start()
        self._control = Connection(host="127.0.0.1", port=server_port)

    def close(self) -> None:
        """Stop listening; what is connected ends with its clients."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        self._control.disconnect()

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server:
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reply_fault: str | None = None
            try:
                while True:
                    for ready in select.select([client, server], [], [])[0]:
                        data = ready.recv(_BUFFER)
                        if not data:
                            return
                        if ready is client:
                            reply_fault = self._forward(data, client, server)
                        elif not self._answer(data, client, reply_fault):
                            return
            except (OSError, _Cut):
                pass
            finally:
                _reset(client)

    def _forward(self, data: bytes, client: socket.socket, server: socket.socket) -> str | None:
        """Send a request on; return the fault that its reply is to have."""
        kind = self._gate.draw(
            "cut before", "cut in a command", "cut in a reply", "swallowed reply", "dribble", "hang", "full"
        )
        if kind == "cut before":
            raise _Cut
        if kind == "cut in a command":
            server.sendall(data[: self._injector.random.randrange(len(data))])
            raise _Cut
        if kind == "full":
            self._configure("maxmemory", "1")
        server.sendall(data)
        return kind

    def _answer(self, data: bytes, client: socket.socket, fault: str | None) -> bool:
        """Send a reply on, or a part of it; return whether the connection lives on."""
        if fault == "full":
            self._configure("maxmemory", "0")
        if fault == "swallowed reply":
            return False
        if fault == "cut in a reply":
            client.sendall(data[: self._injector.random.randrange(len(data))])
            return False
        if fault == "hang":
            client.settimeout(30.0)
            client.recv(1)  # until the client gives up
            return False
        if fault == "dribble":
            for start in range(0, min(len(data), 10 * _DRIBBLE), _DRIBBLE):
                client.sendall(data[start : start + _DRIBBLE])
                time.sleep(0.0005)
            data = data[10 * _DRIBBLE :]
        client.sendall(data)
        return True

    def _configure(self, name: str, value: str) -> None:
        self._control.send_command("CONFIG", "SET", name, value)
        self._control.read_response()


class _Cut(Exception):
    """The connection is cut."""


def _reset(client: socket.socket) -> None:
    """Close with a reset, as a dying machine or a firewall does, and not in good order."""
    with contextlib.suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextlib.contextmanager
def gated(gate: Gate, port: int) -> Iterator[None]:
    """Let everything that is sent to a port, and every answer read, pass the gate."""
    send, read = Connection.send_packed_command, Connection.read_response

    def send_gated(self: Any, *args: Any, **options: Any) -> Any:
        if getattr(self, "port", None) == port and self._sock is not None:
            gate.before()
        return send(self, *args, **options)

    def read_gated(self: Any, *args: Any, **options: Any) -> Any:
        answer = read(self, *args, **options)
        if getattr(self, "port", None) == port:
            gate.after()
        return answer

    Connection.send_packed_command, Connection.read_response = send_gated, read_gated
    try:
        yield
    finally:
        Connection.send_packed_command, Connection.read_response = send, read
