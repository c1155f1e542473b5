"""Which SQS queue a name means: options, legal names, URLs, and queues made where that is allowed.

A queue's URL comes from ``queue_urls``, else from ``predefined_queues``, else from GetQueueUrl. SQS moves a message of
``orders`` that it gives up to ``orders-lost``, whose reader decides what becomes of it; the dead letters are in
``orders-dead``. Those of ``orders.fifo`` are ``orders-lost.fifo`` and ``orders-dead.fifo``. No task queue is called so.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from dispatcher import aws
from dispatcher.aws_options import (
    COMMON,
    FLAG,
    MAPPING,
    TEXT,
    TEXTS,
    ClientSettings,
    Expected,
    client_settings,
    matching,
    number,
    read,
)
from dispatcher.exceptions import ImproperlyConfigured, OperationalError
from dispatcher.quotas import (
    LAMBDA_MAX_TIMEOUT,
    LAMBDA_VISIBILITY_FACTOR,
    SQS_DEFAULT_RETENTION,
    SQS_MAX_DELAY,
    SQS_MAX_QUEUE_NAME_CHARS,
    SQS_MAX_RECEIVE_COUNT,
    SQS_MAX_RETENTION,
    SQS_MAX_VISIBILITY,
    SQS_MAX_WAIT,
)
from dispatcher.security import home_queue

FIFO: Final = ".fifo"
DEAD: Final = "-dead"
LOST: Final = "-lost"

#: The transport budget of a queue made here (at most 1,000): time-outs, throttles and hand-backs use it up too.
MAX_RECEIVE_COUNT: Final = 100
#: That of its lost queue. Well above the other, because receives may be counted on across queues.
LOST_MAX_RECEIVE_COUNT: Final = SQS_MAX_RECEIVE_COUNT

_LEGAL_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")
# As Celery names its queues, so that both find the same ones.
_TRANSLATION: Final = {ord(char): "_" for char in string.punctuation if char not in "-_"} | {ord("."): "-"}
#: Of ``sqs-creation-attributes``, those that the lost and the dead-letter queue share.
_ENCRYPTION: Final = ("KmsMasterKeyId", "KmsDataKeyReusePeriodSeconds", "SqsManagedSseEnabled")
#: High throughput: groups do not wait for one another.
_FIFO_ATTRIBUTES: Final = {
    "FifoQueue": "true",
    "DeduplicationScope": "messageGroup",
    "FifoThroughputLimit": "perMessageGroupId",
}


def _urls(value: Any) -> Callable[[str], str | None]:
    """Accept a function from a queue's name to its URL or `None`, or a mapping."""
    if callable(value):
        return value  # type: ignore[no-any-return]
    return TEXTS.convert(value).get  # type: ignore[no-any-return]


OPTIONS: Final[dict[str, Expected]] = {
    **COMMON,
    "visibility_timeout": number(1, SQS_MAX_VISIBILITY),
    "wait_time_seconds": number(0, SQS_MAX_WAIT),
    "polling_interval": number(0, 3_600),
    "queue_name_prefix": Expected("a text", str),
    "queue_urls": Expected("a mapping of queue names to URLs, or a function from a name to a URL or None", _urls),
    "predefined_queues": MAPPING,
    "create_missing_queues": FLAG,
    "sqs-creation-attributes": TEXTS,
    "queue_tags": TEXTS,
    "max_receive_count": number(2, SQS_MAX_RECEIVE_COUNT),
    "message_retention": number(60, SQS_MAX_RETENTION),
    "scheduler_role": matching(
        r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+",
        "the ARN of a role, such as arn:aws:iam::123456789012:role/later",
    ),
    "scheduler_group": matching(
        r"[0-9A-Za-z_.-]{1,64}", "the name of a schedule group: letters, digits, '_', '-', '.'"
    ),
}
_ADDRESS: Final = "name the address by the option endpoint_url, or in the URL: sqs://host:port"
_PUBLISH: Final = "the setting task_publish_retry_policy says how sends are repeated"
REFUSED: Final = {
    "sqs_base64_encoding": "bodies are JSON text, which event filters and people can read, and never base64",
    "fetch_message_attributes": "what the broker needs is always fetched, and tasks do not see more",
    "supports_fanout": "there are no exchanges; send to each queue instead",
    "predefined_exchanges": "there are no exchanges; send to each queue instead",
    "port": _ADDRESS,
    "regioninfo": "name the region by the option region, or the address by endpoint_url",
    "sts_token_buffer_time": "the role's token is renewed when a quarter of sts_token_timeout is left",
    "priority_steps": "SQS has no priorities; route urgent tasks to a queue of their own",
    "sep": "SQS has no priorities; route urgent tasks to a queue of their own",
    "queue_order_strategy": "queues are served in the order they are named, none starves",
    "confirm_publish": "every send is confirmed",
    "max_retries": _PUBLISH,
    "interval_start": _PUBLISH,
    "interval_step": _PUBLISH,
    "interval_max": _PUBLISH,
}
_PREDEFINED: Final[dict[str, Expected]] = {
    "url": TEXT,
    **{name: COMMON[name] for name in ("region", "access_key_id", "secret_access_key", "session_token")},
}
_BACKOFF: Final = "a task retries by its own retry_backoff, which changes the visibility of its message"
_PREDEFINED_REFUSED: Final = {"backoff_policy": _BACKOFF, "backoff_tasks": _BACKOFF}


