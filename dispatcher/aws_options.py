"""How the AWS adapters read their URLs and options: every option is known, refused with a reason, or a typo.

URLs are ``sqs://`` and ``dynamodb://`` followed by nothing, a region, ``localstack``, or an emulator's ``host:port``;
keys may stand before an ``@`` as in Celery; options may follow as a query. An option given beside the URL wins.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from dispatcher.exceptions import ImproperlyConfigured, SecurityWarning, UnsupportedOption

#: The host that stands for the endpoints of the localstack-client package.
LOCALSTACK: Final = "localstack"
#: STS: https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html
ROLE_DURATION: Final = (900, 43_200)

_ADDRESSES: Final = frozenset({LOCALSTACK, "localhost"})
_REGION: Final = re.compile(r"[a-z]{2,}(?:-[a-z]+)+-\d+")


class Credentials(NamedTuple):
    """Keys given in a URL or an option; the secret stays out of its repr."""

    access_key: str
    secret_key: str
    token: str | None = None

    def __repr__(self) -> str:
        return f"Credentials({self.access_key!r}, ***)"


class Role(NamedTuple):
    """A role to assume (``sts_role_arn``) and how long its token lives, in seconds."""

    arn: str
    duration: int = 3600


class ClientSettings(NamedTuple):
    """Everything that tells two clients of one service apart; ``config`` are botocore ``Config`` arguments."""

    region: str | None = None
    endpoint_url: str | None = None
    use_ssl: bool = True
    credentials: Credentials | None = None
    role: Role | None = None
    config: tuple[tuple[str, Any], ...] = ()


class Expected(NamedTuple):
    """What an option's value must be: words for people, and a conversion that raises `ValueError` or `TypeError`."""

    words: str
    convert: Callable[[Any], Any]


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}[
        _text(value).lower()
    ]


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError
    return dict(value)


def _texts(value: Any) -> dict[str, str]:
    return {key: _text(item) for key, item in _mapping(value).items()}


TEXT: Final = Expected("a text", _text)
FLAG: Final = Expected("true or false", _flag)
MAPPING: Final = Expected("a mapping with text keys", _mapping)
TEXTS: Final = Expected("a mapping of texts to texts", _texts)


def number(low: float, high: float) -> Expected:
    """Expect a number from ``low`` to ``high``, both included."""

    def convert(value: Any) -> float:
        result = float(value)
        if isinstance(value, bool) or not low <= result <= high:
            raise ValueError
        return result

    return Expected(f"a number from {low:g} to {high:g}", convert)


def matching(pattern: str, words: str) -> Expected:
    """Expect a text that a regular expression matches, in words."""

    def convert(value: Any) -> str:
        if re.fullmatch(pattern, _text(value)) is None:
            raise ValueError
        return str(value)

    return Expected(words, convert)


#: Options of every AWS adapter.
COMMON: Final[dict[str, Expected]] = {
    "region": TEXT,
    "endpoint_url": TEXT,
    "is_secure": FLAG,
    "access_key_id": TEXT,
    "secret_access_key": TEXT,
    "session_token": TEXT,
    "sts_role_arn": TEXT,
    "sts_token_timeout": number(*ROLE_DURATION),
    "client-config": MAPPING,
}


class AwsUrl(NamedTuple):
    """A parsed URL: what it names (its path, or its host where that is no address), and the options it stands for."""

    name: str
    options: dict[str, Any]


def parse_url(url: str) -> AwsUrl:
    """Read an ``sqs://`` or ``dynamodb://`` URL.

    Raises `ImproperlyConfigured` for one that cannot be read; warns with `SecurityWarning` about keys in it.
    """
    scheme, _, rest = url.partition("://")
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ImproperlyConfigured(
            f"the {scheme}:// URL cannot be read: {error}; quote keys with urllib.parse.quote"
        ) from None
    name = parts.path.strip("/")
    options: dict[str, Any] = dict(parse_qsl(parts.query, keep_blank_values=True))
    if (
        host
        and port is None
        and not name
        and host not in _ADDRESSES
        and not _REGION.fullmatch(host)
        and "." not in host
    ):
        name = parts.netloc.rpartition("@")[2]  # `hostname` is in lower case, a table's name may not be
    elif host == LOCALSTACK and port is None:
        options["endpoint_url"] = LOCALSTACK
    elif _REGION.fullmatch(host) and port is None:
        options["region"] = host
    elif host:
        secure = _flag(options.get("is_secure", host.endswith((".amazonaws.com", ".amazonaws.com.cn"))))
        address = f"[{host}]" if ":" in host else host
        options["endpoint_url"] = f"{'https' if secure else 'http'}://{address}" + (f":{port}" if port else "")
    if parts.username or parts.password:
        if not (parts.username and parts.password):
            raise ImproperlyConfigured(
                f"the {scheme}:// URL needs both keys, {scheme}://ACCESS_KEY:SECRET_KEY@, or none"
            )
        warnings.warn(
            f"the {scheme}:// URL contains AWS keys, which end up in process lists and logs; "
            "prefer a role or the environment",
            SecurityWarning,
            stacklevel=2,
        )
        options["access_key_id"], options["secret_access_key"] = unquote(parts.username), unquote(parts.password)
    return AwsUrl(name, options)


def read(
    scheme: str, given: Mapping[str, Any], known: Mapping[str, Expected], refused: Mapping[str, str]
) -> dict[str, Any]:
    """Check options and return them converted; those that are `None` count as not given.

    Raises `UnsupportedOption` for one that cannot work here, `ImproperlyConfigured` for a wrong value or unknown name.
    """
    result = {}
    for name, value in given.items():
        if value is None:
            continue
        if name in refused:
            raise UnsupportedOption(f"the {scheme} option {name!r} cannot work here: {refused[name]}")
        if name not in known:
            import difflib

            close = difflib.get_close_matches(name, [*known, *refused], 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"
            raise ImproperlyConfigured(f"there is no {scheme} option {name!r}; {hint}")
        try:
            result[name] = known[name].convert(value)
        except (ValueError, TypeError, KeyError):
            shown = f", not {value!r}" if isinstance(value, str | int | float) and "secret" not in name else ""
            raise ImproperlyConfigured(f"the {scheme} option {name!r} must be {known[name].words}{shown}") from None
    return result


def client_settings(scheme: str, options: Mapping[str, Any]) -> ClientSettings:
    """Return the settings of the client that checked options ask for."""
    key, secret = options.get("access_key_id"), options.get("secret_access_key")
    if (key is None) != (secret is None):
        raise ImproperlyConfigured(f"{scheme} needs both access_key_id and secret_access_key, or neither")
    role = options.get("sts_role_arn")
    duration = options.get("sts_token_timeout")
    if duration is not None and role is None:
        raise ImproperlyConfigured(f"the {scheme} option 'sts_token_timeout' needs 'sts_role_arn'")
    return ClientSettings(
        region=options.get("region"),
        endpoint_url=options.get("endpoint_url"),
        use_ssl=options.get("is_secure", True),
        credentials=None if key is None else Credentials(key, str(secret), options.get("session_token")),
        role=None if role is None else Role(role, *(() if duration is None else (int(duration),))),
        config=tuple(sorted(options.get("client-config", {}).items())),
    )
