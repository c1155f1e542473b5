"""The error tree.

::

    DispatcherError (also spelled CeleryError)
    ├── ImproperlyConfigured          a setting, option or URL that cannot work
    ├── SecurityError                 a signature or content type that must not be trusted
    ├── OperationalError              the broker or backend could not be reached
    │   └── SendError                 some messages of a batch were not accepted
    ├── SerializationError
    │   ├── EncodeError               a value that cannot be put on the wire
    │   └── DecodeError               bytes that are no message or no value
    │       ├── ContentDisallowed     a serializer outside ``accept_content``
    │       └── PayloadMissing        a large argument or result that is no longer in the payload store
    ├── MessageTooLarge               over the transport's limit, and no payload store takes it
    ├── BackendError
    │   ├── BackendGetMetaError
    │   └── BackendStoreError
    ├── TaskPredicate                 outcomes, not errors: how a task says what became of it
    │   ├── Retry
    │   ├── Ignore
    │   └── Reject
    └── TaskError
        ├── QueueNotFound, IncompleteStream, NotRegistered, AlreadyRegistered, InvalidTaskError
        ├── TimeoutError, MaxRetriesExceededError, TaskRevokedError, ChordError
        └── UnsupportedOption         an option that cannot work here
    TimeLimitExceeded, WorkerLostError, Terminated        what ended a run from outside (Exception)
    SoftTimeLimitExceeded                                 raised inside a run (BaseException)

Names and meanings are Celery's. One base differs: `SoftTimeLimitExceeded` derives from `BaseException`, because boto3
wraps or swallows an `Exception` raised inside a call; ``autoretry_for=(Exception,)`` matches it all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: What the user's code may raise where that ends nothing but what it was asked for. KeyboardInterrupt, and what a cold
#: shutdown raises, come from outside.
USER_ERRORS = (Exception, SystemExit, GeneratorExit)


class DispatcherError(Exception):
    """Base of every error this package raises, except the time limits."""


CeleryError = DispatcherError


class ImproperlyConfigured(DispatcherError):
    """A setting, option or URL cannot work; the message names it, the reason and the remedy."""


class SecurityError(DispatcherError):
    """A message or result must not be trusted."""


class UnsignedMessage(SecurityError):
    """A message has no signature, where messages are signed."""


class OperationalError(DispatcherError):
    """The broker or the backend could not be reached or refused the call."""


class SendError(OperationalError):
    """Some messages of a batch were not accepted; ``failures`` maps each message's id to the reason."""

    def __init__(self, message: str, failures: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.failures = dict(failures or {})


class SerializationError(DispatcherError):
    """A value or body could not be converted."""


class EncodeError(SerializationError):
    """A value cannot be put on the wire; the message names its path and type."""


class DecodeError(SerializationError):
    """Bytes are not a message or value of the named format."""


class ContentDisallowed(DecodeError):
    """The body uses a serializer that ``accept_content`` does not list."""


class PayloadMissing(DecodeError):
    """Arguments or a result were kept in the payload store and are gone from it."""


class MessageTooLarge(DispatcherError):
    """A body or result is over the transport's limit and cannot go to a payload store."""


class BackendError(DispatcherError):
    """The result backend failed."""


class BackendGetMetaError(BackendError):
    """A result could not be read."""

    def __init__(self, *args: Any, task_id: str | None = None) -> None:
        super().__init__(*args)
        self.task_id = task_id


class BackendStoreError(BackendError):
    """A result could not be written."""

    def __init__(self, *args: Any, state: str | None = None, task_id: str | None = None) -> None:
        super().__init__(*args)
        self.state = state
        self.task_id = task_id


class TaskPredicate(DispatcherError):
    """Base of the outcomes a task may raise."""


class Retry(TaskPredicate):
    """The task is to be run again; raised by `Task.retry`.

    ``when`` is the delay in seconds or the `datetime.datetime` of the next run, ``exc`` the error behind it.
    """

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | str | None = None,
        when: Any = None,
        is_eager: bool = False,
        sig: Any = None,
    ) -> None:
        super().__init__(message, exc, when)
        self.message = message
        self.exc = exc if isinstance(exc, BaseException) else None
        self.excs = repr(exc) if isinstance(exc, BaseException) else exc
        self.when = when
        self.is_eager = is_eager
        self.sig = sig

    def humanize(self) -> str:
        """Say when the next run is, for people."""
        if isinstance(self.when, int | float):
            return f"in {self.when:g}s"
        return f"at {self.when}"

    def __str__(self) -> str:
        if self.message:
            return self.message
        if self.excs:
            return f"Retry {self.humanize()}: {self.excs}"
        return f"Retry {self.humanize()}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.exc or self.excs, self.when)


