"""What the AWS adapters share: one botocore session per process, its clients, and errors that say what to do.

Botocore itself reads credentials, region and ``AWS_ENDPOINT_URL[_SQS|_DYNAMODB]`` where AWS documents them. Clients
are made on first use, shared by everything with the same settings, and made anew after a fork. Threads may share them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ReadTimeoutError,
)

from dispatcher._version import __version__
from dispatcher.aws_bounds import AMPLE, OutOfTime, in_time, longest_call, stop_trying
from dispatcher.aws_data import SERVICES, PinnedLoader, small_session
from dispatcher.aws_options import LOCALSTACK, ClientSettings, Credentials, Role
from dispatcher.aws_shortcuts import Parsers, shorten
from dispatcher.config import inside_lambda
from dispatcher.exceptions import ImproperlyConfigured, OperationalError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

#: Threads for calls that are made side by side (several batches of one send); made on first use.
MAX_THREADS: Final = 8
#: The region of an emulator where nobody has set one: what the tools of emulators take.
EMULATOR_REGION: Final = "us-east-1"


# ---------------------------------------------------------------------------------------------------------------------
# The session and its clients


_VARIANTS: Final = frozenset({"use_fips_endpoint", "use_dualstack_endpoint"})


class _Process:
    """What one process holds: the session, the clients and the threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.session: Any = None
        self.clients: dict[Any, Any] = {}
        self.threads: ThreadPoolExecutor | None = None


_process = _Process()
#: Plain data, so a child may keep what its parent has loaded.
_loader = PinnedLoader()


def _forget_parent() -> None:
    global _process
    _process = _Process()


# A child must share neither sockets nor locks (a thread of the parent may have held them) with its parent.
os.register_at_fork(after_in_child=_forget_parent)


def lend() -> Callable[[], None]:
    """Return what a forked child calls to take over its parent's clients, none of which may have been used yet.

    Making clients takes longer than a child may have. Clients in a role are left out, which has been assumed by a call.
    """
    parent = _process
    unused = {key: made for key, made in parent.clients.items() if key[1].role is None}

    def take_over() -> None:
        _process.session = parent.session
        _process.clients = unused

    return take_over


def client(service: str, settings: ClientSettings = ClientSettings()) -> Any:  # noqa: B008 - an immutable tuple
    """Return this process's client of a service, such as ``"sqs"``.

    Raises `ImproperlyConfigured` where none can be made.
    """
    process, key = _process, _key(service, settings)
    found = process.clients.get(key)
    if found is None:
        with process.lock:
            found = process.clients.get(key)
            if found is None:
                found = process.clients[key] = _make_client(process, service, settings)
    return found


def release(service: str, settings: ClientSettings) -> None:
    """Drop a client; its connections close once nothing uses it any more, and `client` makes a new one."""
    with _process.lock:
        _process.clients.pop(_key(service, settings), None)


def _key(service: str, settings: ClientSettings) -> Any:
    key = (service, settings)
    try:
        hash(key)
    except TypeError:  # a client-config with a dict in it
        return service, settings._replace(config=(("repr", repr(settings.config)),))
    return key


def _make_client(process: _Process, service: str, settings: ClientSettings) -> Any:
    config = dict(settings.config)
    if config.keys() & _VARIANTS or service not in SERVICES:
        session = _make_session(config)
    else:
        session = process.session = process.session or _pinned(small_session(), config)
    if settings.endpoint_url == LOCALSTACK:
        settings = _localstack(service, settings)
    arguments: dict[str, Any] = {
        "region_name": settings.region,
        "endpoint_url": settings.endpoint_url,
        "use_ssl": settings.use_ssl,
        "config": Config(**{**_config(service, session), **config}),
    }
    if settings.credentials is not None:
        arguments["aws_access_key_id"], arguments["aws_secret_access_key"], arguments["aws_session_token"] = (
            settings.credentials
        )
    if settings.role is not None:
        session = _assume(settings.role, arguments, config)
    try:
        client = shorten(session.create_client(service, **arguments))
    except (NoRegionError, PartialCredentialsError, TypeError, ValueError) as error:
        hint = _hint(error)
        raise ImproperlyConfigured(
            f"no {service} client can be made: {error}" + (f"; {hint}" if hint else "")
        ) from error
    except BotoCoreError as error:
        raise ImproperlyConfigured(f"no {service} client can be made: {error}") from error
    if settings.role is None:  # a call may have to assume the role first, which takes as long as it takes
        stop_trying(client)
    return client


def _make_session(config: Mapping[str, Any]) -> Any:
    return _pinned(botocore.session.Session(), config)


