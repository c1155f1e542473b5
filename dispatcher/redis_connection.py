"""Connections to Redis for the broker and the backend: raw commands in one write, scripts, reconnection, clear errors.

Commands are packed here and go straight to the client library's connections, because its command methods cost more than
the round trip. Threads share a stack of idle connections; a fork and `close` start a new one.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - or the first connection imports it, and a fork meanwhile leaves that half done
import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from redis import connection as library
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ConnectionError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
)

from dispatcher.clock import Clock
from dispatcher.exceptions import OperationalError
from dispatcher.redis_settings import RedisSettings

__all__ = [
    "Command",
    "RecordStore",
    "RedisConnections",
    "Removal",
    "ResponseError",
    "Script",
    "pack",
    "pack_start",
    "pack_value",
    "pack_values",
    "to_error",
]

_PERMISSION: Final = "the user lacks a permission; docs/redis.md lists the commands that are used"
#: What to do about an error reply, by the class or the start of the text the client library gives it.
_HINTS: Final[Mapping[type[ResponseError] | str, str]] = {
    OutOfMemoryError: "it is out of memory; raise maxmemory or let workers drain the queues",
    ReadOnlyError: "it is a read-only replica; the URL has to name the primary",
    NoPermissionError: _PERMISSION,
    "ACL failure in script": _PERMISSION,
    "The user executing the script": _PERMISSION,
    "MISCONF": "it cannot save to disk and refuses writes; see the server's log",
    "NOREPLICAS": "fewer replicas are connected than min-replicas-to-write asks for",
    "MOVED": "it is part of a Redis Cluster, which is not supported; name a server of its own",
    "WRONGTYPE": "a key of ours is used by something else; set global_keyprefix",
    "ERR unknown command": "Redis 6.2, Valkey 7.2 or later is needed",
}

#: How Redis before 7 says that a command ended a script, and with which reply.
_ENDED_SCRIPT: Final = re.compile(r"Error running script \(call to \w+\): (?:@user_script: ?\d+: )+-?(.*)", re.DOTALL)
_CLASSES: Final[Mapping[str, type[ResponseError]]] = {"OOM": OutOfMemoryError, "READONLY": ReadOnlyError}

#: Keeps a new connection from telling the server the client library's name, which costs two round trips and, before,
#: a search for the library's version among the installed packages.
_UNNAMED: Final[Mapping[str, Any]] = (
    {"driver_info": None} if hasattr(library, "DriverInfo") else {"lib_name": None, "lib_version": None}
)


class Script:
    """A Lua script; the server runs it as one step, and remembers it by its digest."""

    def __init__(self, text: str) -> None:
        self.text = text
        digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self._head = pack("EVALSHA", digest).partition(b"\r\n")[2]
        self.load = pack("SCRIPT", "LOAD", text)

    def call(self, keys: Sequence[str | bytes], arguments: Iterable[str | bytes | int]) -> Command:
        """Return the command that runs the script."""
        return Command(self.start(0, keys, arguments), self)

    def start(self, missing: int, keys: Sequence[str | bytes], arguments: Iterable[str | bytes | int]) -> bytes:
        """Return the start of that command, where so many arguments follow, each as its length and itself."""
        values = [len(keys), *keys, *arguments]
        return b"*%d\r\n%b%b" % (2 + len(values) + missing, self._head, pack_values(values))


class Command(NamedTuple):
    """A packed command, and its script if it runs one."""

    packed: bytes
    script: Script | None = None


class RecordStore(NamedTuple):
    """Where the records of tasks are: on which server, and under a key of this before and after the task's id."""

    server: tuple[Any, ...]
    before: str
    after: str


class Removal(NamedTuple):
    """What acknowledges a message: its stream, the group that leased it, and its id there."""

    stream: str
    group: str
    id: bytes


def pack(*values: str | bytes | int) -> bytes:
    """Return a command as the server reads it."""
    return b"*%d\r\n%b" % (len(values), pack_values(values))


def pack_start(missing: int, *values: str | bytes | int) -> bytes:
    """Return the start of a command that lacks so many values; each follows as its length and itself."""
    return b"*%d\r\n%b" % (len(values) + missing, pack_values(values))