class Ignore(TaskPredicate):
    """The task took care of its own state; nothing is stored and nothing follows."""


class Replaced(Ignore):
    """Another task runs in place of this one, under its id; in eager mode it ran already, and this is its ``value``."""

    def __init__(self, reason: str, value: Any = None) -> None:
        super().__init__(reason)
        self.value = value


class Reject(TaskPredicate):
    """The message is not for this worker: dead-letter it, or hand it back with ``requeue=True``."""

    def __init__(self, reason: Any = None, requeue: bool = False) -> None:
        super().__init__(reason, requeue)
        self.reason = reason
        self.requeue = requeue

    def __repr__(self) -> str:
        return f"reject requeue={self.requeue}: {self.reason}"


class TaskError(DispatcherError):
    """Base of the errors about tasks."""


class QueueNotFound(KeyError, TaskError):
    """A route names a queue that is not declared while ``task_create_missing_queues`` is off."""

    def __str__(self) -> str:
        return Exception.__str__(self)


class IncompleteStream(TaskError):
    """A stream of results ended before it was complete."""


class NotRegistered(KeyError, TaskError):
    """No task of this name is known to the app."""

    def __str__(self) -> str:
        return Exception.__str__(self)


class AlreadyRegistered(TaskError):
    """A task of this name exists already."""


class InvalidTaskError(TaskError):
    """A message carries arguments or options the task cannot take."""


class TimeoutError(TaskError):
    """A wait ended before the result was there."""


class MaxRetriesExceededError(TaskError):
    """The task has no retries left."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.task_args: Sequence[Any] = kwargs.pop("task_args", ())
        self.task_kwargs: Mapping[str, Any] = kwargs.pop("task_kwargs", {})
        super().__init__(*args, **kwargs)


class TaskRevokedError(TaskError):
    """The task was revoked or expired before it ran."""


class ChordError(TaskError):
    """A member of a chord's header failed."""

    @classmethod
    def of(cls, member_id: str, error: BaseException) -> ChordError:
        """Return the error of what waits for a group whose member failed with ``error``: that very one if it is one."""
        if isinstance(error, ChordError):
            return error
        raised = cls(f"Dependency {member_id} raised {error!r:.500}")
        raised.__cause__ = error
        return raised


class UnsupportedOption(TaskError, TypeError):
    """An option is known but cannot work here; the message names the reason and the alternative."""


class TimeLimitExceeded(Exception):
    """The hard time limit ended the run; the argument is the limit in seconds."""

    def __str__(self) -> str:
        return f"TimeLimitExceeded{self.args!r}"


class WorkerLostError(Exception):
    """The process that ran the task died."""


class Terminated(Exception):
    """The run was stopped at a user's request."""


class SoftTimeLimitExceeded(BaseException):
    """Raised inside a task when its soft time limit is reached, so that it can clean up."""

    def __str__(self) -> str:
        return f"SoftTimeLimitExceeded{self.args!r}"


class DispatcherWarning(UserWarning):
    """Base of this package's warnings."""


class AlwaysEagerIgnored(DispatcherWarning):
    """`send_task` was called with ``task_always_eager`` on, which it does not honour."""


class NotConfigured(DispatcherWarning):
    """No configuration was found."""


class SecurityWarning(DispatcherWarning):
    """Something works but is not safe."""


class CompatibilityWarning(DispatcherWarning):
    """A Celery option or setting means something else here, or nothing."""


class FixupWarning(DispatcherWarning):
    """An integration could not be set up fully."""


class DuplicateNodenameWarning(DispatcherWarning):
    """Several workers use the same name."""