def _pinned(session: Any, config: Mapping[str, Any]) -> Any:
    """Return a session with our loader of botocore's data, unless its configuration asks for what that has not."""
    if not any(config.get(name) or session.get_config_variable(name) for name in (*_VARIANTS, "data_path")):
        session.register_component("data_loader", _loader)
    session.register_component("response_parser_factory", Parsers())
    return session


#: Seconds until a service that says nothing is given up, by service.
_READ: Final = {"sqs": 30, "s3": 30, "dynamodb": 10}
_READ_IN_LAMBDA: Final = {"sqs": 7, "s3": 7, "dynamodb": 3}

#: What botocore would read in the ``endpoints.json`` that `PinnedLoader` spares it.
_S3_CONFIG: Final[Mapping[str, Any]] = {
    "signature_version": "s3v4",
    "s3": {"us_east_1_regional_endpoint": "regional"},
}


def _config(service: str, session: Any) -> dict[str, Any]:
    """Return the defaults of ``client-config``: fail over in seconds, and leave room for a long poll of 20 s.

    A function polls for no longer than 5 s, and has less time: a connection that went dead while it was frozen must
    leave some for another.
    """
    connect, read = (1, _READ_IN_LAMBDA) if inside_lambda() else (5, _READ)
    return {
        **(_S3_CONFIG if service == "s3" else {}),
        "connect_timeout": connect,
        "read_timeout": read.get(service, 10),
        "retries": {"mode": "standard", "total_max_attempts": 5},
        "max_pool_connections": 32,
        "tcp_keepalive": True,
        # Requests are built here and checked by the service; checking them before costs a tenth of a call.
        "parameter_validation": False,
        # Said once: botocore else puts it together anew for each call, which takes a sixth of the call.
        "user_agent": f"dispatcher/{__version__} {session.user_agent()}",
    }


def _localstack(service: str, settings: ClientSettings) -> ClientSettings:
    return settings._replace(
        endpoint_url=localstack_endpoint(service),
        region=settings.region or EMULATOR_REGION,
        credentials=settings.credentials or Credentials("test", "test"),
    )


def at_endpoint(url: str | None) -> ClientSettings:
    """Return the settings of clients at an address; an emulator gets a region and keys where none are configured.

    It takes any, and botocore makes no client without.
    """
    if url is None or is_aws(url):
        return ClientSettings(endpoint_url=url)
    session = botocore.session.Session()
    region = None if session.get_config_variable("region") else EMULATOR_REGION
    own = session.get_component("credential_provider").get_provider("env").load() or session.full_config["profiles"]
    return ClientSettings(region, url, credentials=None if own else Credentials("test", "test"))


def localstack_endpoint(service: str) -> str:
    """Return the address that the localstack-client package has for a service.

    Raises `ImproperlyConfigured` where the package is not installed.
    """
    try:
        from localstack_client.config import get_service_endpoint
    except ImportError as error:
        raise ImproperlyConfigured(
            "endpoint 'localstack' needs the localstack-client package: pip install localstack-client, "
            "or name the endpoint itself: endpoint_url='http://127.0.0.1:4566'"
        ) from error
    return str(get_service_endpoint(service))


class _RoleProvider:
    """Stands in for botocore's chain of credential providers: the credentials of an assumed role, renewed in time."""

    def __init__(self, source: Any, role: Role) -> None:
        self.source = source
        self.role = role

    def load_credentials(self) -> Any:
        """Assume the role now and again whenever a quarter of its time is left."""
        from botocore.credentials import AssumeRoleCredentialFetcher, RefreshableCredentials

        early = self.role.duration // 4
        fetcher = AssumeRoleCredentialFetcher(
            self.source.create_client,
            self.source.get_credentials(),
            self.role.arn,
            extra_args={"RoleSessionName": "dispatcher", "DurationSeconds": self.role.duration},
            expiry_window_seconds=early,
        )
        return RefreshableCredentials.create_from_metadata(
            fetcher.fetch_credentials(),
            fetcher.fetch_credentials,
            "assume-role",
            advisory_timeout=early,
            mandatory_timeout=early // 2,
        )


