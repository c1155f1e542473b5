"""What a Redis URL and its transport options say, checked before anything connects."""

from __future__ import annotations

import dataclasses
import ssl
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from dispatcher.exceptions import CompatibilityWarning, ImproperlyConfigured

DEFAULT_PORT: Final = 6379
#: The keys of everything this package stores start with this, after ``global_keyprefix``.
NAMESPACE: Final = "dispatcher:"

#: What tries may take besides the pauses between them, in seconds.
_SLACK: Final = 5.0

_TCP: Final = ("redis", "valkey")
_TLS: Final = ("rediss", "valkeys")
_SOCKET: Final = ("unix", "redis+socket")
_TRUE: Final = ("1", "true", "yes", "on")
_FALSE: Final = ("0", "false", "no", "off")
_CERTIFICATE_CHECKS: Final = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not 0 < seconds < float("inf"):
        raise ValueError("more than 0")
    return seconds


def _seconds_or_zero(value: Any) -> float:
    return 0.0 if float(value) == 0 else _seconds(value)


def _count(value: Any) -> int:
    if int(value) < 0:
        raise ValueError("not negative")
    return int(value)


def _flag(value: Any) -> bool:
    word = str(value).lower()
    if word not in (*_TRUE, *_FALSE):
        raise ValueError("neither true nor false")
    return word in _TRUE


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _optional_seconds(value: Any) -> float | None:
    return None if value is None or value == "None" else _seconds(value)


def _mapping(value: Any) -> dict[Any, Any]:
    return dict(value)


def _certificate_check(value: Any) -> ssl.VerifyMode:
    if isinstance(value, ssl.VerifyMode):
        return value
    return _CERTIFICATE_CHECKS[str(value).lower().removeprefix("cert_")]