class Queues:
    """The queues of one broker, by name; safe to use from several threads."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        if "scheduler_group" in options and "scheduler_role" not in options:
            raise ImproperlyConfigured("the sqs option 'scheduler_group' needs 'scheduler_role'")
        self.settings = client_settings("sqs", options)
        self._prefix: str = options.get("queue_name_prefix", "")
        self._given: Callable[[str], str | None] = options.get("queue_urls", {}.get)
        self._create: bool | None = options.get("create_missing_queues")
        self._attributes: dict[str, str] = options.get("sqs-creation-attributes", {})
        self._retention = int(options["message_retention"]) if "message_retention" in options else None
        self._max_receives = int(options.get("max_receive_count", MAX_RECEIVE_COUNT))
        self._tags: dict[str, str] = options.get("queue_tags", {})
        self._predefined: dict[str, str] = {}
        self._own_settings: dict[str, ClientSettings] = {}
        for name, entry in options.get("predefined_queues", {}).items():
            self._add_predefined(name, entry, options)
        self._urls: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def _add_predefined(self, name: str, entry: Any, options: Mapping[str, Any]) -> None:
        what = f"sqs predefined_queues[{name!r}]"
        if not isinstance(entry, Mapping) or "url" not in entry:
            raise ImproperlyConfigured(f"{what} must be a mapping with a 'url'")
        checked = read(what, entry, _PREDEFINED, _PREDEFINED_REFUSED)
        self._predefined[name] = checked.pop("url")
        _check_kinds(name, self._predefined[name])
        if checked:
            self._own_settings[name] = client_settings("sqs", {**options, **checked})

    # Clients and names

    def client(self, queue: str) -> Any:
        """Return the client whose keys and region are meant for a queue, and for its lost and dead letters."""
        return aws.client("sqs", self.settings_of(queue))

    def settings_of(self, queue: str) -> ClientSettings:
        """Return the settings of that client."""
        return self._own_settings.get(queue) or self._own_settings.get(home_queue(queue), self.settings)

    def all_settings(self) -> list[ClientSettings]:
        """Return the settings of every client, each once."""
        return [self.settings, *(own for own in self._own_settings.values() if own != self.settings)]

    def release(self) -> None:
        """Drop every client."""
        for settings in self.all_settings():
            aws.release("sqs", settings)

    @staticmethod
    def dead(queue: str) -> str:
        """Name the queue that keeps the dead letters of a queue, or of the one whose lost messages it holds."""
        return _twin(home_queue(queue), DEAD)

    @staticmethod
    def lost(queue: str) -> str:
        """Name the queue that SQS moves a queue's messages to when it gives them up."""
        return _twin(home_queue(queue), LOST)

    def sqs_name(self, queue: str) -> str:
        """Return the name a queue has at SQS; raises `ImproperlyConfigured` where it can have none.

        As in Celery the prefix comes first, a dot becomes a dash and other punctuation an underscore.
        """
        stem = (self._prefix + queue).removesuffix(FIFO).translate(_TRANSLATION)
        name = stem + (FIFO if is_fifo(queue) else "")
        if not _LEGAL_NAME.fullmatch(stem):
            raise ImproperlyConfigured(
                f"{queue!r} cannot be the name of an SQS queue: letters, digits, '-', '_' and '.'"
            )
        if len(name) > SQS_MAX_QUEUE_NAME_CHARS:
            raise ImproperlyConfigured(
                f"the SQS name {name!r} of queue {queue!r} is over {SQS_MAX_QUEUE_NAME_CHARS} characters long"
            )
        taken = self._names.setdefault(name, queue)
        if taken != queue:
            raise ImproperlyConfigured(
                f"the queues {taken!r} and {queue!r} would both be {name!r} at SQS; rename one of them"
            )
        return name

    def check(self, queue: str) -> None:
        """Raise `ImproperlyConfigured` for a queue that can have no name at SQS, or whose URL is of another kind."""
        if queue not in self._urls and self._known(queue) is None:
            self._wanted(queue)

    def local_name(self, sqs_name: str, known: Iterable[str] = ()) -> str:
        """Return what a queue is called here by its SQS name: one of those known, else that name without the prefix."""
        for queue in known:
            try:
                self.sqs_name(queue)
            except ImproperlyConfigured:
                continue  # no queue of SQS can have that name
        return self._names.get(sqs_name) or sqs_name.removeprefix(self._prefix.translate(_TRANSLATION))

    def listed(self) -> list[str]:
        """Return the names of predefined queues, or else of all queues with the prefix, dead and lost letters aside."""
        if self._predefined:
            return sorted(name for name in self._predefined if home_queue(name) == name)
        client, names, token = aws.client("sqs", self.settings), list[str](), None
        prefix = self._prefix.translate(_TRANSLATION)
        while True:
            page: dict[str, str] = {"NextToken": token} if token else {}
            wanted = {"QueueNamePrefix": prefix} if prefix else {}
            answer = aws.call(client, "list_queues", "all queues", MaxResults=1_000, **wanted, **page)
            names += [url.rsplit("/", 1)[1] for url in answer.get("QueueUrls", ())]
            token = answer.get("NextToken")
            if not token:
                break
        return sorted(self.local_name(name) for name in names if not name.removesuffix(FIFO).endswith((DEAD, LOST)))

    # URLs

    def forget(self, queue: str, url: str) -> bool:
        """Forget a URL that was looked up, unless another is known by now; say whether looking again can help."""
        if self._urls.get(queue) == url:
            self._urls.pop(queue, None)
        return self._known(queue) is None

    def url(self, queue: str) -> str:
        """Return a queue's URL, making the queue where that is allowed.

        Raises `OperationalError` where there is no such queue.
        """
        url = self.find(queue)
        if url is not None:
            return url
        client = self.client(queue)
        if not self._may_create(client):
            variable = "DISPATCHER_QUEUE_URL_" + re.sub(r"[^A-Z0-9]", "_", queue.upper())
            raise OperationalError(
                f"there is no SQS queue {self._wanted(queue)!r} for {queue!r} at {client.meta.endpoint_url}: "
                f"deploy the template, set {variable} to the queue's URL, "
                "or have it made with the option create_missing_queues=True"
            )
        url = self._urls[queue] = self._make(client, queue)
        return url

    def arn(self, queue: str) -> str:
        """Return a queue's ARN, as its URL and its client tell it; raises as `url` does."""
        account, name = self.url(queue).rsplit("/", 2)[1:]
        meta = self.client(queue).meta
        return f"arn:{meta.partition}:sqs:{meta.region_name}:{account}:{name}"

    def find(self, queue: str) -> str | None:
        """Return a queue's URL, or `None` where it does not exist."""
        url = self._urls.get(queue) or self._known(queue)
        if url is None:
            client, name = self.client(queue), self._wanted(queue)
            try:
                url = aws.call(client, "get_queue_url", f"queue {queue}", QueueName=name)["QueueUrl"]
            except aws.ServiceError as error:
                if not is_missing(error):
                    raise
                return None
            self._urls[queue] = url
        return url

    def find_lost(self, queue: str) -> str | None:
        """Return the name of a queue's lost queue, or `None` where there is none that we may know of."""
        lost = self.lost(queue)
        try:
            return lost if self.find(lost) is not None else None
        except aws.ServiceError as error:
            if not is_denied(error):
                raise
            return None

    def _known(self, queue: str) -> str | None:
        """Return a configured URL."""
        url = self._given(queue)
        if url is not None:
            _check_kinds(queue, url)
        return url or self._predefined.get(queue)

    def _wanted(self, queue: str) -> str:
        """Return the SQS name to look up; what belongs to a queue with a configured URL is named after that queue."""
        home = home_queue(queue)
        url = self._known(home) if home != queue else None
        if url is None:
            return self.sqs_name(queue)
        name = url.rsplit("/", 1)[1]
        return self.lost(name) if is_lost(queue) else self.dead(name)

    # Making queues

    def _may_create(self, client: Any) -> bool:
        """Say whether queues may be made: if the option says so, else at an emulator only."""
        return not aws.is_aws(client.meta.endpoint_url) if self._create is None else self._create

    def _make(self, client: Any, queue: str) -> str:
        """Make a queue, its lost queue and its dead-letter queue as the template would."""
        shared: dict[str, str] = {name: self._attributes[name] for name in _ENCRYPTION if name in self._attributes}
        if is_fifo(queue):
            shared |= _FIFO_ATTRIBUTES
        read = {"VisibilityTimeout": str(LAMBDA_VISIBILITY_FACTOR * LAMBDA_MAX_TIMEOUT), **shared}
        # A message that SQS moves keeps the time it was first sent at, so each queue keeps messages longer than the one
        # before it.
        kept = {} if self._retention is None else {"MessageRetentionPeriod": str(self._retention)}
        between = ((self._retention or SQS_DEFAULT_RETENTION) + SQS_MAX_RETENTION) // 2
        if home_queue(queue) == queue:
            own = {**kept, **read, **self._attributes}
            if "RedrivePolicy" not in own:
                own["RedrivePolicy"] = self._policy(client, self._make(client, self.lost(queue)), self._max_receives)
        elif is_lost(queue):
            dead = self._make(client, self.dead(queue))
            policy = self._policy(client, dead, LOST_MAX_RECEIVE_COUNT)
            own = {"MessageRetentionPeriod": str(between), **read, "RedrivePolicy": policy}
        else:
            own = {"MessageRetentionPeriod": str(SQS_MAX_RETENTION), **shared}
        return self._create_queue(client, queue, own)

    @staticmethod
    def _policy(client: Any, url: str, receives: int) -> str:
        """Return a redrive policy to the queue with this URL."""
        answer = aws.call(client, "get_queue_attributes", url, QueueUrl=url, AttributeNames=["QueueArn"])
        return json.dumps({"deadLetterTargetArn": answer["Attributes"]["QueueArn"], "maxReceiveCount": receives})

    def _create_queue(self, client: Any, queue: str, attributes: Mapping[str, str]) -> str:
        name = self._wanted(queue)
        tags = {"tags": self._tags} if self._tags else {}
        try:
            answer = aws.call(client, "create_queue", f"queue {name}", QueueName=name, Attributes=attributes, **tags)
        except aws.ServiceError as error:
            if "QueueNameExists" not in error.code and "QueueAlreadyExists" not in error.code:
                raise
            # Someone made it meanwhile, with other attributes: theirs stand.
            answer = aws.call(client, "get_queue_url", f"queue {name}", QueueName=name)
        url: str = answer["QueueUrl"]
        return url