def _assume(role: Role, arguments: dict[str, Any], config: Mapping[str, Any]) -> Any:
    """Return a session that acts in the role, with the keys of ``arguments`` (or the environment's) to assume it by."""
    source, assumed = _make_session({}), _make_session(config)
    keys = [arguments.pop(name, None) for name in ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")]
    if keys[0] is not None:
        source.set_credentials(*keys)
    if arguments["region_name"]:
        source.set_config_variable("region", arguments["region_name"])
    assumed.register_component("credential_provider", _RoleProvider(source, role))
    return assumed


def is_aws(endpoint_url: str) -> bool:
    """Say whether an address is AWS's own, in any partition, and not an emulator's."""
    host = urlsplit(endpoint_url).hostname or ""
    suffixes = {
        outputs[name]
        for outputs in (partition["outputs"] for partition in _loader.load_data("partitions")["partitions"])
        for name in ("dnsSuffix", "dualStackDnsSuffix")
    }
    return any(host.endswith(f".{suffix}") for suffix in suffixes)


# ---------------------------------------------------------------------------------------------------------------------
# Calls and their errors


class ServiceError(OperationalError):
    """An AWS call failed; ``code`` is the service's word for it, empty where the service was not reached."""

    def __init__(self, message: str, code: str = "", response: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.response: Mapping[str, Any] = response or {}


def call(client: Any, operation: str, target: str, **parameters: Any) -> Any:
    """Call an operation of a client.

    Raises `ServiceError` naming service, operation, target (a queue, a table) and remedy.
    """
    service = client.meta.service_model.service_name
    # What S3 stores may take long to send.
    ample = AMPLE if service == "s3" else longest_call(client)
    try:
        return in_time(service, lambda: getattr(client, operation)(**parameters), ample)
    except ClientError as error:
        details = error.response.get("Error", {})
        code = str(details.get("Code", ""))
        reason = f"{code}: {details.get('Message', '')}".rstrip(": ")
        raise ServiceError(
            _wording(client, operation, target, reason, _hint_for(code)), code, error.response
        ) from error
    except (BotoCoreError, HTTPClientError, OutOfTime) as error:
        raise ServiceError(_wording(client, operation, target, str(error), _hint(error))) from error


def read_stream(client: Any, operation: str, target: str, stream: Any) -> bytes:
    """Return the rest of a streamed answer; raises `ServiceError` where it breaks off."""
    try:
        content: bytes = in_time(client.meta.service_model.service_name, stream.read)
    except (BotoCoreError, HTTPClientError, OutOfTime) as error:
        raise ServiceError(_wording(client, operation, target, str(error), _hint(error))) from error
    return content


def _wording(client: Any, operation: str, target: str, reason: str, hint: str) -> str:
    service, address = client.meta.service_model.service_name, client.meta.endpoint_url
    return f"{service} {operation} of {target} at {address} failed: {reason}" + (f" ({hint})" if hint else "")


_CREDENTIALS_HINT: Final = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, choose an AWS_PROFILE, or run under a role; "
    "an emulator takes any keys"
)


def _hint(error: Exception) -> str:
    """Say what to do about an error raised before the service answered."""
    if isinstance(error, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError):
        return _CREDENTIALS_HINT
    if isinstance(error, NoRegionError):
        return "set AWS_DEFAULT_REGION or the option 'region'"
    if isinstance(error, OutOfTime):
        return "the place that this runs in ends soon; a message whose outcome is not recorded comes again"
    if isinstance(error, EndpointConnectionError | ConnectTimeoutError | ConnectionClosedError | ReadTimeoutError):
        return (
            "check the network, the region, and AWS_ENDPOINT_URL or the option 'endpoint_url' if an emulator is meant"
        )
    return ""


def _hint_for(code: str) -> str:
    """Say what to do about an error code."""
    if "AccessDenied" in code or code == "NotAuthorized":
        return "the role in use lacks this permission; docs/aws.md lists what is needed"
    if code in {"UnrecognizedClientException", "InvalidClientTokenId", "ExpiredToken", "ExpiredTokenException",
                "InvalidSignatureException", "SignatureDoesNotMatch", "MissingAuthenticationToken"}:  # fmt: skip
        return f"the credentials are wrong or have expired: {_CREDENTIALS_HINT}"
    if "Throttl" in code or code in {"ProvisionedThroughputExceededException", "RequestLimitExceeded", "OverLimit"}:
        return "more is asked than the table, queue or account may do; pauses between tries did not help: try later"
    if code.endswith(("NonExistentQueue", "QueueDoesNotExist")):
        return "deploy the template, check region and account, or set the option create_missing_queues=True"
    if code.startswith(("KMS", "KmsAccess")):
        return "the role in use may not use the key that encrypts this resource"
    return ""


def together(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """Apply a function to all items, side by side where there are several; results in order, the first error raised.

    The function must not call `together` itself.
    """
    if len(items) < 2:
        return [function(item) for item in items]
    process = _process
    if process.threads is None:
        from concurrent.futures import ThreadPoolExecutor

        with process.lock:
            if process.threads is None:
                process.threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="dispatcher-aws")
    return list(process.threads.map(function, items))


def chunks(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    """Cut a sequence into pieces of at most this size."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