#: How to read each option, and what it has to be, for the error message.
_OPTIONS: Final[Mapping[str, tuple[Callable[[Any], Any], str]]] = {
    "visibility_timeout": (_seconds, "a number of seconds above 0"),
    "global_keyprefix": (_text, "a text"),
    "queue_name_prefix": (_text, "a text"),
    "db": (_count, "the number of a database"),
    "virtual_host": (_count, "the number of a database"),
    "username": (_text, "a text"),
    "password": (_text, "a text"),
    "client_name": (_text, "a text"),
    "socket_timeout": (_optional_seconds, "a number of seconds above 0, or None"),
    "socket_connect_timeout": (_optional_seconds, "a number of seconds above 0, or None"),
    "socket_keepalive": (_flag, "true or false"),
    "socket_keepalive_options": (_mapping, "a mapping of socket options"),
    "health_check_interval": (_seconds_or_zero, "a number of seconds, 0 for none"),
    "max_retries": (_count, "a whole number, 0 or more"),
    "interval_start": (_seconds_or_zero, "a number of seconds, 0 or more"),
    "interval_step": (_seconds_or_zero, "a number of seconds, 0 or more"),
    "interval_max": (_seconds_or_zero, "a number of seconds, 0 or more"),
    "ssl_cert_reqs": (_certificate_check, "none, optional or required"),
    "ssl_ca_certs": (_text, "a file name"),
    "ssl_ca_path": (_text, "a directory"),
    "ssl_certfile": (_text, "a file name"),
    "ssl_keyfile": (_text, "a file name"),
    "ssl_check_hostname": (_flag, "true or false"),
}
#: Options that go to the client library's connection under the same name.
_PASSED_ON: Final = (
    "username",
    "password",
    "client_name",
    "socket_timeout",
    "socket_connect_timeout",
    "socket_keepalive",
    "socket_keepalive_options",
    "health_check_interval",
)
#: Options of Celery's Redis transport and backend that have no meaning here, and why.
_WITHOUT_MEANING: Final[Mapping[str, str]] = {
    "ack_emulation": "deliveries are always leased",
    "fanout_patterns": "there are no fanout exchanges",
    "fanout_prefix": "there are no fanout exchanges",
    "max_connections": "a process opens as many connections as it has threads that use Redis at once",
    "polling_interval": "a waiting worker is woken by the server",
    "priority_steps": "all priorities from 0 to 9 are kept apart",
    "queue_order_strategy": "queues are served in the order they are given",
    "retry_on_timeout": "max_retries and interval_start, _step and _max say how often and when a call is repeated",
    "retry_policy": "max_retries and interval_start, _step and _max say how often and when a call is repeated",
    "sep": "queue names and priorities are not joined",
    "unacked_index_key": "leases are kept by Redis Streams",
    "unacked_key": "leases are kept by Redis Streams",
    "unacked_mutex_expire": "leases are kept by Redis Streams",
    "unacked_mutex_key": "leases are kept by Redis Streams",
    "unacked_restore_limit": "leases are kept by Redis Streams",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RedisSettings:
    """Where a Redis server is and how to talk to it; times in seconds."""

    #: for people: host, port and database, or the socket's path; no credentials
    address: str
    #: keyword arguments of the client library's connection
    connection: Mapping[str, Any] = dataclasses.field(repr=False)
    tls: bool = False
    path: str | None = None
    key_prefix: str = NAMESPACE
    queue_name_prefix: str = ""
    visibility_timeout: float | None = None
    max_retries: int = 5
    interval_start: float = 0.0
    interval_step: float = 0.2
    interval_max: float = 1.0

    def pauses(self) -> Iterator[float]:
        """Yield how long to pause before each repetition of a call that found no connection."""
        for number in range(self.max_retries):
            yield min(self.interval_start + number * self.interval_step, self.interval_max)

    @property
    def patience(self) -> float:
        """How long the tries of a call may take together, in seconds, for another to follow."""
        return _SLACK + sum(self.pauses())

    @property
    def server(self) -> tuple[Any, ...]:
        """Which server and database this is, and as whom we use them; of no use to people."""
        return (self.address, self.connection.get("username"))

    @property
    def longest_block(self) -> float:
        """How long the server may keep us waiting for an answer without looking dead."""
        timeout = self.connection["socket_timeout"]
        return float("inf") if timeout is None else timeout / 2


def parse(url: str, options: Mapping[str, Any]) -> RedisSettings:
    """Return the settings of a URL and its options; raise `ImproperlyConfigured` for what cannot work.

    URLs are ``redis://[user:password@]host[:port][/db]``, ``rediss://`` for TLS, ``unix:///path`` or Celery's
    ``redis+socket:///path`` for a socket; ``valkey://`` and ``valkeys://`` mean the first two. Options may stand in the
    URL's query, too; ``options`` wins.
    """
    parts = urlsplit(url)
    if parts.scheme not in (*_TCP, *_TLS, *_SOCKET):
        raise ImproperlyConfigured(
            f"a Redis URL starts with redis://, rediss://, unix:// or redis+socket://, not {parts.scheme}://"
        )
    values = _read_options({**dict(parse_qsl(parts.query)), **options})
    database = values.pop("db", None)
    database = values.pop("virtual_host", 0) if database is None else database
    connection: dict[str, Any] = {"socket_timeout": 30.0, "socket_connect_timeout": 5.0}
    connection |= {name: values.pop(name) for name in _PASSED_ON if name in values}
    tls = {name: values.pop(name) for name in list(values) if name.startswith("ssl_")}
    connection |= _credentials(parts)
    where = _socket(parts, database, tls) if parts.scheme in _SOCKET else _tcp(parts, database, tls)
    address, path = where.pop("address"), where.get("path")
    return RedisSettings(
        address=address,
        path=path,
        tls=parts.scheme in _TLS,
        connection=connection | where,
        key_prefix=values.pop("global_keyprefix", "") + NAMESPACE,
        **values,
    )


def _read_options(options: Mapping[str, Any]) -> dict[str, Any]:
    values = {}
    for name, value in options.items():
        if name in _WITHOUT_MEANING:
            warnings.warn(
                f"the Redis option {name} has no meaning here: {_WITHOUT_MEANING[name]}",
                CompatibilityWarning,
                stacklevel=5,
            )
            continue
        if name not in _OPTIONS:
            raise ImproperlyConfigured(f"Redis has no option {name!r}{_nearest(name, _OPTIONS)}")
        read, wanted = _OPTIONS[name]
        try:
            values[name] = read(value)
        except (TypeError, ValueError, KeyError):
            shown = "" if name == "password" else f", not {value!r}"
            raise ImproperlyConfigured(f"the Redis option {name} has to be {wanted}{shown}") from None
    return values


def _nearest(name: str, known: Collection[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(sorted(known))}"


def _credentials(parts: SplitResult) -> dict[str, str]:
    found = {"username": parts.username, "password": parts.password}
    return {name: unquote(value) for name, value in found.items() if value}


def _tcp(parts: SplitResult, database: int, tls: Mapping[str, Any]) -> dict[str, Any]:
    if tls and parts.scheme not in _TLS:
        raise ImproperlyConfigured(f"the Redis option {next(iter(tls))} needs a rediss:// URL")
    name = parts.path.strip("/")
    if name and not name.isdecimal():
        raise ImproperlyConfigured(f"the path of a Redis URL is the number of a database, not {name!r}")
    try:
        port = parts.port or DEFAULT_PORT
    except ValueError:
        raise ImproperlyConfigured("the port of the Redis URL is not a number from 0 to 65535") from None
    host, number = unquote(parts.hostname or "localhost"), int(name) if name else database
    return {"address": f"{host}:{port}/{number}", "host": host, "port": port, "db": number, **tls}


def _socket(parts: SplitResult, database: int, tls: Mapping[str, Any]) -> dict[str, Any]:
    if tls:
        raise ImproperlyConfigured(f"the Redis option {next(iter(tls))} needs a rediss:// URL, not a socket")
    path = unquote(parts.path)
    if not path.strip("/"):
        raise ImproperlyConfigured(
            f"{parts.scheme}:// needs the path of a socket, as in {parts.scheme}:///run/redis.sock"
        )
    return {"address": f"{path}/{database}", "path": path, "db": database}
