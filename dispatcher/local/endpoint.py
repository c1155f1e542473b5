"""The endpoint that the stack runs on: started here, or somebody else's."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from dispatcher import aws
from dispatcher.aws_options import LOCALSTACK
from dispatcher.config.environment import cache_directory, inherited
from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.local import environments
from dispatcher.local.emulator import ACCESS_KEY, REGION, SECRET_KEY, Emulator, is_port_taken

#: Where the tools for emulators look if nothing else is said.
PORT: Final = 4566
_CONNECT_SECONDS: Final = 3.0
_VARIABLE: Final = "AWS_ENDPOINT_URL"


def chosen_endpoint(option: str | None, port: int | None) -> str | None:
    """Return the address of an endpoint that is there already, `None` where one is to be started.

    The option wins over ``AWS_ENDPOINT_URL``, and so does a port to start one at. Raises `ImproperlyConfigured` for an
    address of AWS itself, and where nothing answers.
    """
    if option and port is not None:
        raise ImproperlyConfigured("--port is where an endpoint is started, --endpoint one that is there; give one")
    url = option or (inherited().get(_VARIABLE) if port is None else None)
    if not url:
        return None
    what = "--endpoint" if option else _VARIABLE
    if url == LOCALSTACK:
        url = aws.localstack_endpoint("sqs")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ImproperlyConfigured(f"{what} must be an address such as http://127.0.0.1:{PORT}, not {url!r}")
    if aws.is_aws(url):
        raise ImproperlyConfigured(f"{what} is {url}, which is AWS itself; deploy there: docs/lambda.md")
    try:
        default = 443 if parts.scheme == "https" else 80
        socket.create_connection((parts.hostname, parts.port or default), _CONNECT_SECONDS).close()
    except OSError as error:
        hint = "" if option else f"; unset {_VARIABLE} to have an endpoint started"
        raise ImproperlyConfigured(f"{what} is {url}, where nothing answers ({error}){hint}") from error
    return url


def variables_of(url: str) -> dict[str, str]:
    """Return the variables that point any AWS SDK at somebody's endpoint; keys and region of the environment hold."""
    mine = inherited()
    region = mine.get("AWS_REGION") or mine.get("AWS_DEFAULT_REGION") or REGION
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    if mine.get("AWS_ACCESS_KEY_ID"):
        known = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        keys = {name: mine[name] for name in known if name in mine}
    return {
        _VARIABLE: url,
        **keys,
        "AWS_DEFAULT_REGION": region,
        "AWS_REGION": region,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def environment_at(variables: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment, pointed at an endpoint and at no other place."""
    mine = {
        name: value
        for name, value in inherited().items()
        if not name.startswith(f"{_VARIABLE}_") and name not in ("AWS_PROFILE", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")
    }
    return {**mine, **variables}


def emulator(
    port: int | None, *, install: bool, owner: str, scratch: Path, announce: Callable[[str], None]
) -> Emulator:
    """Start an endpoint, installing it first if need be.

    Raises `EnvironmentUnavailable`, `EmulatorFailed`, or `ImproperlyConfigured` where the port is taken.
    """
    python = installed(environments.MINISTACK, install=install, announce=announce)
    wanted = PORT if port is None else port
    try:
        return Emulator(python, port=wanted, owner=owner, scratch=scratch).start()
    except OSError as error:
        if not is_port_taken(error):
            raise
        raise ImproperlyConfigured(
            f"port {wanted} is taken, perhaps by another `dispatcher local`; --port 0 takes one that is free, "
            f"--endpoint http://127.0.0.1:{wanted} uses what listens there"
        ) from error


def installed(requirements: Path, *, install: bool, announce: Callable[[str], None]) -> Path:
    """Return the interpreter of one of our environments in the user's cache; raises `EnvironmentUnavailable`."""
    return environments.python_of(cache_directory(), requirements, install=install, announce=announce)