def own_delay(queue: str) -> float:
    """Return the longest delay that a message to a queue has of its own: none on FIFO, where only the queue has one."""
    return 0.0 if is_fifo(queue) else SQS_MAX_DELAY


def is_fifo(queue: str) -> bool:
    """Say whether a queue is a FIFO queue."""
    return queue.endswith(FIFO)


def is_lost(queue: str) -> bool:
    """Say whether a queue is one that SQS moves messages to which it gives up."""
    return home_queue(queue) != queue and queue.removesuffix(FIFO).endswith(LOST)


def is_denied(error: aws.ServiceError) -> bool:
    """Say whether an error means that we may not do what we asked for."""
    return "AccessDenied" in error.code


def is_missing(error: aws.ServiceError) -> bool:
    """Say whether an error means that the queue does not exist."""
    return error.code.endswith(("NonExistentQueue", "QueueDoesNotExist"))


def _twin(queue: str, suffix: str) -> str:
    return queue.removesuffix(FIFO) + suffix + FIFO if is_fifo(queue) else queue + suffix


def _check_kinds(queue: str, url: str) -> None:
    if is_fifo(queue) != is_fifo(url):
        raise ImproperlyConfigured(
            f"queue {queue!r} and its URL {url!r} must both end in '.fifo', or neither: FIFO queues are named so"
        )
