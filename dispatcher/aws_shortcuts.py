"""Shorter ways through botocore for the calls of services that speak JSON, DynamoDB and SQS: half the time of a call.

Requests and answers are the same, byte for byte, and so are retries, credentials, errors and events, by which others
(tracers, fakes) take part; but ``before-endpoint-resolution`` is emitted once for each operation of a client (and each
account), as its address is kept. Each shortcut looks whether botocore is as it expects, and is not taken where it is
not.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from botocore.auth import AUTH_TYPE_MAPS, SIGNED_HEADERS_BLACKLIST, SigV4Auth
from botocore.parsers import JSONParser, ResponseParserFactory
from botocore.regions import EndpointResolverBuiltins, EndpointRulesetResolver
from botocore.serialize import JSONSerializer

#: Types whose values are in JSON what they are in Python; bytes are told apart when there are some.
_PLAIN_INPUT: Final = frozenset({"structure", "list", "map", "string", "boolean", "integer", "long", "blob"})
_PLAIN_OUTPUT: Final = _PLAIN_INPUT | {"float", "double"}
#: Names of binary members -> what is in every answer that has one, and is in few others: the name or its start, with
#: letters as they are or escaped. Answers that may have other binary members are always walked through.
_BINARY: Final[Mapping[frozenset[str], tuple[bytes, ...]]] = {
    frozenset(): (),
    frozenset({"B", "BS"}): (b'"B"', b'"BS"', rb'"B\u0053', rb"\u0042"),
    frozenset({"BinaryValue", "BinaryListValues"}): (b'"Bi', rb'"B\u0069', rb"\u0042"),
}
#: What an address may depend on; parameters of a call only where they name a table by its ARN, which ours never do.
_ENDPOINT_PARAMETERS: Final = frozenset(
    {
        "Region", "UseDualStack", "UseFIPS", "Endpoint", "AccountId", "AccountIdEndpointMode", "ResourceArn",
        "ResourceArnList", "IsSearchOperation",
    }
)  # fmt: skip
#: The name that botocore knows our signer by.
SIGNATURE_VERSION: Final = "dispatcher-v4"


def shorten(client: Any) -> Any:
    """Have a new client of our own session take the shortcuts that it can; returns it."""
    serializer: Any = getattr(client, "_serializer", None)
    resolver: Any = getattr(client, "_ruleset_resolver", None)
    if type(serializer) is not JSONSerializer:
        return client  # another protocol, or parameters are to be validated
    serializer.serialize_to_request = _Serializer(serializer.serialize_to_request)
    parameters: Any = getattr(resolver, "_param_definitions", {})
    builtins: Any = getattr(resolver, "_builtins", None)
    known = type(resolver) is EndpointRulesetResolver and type(builtins) is dict
    if known and parameters.keys() <= _ENDPOINT_PARAMETERS:
        account = builtins.get(getattr(EndpointResolverBuiltins, "ACCOUNT_ID", None))
        resolver.construct_endpoint = _Endpoints(resolver.construct_endpoint, account)
    if AUTH_TYPE_MAPS.get("v4") is SigV4Auth:
        AUTH_TYPE_MAPS[SIGNATURE_VERSION] = Signer
        client.meta.events.register_first(f"choose-signer.{client.meta.service_model.service_id.hyphenize()}", _choose)
    return client


# ---------------------------------------------------------------------------------------------------------------------
# Requests and answers: JSON as it is, in place of walks along the shapes of every value


class _Serializer:
    """Writes parameters as JSON at once where nothing would be changed on the way, and else has it done as usual."""

    def __init__(self, usual: Callable[[Any, Any], dict[str, Any]]) -> None:
        self._usual = usual
        #: operation -> its request without a body, or `None`
        self._heads: dict[str, dict[str, Any] | None] = {}

    def __call__(self, parameters: Mapping[str, Any], operation_model: Any) -> dict[str, Any]:
        name = operation_model.name
        try:
            head = self._heads[name]
        except KeyError:
            shape = operation_model.input_shape
            plain = shape is not None and operation_model.endpoint is None and _is_plain(shape, _PLAIN_INPUT)
            head = self._heads[name] = self._usual({}, operation_model) if plain else None
        if head is not None:
            try:
                body = json.dumps(parameters).encode()
            except TypeError:  # bytes, say
                pass
            else:
                return {**head, "headers": dict(head["headers"]), "body": body}
        return self._usual(parameters, operation_model)


class Parsers(ResponseParserFactory):  # type: ignore[misc]
    """Makes botocore's parsers, and for JSON one that walks through answers only where that would change them."""

    def create_parser(self, protocol_name: str) -> Any:
        """Return a parser."""
        return _PARSER if protocol_name == "json" else super().create_parser(protocol_name)


class _Parser(JSONParser):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        #: shape of an answer -> what of it needs a walk, `None` where everything does
        self._marks = weakref.WeakKeyDictionary[Any, tuple[bytes, ...] | None]()

    def _handle_json_body(self, raw_body: bytes, shape: Any) -> Any:
        try:
            marks = self._marks[shape]
        except KeyError:
            marks = self._marks[shape] = _marks_of(shape)
        if marks is not None and not any(map(raw_body.__contains__, marks)):
            try:
                return json.loads(raw_body.decode())
            except ValueError:
                pass
        return super()._handle_json_body(raw_body, shape)


_PARSER: Final = _Parser()