def pack_value(value: bytes) -> bytes:
    """Return one more value of a command that was started."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


def pack_values(values: Sequence[str | bytes | int]) -> bytes:
    """Return more values of a command that was started."""
    if bytes not in map(type, values):
        texts = [value if type(value) is str else str(value) for value in values]
        text = "".join([f"${len(value)}\r\n{value}\r\n" for value in texts])
        if text.isascii():  # so that there are as many bytes as characters
            return text.encode()
    out = []
    for value in values:
        data = value if isinstance(value, bytes) else str(value).encode()
        out.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(out)


def to_error(error: ResponseError, address: str) -> OperationalError:
    """Return an error reply as an error that says what to do."""
    for sign, hint in _HINTS.items():
        if str(error).startswith(sign) if isinstance(sign, str) else isinstance(error, sign):
            return OperationalError(f"Redis at {address} refused a command: {hint} ({error})")
    return OperationalError(f"Redis at {address} refused a command: {error}")


def _unwrapped(error: ResponseError) -> ResponseError:
    """Return what ended a script as the error that it is outside of one."""
    ended = _ENDED_SCRIPT.match(str(error))
    if ended is None:
        return error
    code, _, text = ended[1].partition(" ")
    kind = _CLASSES.get(code)
    return ResponseError(ended[1]) if kind is None else kind(text)


class RedisConnections:
    """The connections of one adapter to one server; safe to use from several threads and after a fork."""

    def __init__(self, settings: RedisSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._pid = os.getpid()
        self._idle: list[Any] = []
        self._numbers = itertools.count(1)
        #: the number of the connection that was opened last
        self.opened = 0

    def execute(self, packed: bytes, replies: int) -> list[Any]:
        """Send packed commands in one write and return their replies, error replies in their places.

        A call that finds no connection, or loses it, is repeated as the settings say; so it may be carried out twice.
        Once that takes longer than their pauses, because tries time out, it is not. Raises `OperationalError` where the
        server stays out of reach.
        """
        pauses = self._settings.pauses()
        begun = self._clock.monotonic()
        tries = 0
        while True:
            tries += 1
            try:
                return self._attempt(packed, replies)
            except (AuthenticationError, AuthorizationError) as error:
                raise OperationalError(f"Redis at {self._settings.address} refused to log us in: {error}") from error
            except (ConnectionError, ReadOnlyError, OSError) as error:
                self.close()
                pause = next(pauses, None)
                if pause is None or self._clock.monotonic() - begun > self._settings.patience:
                    raise self._out_of_reach(error, tries) from error
                self._clock.sleep(pause)
            except TimeoutError as error:
                self.close()
                raise OperationalError(
                    f"Redis at {self._settings.address} did not answer within socket_timeout="
                    f"{self._settings.connection['socket_timeout']:g} s; the command may have been carried out"
                ) from error
            except RedisError as error:
                raise OperationalError(f"Redis at {self._settings.address} failed: {error}") from error

    def send(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one write and return their replies; scripts the server does not know are loaded."""
        replies = self.execute(b"".join([command.packed for command in commands]), len(commands))
        missing = [number for number, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missing:
            again = [(commands[number].packed, commands[number].script) for number in missing]
            packed = b"".join([script.load + packed for packed, script in again if script is not None])
            for number, reply in zip(missing, self.execute(packed, 2 * len(missing))[1::2], strict=True):
                replies[number] = reply
        return replies

    def run(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands and return their replies; raise `OperationalError` if the server refused one."""
        replies = self.send(commands)
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise to_error(reply, self._settings.address) from reply
        return replies

    def call(self, *values: str | bytes | int) -> Any:
        """Send one command and return its reply; raise `OperationalError` if the server refused it."""
        return self.run([Command(pack(*values))])[0]

    def close(self) -> None:
        """Close the idle connections; those in use are closed when they come back."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.disconnect()

    def _attempt(self, packed: bytes, replies: int) -> list[Any]:
        if self._pid != os.getpid():  # the parent goes on using the connections it had
            self._idle = []
            self._pid = os.getpid()  # the last, because other threads may take what is there from now on
        idle = self._idle
        try:
            connection = idle.pop()
        except IndexError:
            connection = self._connect()
        read_only = None
        answers = []
        try:
            connection.send_packed_command([packed])
            read = connection.read_response
            for _ in range(replies):
                try:
                    answers.append(read())
                except ResponseError as reply:
                    error = _unwrapped(reply)
                    answers.append(error)
                    read_only = error if isinstance(error, ReadOnlyError) else read_only
            if read_only is not None:  # after a failover another server may answer at this address
                raise read_only
        except BaseException:  # a time limit may strike between a command and its replies
            connection.disconnect()
            raise
        if idle is self._idle:
            idle.append(connection)
        else:
            connection.disconnect()
        return answers

    def _connect(self) -> Any:
        settings = self._settings
        kind: Any = UnixDomainSocketConnection if settings.path else SSLConnection if settings.tls else Connection
        connection = kind(protocol=2, **_UNNAMED, **settings.connection)
        try:
            connection.connect()
        except TimeoutError as error:  # nothing was sent yet, so trying again is safe
            raise ConnectionError(str(error)) from error
        self.opened = next(self._numbers)
        return connection

    def _out_of_reach(self, error: Exception, tries: int) -> OperationalError:
        where = self._settings.address
        counted = "1 try" if tries == 1 else f"{tries} tries"
        if isinstance(error, ReadOnlyError):
            return to_error(error, where)
        if isinstance(error, BusyLoadingError):
            return OperationalError(f"Redis at {where} is still loading its data after {counted}")
        return OperationalError(
            f"Redis at {where} cannot be reached after {counted}: {error}; is it running, and is its URL right?"
        )
