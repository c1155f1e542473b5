"""What Redis URLs and options mean, and which are refused."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from dispatcher.exceptions import CompatibilityWarning, ImproperlyConfigured
from dispatcher.redis_settings import parse


@pytest.mark.parametrize(
    ("url", "address", "connection"),
    [
        ("redis://", "localhost:6379/0", {"host": "localhost", "port": 6379, "db": 0}),
        ("redis://cache.local:7000/3", "cache.local:7000/3", {"host": "cache.local", "port": 7000, "db": 3}),
        ("valkey://[::1]:7000/", "::1:7000/0", {"host": "::1", "port": 7000, "db": 0}),
        ("redis://:p%40ss@h", "h:6379/0", {"host": "h", "port": 6379, "db": 0, "password": "p@ss"}),
        ("redis://me:p@h?db=2", "h:6379/2", {"host": "h", "port": 6379, "db": 2, "username": "me", "password": "p"}),
        ("unix:///run/redis.sock?db=1", "/run/redis.sock/1", {"path": "/run/redis.sock", "db": 1}),
        ("redis+socket:///run/r.sock?virtual_host=4", "/run/r.sock/4", {"path": "/run/r.sock", "db": 4}),
    ],
)
def test_a_url_names_a_server(url: str, address: str, connection: dict[str, Any]) -> None:
    """Host, port, database and credentials go to the connection; the address for people has no credentials."""
    settings = parse(url, {})
    assert settings.address == address
    assert settings.connection == {"socket_timeout": 30.0, "socket_connect_timeout": 5.0, **connection}
    assert "p@ss" not in repr(settings)


@pytest.mark.parametrize(("scheme", "tls"), [("redis", False), ("rediss", True), ("valkeys", True)])
def test_tls_is_the_schemes_choice(scheme: str, tls: bool) -> None:
    """The s at the end of the scheme turns TLS on."""
    assert parse(f"{scheme}://h", {}).tls is tls


@pytest.mark.parametrize("value", ["CERT_NONE", "none", ssl.CERT_NONE])
def test_certificate_checks_are_named_as_in_celery(value: Any) -> None:
    """Celery's CERT_… words, the client library's words and the standard library's constants mean the same."""
    assert parse("rediss://h", {"ssl_cert_reqs": value}).connection["ssl_cert_reqs"] == ssl.CERT_NONE


def test_options_win_over_the_query() -> None:
    """An option may stand in the URL; the explicit one counts."""
    url = "redis://h?visibility_timeout=5&global_keyprefix=a:&socket_keepalive=true&socket_timeout=None"
    settings = parse(url, {"visibility_timeout": 7})
    assert (settings.visibility_timeout, settings.key_prefix) == (7.0, "a:dispatcher:")
    assert settings.connection["socket_keepalive"] is True
    assert settings.connection["socket_timeout"] is None
    assert settings.longest_block == float("inf")


def test_a_wait_stays_within_the_socket_timeout() -> None:
    """A server that is told to wait must not look dead."""
    assert parse("redis://h", {"socket_timeout": 0.5}).longest_block == 0.25


def test_pauses_grow_to_the_maximum() -> None:
    """As many pauses as retries, by Celery's four settings."""
    options = {"max_retries": 4, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5}
    assert list(parse("redis://h", options).pauses()) == pytest.approx([0, 0.2, 0.4, 0.5])


@pytest.mark.parametrize(
    ("url", "options", "problem"),
    [
        ("http://h", {}, "starts with redis://"),
        ("redis://h/first", {}, "number of a database, not 'first'"),
        ("redis://h:99999", {}, "port"),
        ("unix://", {}, "path of a socket"),
        ("redis://h", {"visibilty_timeout": 5}, "did you mean 'visibility_timeout'"),
        ("redis://h?zebra=1", {}, "has no option 'zebra'; it has client_name, db"),
        ("redis://h", {"visibility_timeout": 0}, "a number of seconds above 0, not 0"),
        ("redis://h", {"socket_timeout": "soon"}, "or None, not 'soon'"),
        ("redis://h", {"socket_keepalive": "maybe"}, "true or false, not 'maybe'"),
        ("redis://h", {"global_keyprefix": 5}, "a text, not 5"),
        ("redis://h", {"max_retries": -1}, "a whole number, 0 or more"),
        ("rediss://h", {"ssl_cert_reqs": "perhaps"}, "none, optional or required"),
        ("redis://h", {"ssl_certfile": "c.pem"}, "ssl_certfile needs a rediss:// URL"),
        ("unix:///s", {"ssl_certfile": "c.pem"}, "ssl_certfile needs a rediss:// URL"),
    ],
)
def test_what_cannot_work_is_refused(url: str, options: dict[str, Any], problem: str) -> None:
    """The error names the option and what it has to be."""
    with pytest.raises(ImproperlyConfigured, match=problem):
        parse(url, options)


def test_a_wrong_password_type_is_not_shown() -> None:
    """Secrets stay out of errors."""
    with pytest.raises(ImproperlyConfigured) as error:
        parse("redis://h", {"password": b"secret"})
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("name", ["fanout_prefix", "max_connections", "priority_steps", "retry_policy"])
def test_celery_options_without_meaning_warn(name: str) -> None:
    """A setting that can be ignored safely does not stop a migration."""
    with pytest.warns(CompatibilityWarning, match=name):
        parse("redis://h", {name: 1})