def _marks_of(shape: Any) -> tuple[bytes, ...] | None:
    """Return what an answer does not contain that is in JSON what it is in Python; `None` where nothing tells."""
    if shape.metadata.get("exception") or not _is_plain(shape, _PLAIN_OUTPUT):
        return None
    binary = _BINARY.get(frozenset(_binary_members(shape)))
    return None if binary is None else (b"null", *binary)  # a null counts as absent


def _is_plain(shape: Any, types: frozenset[str]) -> bool:
    """Say whether a shape, and all in it, is written in JSON under its own name and of these types."""
    return all(
        each.type_name in types
        and not each.serialization.get("eventstream")
        and all(member.serialization.get("name", name) == name for name, member in _members(each))
        for each in _shapes(shape, set())
    )


def _binary_members(shape: Any) -> Iterator[str]:
    """Yield the names of members, of all structures in a shape, that are bytes, or lists or maps of such."""
    for each in _shapes(shape, set()):
        for name, member in _members(each):
            value = member
            while value.type_name in ("list", "map"):
                value = value.member if value.type_name == "list" else value.value
            if value.type_name == "blob":
                yield name


def _shapes(shape: Any, seen: set[str]) -> Iterator[Any]:
    """Yield a shape and all in it, each once: values of DynamoDB hold such values."""
    if shape.name in seen:
        return
    seen.add(shape.name)
    yield shape
    if shape.type_name == "structure":
        inner = list(shape.members.values())
    else:
        inner = [getattr(shape, name) for name in ("key", "value", "member") if hasattr(shape, name)]
    for each in inner:
        yield from _shapes(each, seen)


def _members(shape: Any) -> Any:
    return shape.members.items() if shape.type_name == "structure" else ()


# ---------------------------------------------------------------------------------------------------------------------
# Addresses


class _Endpoints:
    """Keeps what a client's rules say of an operation's address, for each account that credentials are of."""

    def __init__(self, usual: Callable[[Any, Any, Any], Any], account: Any) -> None:
        self._usual = usual
        self._account = account
        self._known: dict[tuple[str, Any], Any] = {}

    def __call__(self, operation_model: Any, call_args: Any, request_context: Any) -> Any:
        account = self._account() if callable(self._account) else self._account
        key = operation_model.name, account
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._usual(operation_model, call_args, request_context)
        return found


# ---------------------------------------------------------------------------------------------------------------------
# Signatures


def _choose(signature_version: Any, **_: Any) -> str | None:
    return SIGNATURE_VERSION if signature_version == "v4" else None


class Signer(SigV4Auth):  # type: ignore[misc]
    """Signs requests by Signature Version 4 as botocore does, looking at the headers once in place of thrice.

    Requests with anything out of the ordinary are left to botocore.
    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    """

    def add_auth(self, request: Any) -> None:
        """Add the headers that sign a request."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        if self.credentials is None or not _is_ordinary(request, headers):
            super().add_auth(request)
            return
        timestamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        request.context["timestamp"] = timestamp
        request.headers["X-Amz-Date"] = headers["x-amz-date"] = timestamp
        if self.credentials.token:
            request.headers["X-Amz-Security-Token"] = headers["x-amz-security-token"] = self.credentials.token
        if "host" not in headers:
            headers["host"] = _host(request.url)
        names = sorted(headers.keys() - _UNSIGNED)
        lines = "".join([f"{name}:{' '.join(headers[name].split())}\n" for name in names])
        signed = ";".join(names)
        content = hashlib.sha256(request.data).hexdigest()
        canonical = f"{request.method.upper()}\n/\n\n{lines}\n{signed}\n{content}"
        scope = self.credential_scope(request)
        text = f"AWS4-HMAC-SHA256\n{timestamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = _key(self.credentials.secret_key, timestamp[:8], self._region_name, self._service_name)
        request.headers["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.credentials.access_key}/{scope}, SignedHeaders={signed}, "
            f"Signature={hmac.digest(key, text.encode(), 'sha256').hex()}"
        )


_UNSIGNED: Final = frozenset(SIGNED_HEADERS_BLACKLIST)
#: Headers that mean that a request was signed before, or is to be signed in another manner.
_SPECIAL: Final = frozenset({"authorization", "date", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256"})
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


def _is_ordinary(request: Any, headers: Mapping[str, Any]) -> bool:
    """Say whether a request is a new one, all of whose content is signed, to the root of its host."""
    return (
        type(request.data) is bytes
        and not request.params
        and request.context.get("payload_signing_enabled", True) is True
        and "checksum" not in request.context
        and len(headers) == len(request.headers)
        and not headers.keys() & _SPECIAL
        and all(type(value) is str for value in headers.values())
        and _is_root(request.url)
    )


@functools.lru_cache(maxsize=64)
def _is_root(url: str) -> bool:
    _, _, rest = url.partition("://")
    return rest.endswith("/") and rest.count("/") == 1 and "?" not in rest and "#" not in rest


@functools.lru_cache(maxsize=64)
def _host(url: str) -> str:
    parts = urlsplit(url.lower())
    return parts.netloc.rpartition("@")[2].removesuffix(_DEFAULT_PORTS.get(parts.scheme, " "))


@functools.lru_cache(maxsize=8)
def _key(secret: str, day: str, region: str, service: str) -> bytes:
    """Return the signing key of a day."""
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
