"""Claims: which calls of unique tasks are sent, and which are answered with the task that stands for them.

A call claims its key, is sent, and confirms that it was sent. A producer that dies in between blocks nobody: whoever
finds a claim whose message is not known to be on its queue sends it again under the same task id, and one task's
messages collapse into one run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from dispatcher.backends import locks
from dispatcher.backends.base import ResultBackend
from dispatcher.backends.locks import Lock
from dispatcher.clock import Clock
from dispatcher.exceptions import BackendError, ImproperlyConfigured, OperationalError, SendError
from dispatcher.message import Message
from dispatcher.packing import Call
from dispatcher.sending import Sender
from dispatcher.sensitive import Secrets
from dispatcher.unique import Scope, Uniqueness

logger = logging.getLogger("dispatcher.producer")

#: How long a call waits for another producer to confirm what it has just claimed, in seconds; then it sends it itself.
_PATIENCE: Final = 1.0
_FIRST_PAUSE: Final = 0.005


class _Claim(NamedTuple):
    """What became of a call's attempt to claim its key: the lock as it stands, and whether the call made it so."""

    lock: Lock
    made: bool


class Claims:
    """Sends new calls, and of unique tasks those that no other task stands for; ``tasks`` are those of the app."""

    def __init__(
        self, sender: Sender, backend: Callable[[], ResultBackend], clock: Clock, tasks: Mapping[str, Any]
    ) -> None:
        self._sender = sender
        self._connect = backend
        self._clock = clock
        self._tasks = tasks

    def send(
        self, calls: Sequence[Call], retry: bool | None = None, policy: Mapping[str, Any] | None = None
    ) -> list[Call]:
        """Send calls; return them as they are answered: duplicates with the id of the task that stands for them.

        Raises what `Sender.send` does, `ImproperlyConfigured` where the key of a call cannot be told, and
        `OperationalError` where the result backend cannot be asked; then nothing is sent.
        """
        rules = {task: self._rule_of(task) for task in {call.message.task for call in calls}}
        if not any(rules.values()):
            if calls:
                self._sender.send(calls, retry, policy)
            return list(calls)
        answers, chosen = [], []
        claimed: dict[str, _Claim] = {}
        try:
            for call in calls:
                rule = rules[call.message.task]
                answer, send = (call, True) if rule is None else self._decide(call, rule, claimed)
                answers.append(answer)
                if send:
                    chosen.append(answer)
            if chosen:
                self._sender.send(chosen, retry, policy)
        except Exception as error:
            self._settle(claimed, error)
            raise
        self._settle(claimed, None)
        return answers

    def with_keys(self, calls: Sequence[Call], *, strict: bool) -> list[Call]:
        """Return calls whose own outcome others wait for, to be sent whether or not another task stands for their key.

        Those of unique tasks run one after the other. Where the key of a call cannot be told, ``strict`` raises
        `ImproperlyConfigured`; else the call is sent for its worker to fail, so that whoever waits for it is told.
        """
        return [self._with_key_if_known(call, strict) for call in calls]

    def release(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Let the next call of a unique task be sent, whatever became of the one that stands for it.

        Returns whether there was one. Raises `ImproperlyConfigured` for a task that is not unique.
        """
        if task._uniqueness is None:
            raise ImproperlyConfigured(f"task {task.name} is not unique: it has no lock to release")
        lock = locks.read(self._backend, task._uniqueness.key_of(args, kwargs))
        while lock.is_claimed(now := self._clock.time()):
            stood = locks.swap(self._backend, lock, lock.without_claim(now), now)
            if stood is None:
                return True
            lock = stood
        return False

    @property
    def _backend(self) -> ResultBackend:
        return self._connect()

    def _decide(self, call: Call, rule: Uniqueness, claimed: dict[str, _Claim]) -> tuple[Call, bool]:
        """Return a call of a unique task as it is answered, and whether it is to be sent; note its claim."""
        call = self._with_key(call, rule)
        key = call.message.unique
        if key is None or rule.scope is Scope.RUNNING:
            return call, True
        if key in claimed:
            return _duplicate(call, claimed[key].lock.owner), False
        try:
            claim = self._claim(call, key, rule)
        except (OperationalError, BackendError) as error:
            raise OperationalError(
                f"task {call.message.task} was not sent: it is unique, and {self._backend.describe()} cannot be asked "
                f"whether it was called already: {error}"
            ) from error
        if claim.lock.sent:
            return _duplicate(call, claim.lock.owner), False
        claimed[key] = claim
        return call if claim.made else _duplicate(call, claim.lock.owner), True

    def _rule_of(self, task: str) -> Uniqueness | None:
        return getattr(self._tasks.get(task), "_uniqueness", None)

    @staticmethod
    def _with_key(call: Call, rule: Uniqueness) -> Call:
        return call._replace(message=call.message.replace(unique=_key(rule, call.message)))

    def _with_key_if_known(self, call: Call, strict: bool) -> Call:
        rule = self._rule_of(call.message.task)
        if rule is None or call.message.header is not None:  # the worker will know the results of a header
            return call
        try:
            return self._with_key(call, rule)
        except ImproperlyConfigured:
            if strict:
                raise
            return call

    def _claim(self, call: Call, key: str, rule: Uniqueness) -> _Claim:
        """Claim a key for a call, unless another task has it."""
        message = call.message
        lock, pause, waited = Lock(key), _FIRST_PAUSE, 0.0  # the guess that nobody ever called costs no read
        while True:
            now = self._clock.time()
            if lock.version and lock.is_claimed(now) and not self._is_stale(lock, rule):
                if lock.sent or lock.owner == message.id or waited >= _PATIENCE:
                    return _Claim(lock, made=False)
                self._clock.sleep(pause)
                waited, pause = waited + pause, 2 * pause
                lock = locks.read(self._backend, key)
                continue
            claim = lock.with_claim(message.id, rule.claim_ends(message, now), now)
            stood = locks.swap(self._backend, lock, claim, now)
            if stood is None:
                return _Claim(claim, made=True)
            lock = stood

    def _is_stale(self, lock: Lock, rule: Uniqueness) -> bool:
        """Say whether the task that stands for a key is through with it, or will never run."""
        record = self._backend.read([lock.owner]).get(lock.owner)
        if record is None:
            return False
        if record.final:
            return not rule.outlasts(record.status)
        return bool(record.revoked)

    def _settle(self, claimed: Mapping[str, _Claim], error: Exception | None) -> None:
        """Confirm the claims whose messages were sent; give up those whose were not."""
        for lock, made in claimed.values():
            sent = error is None or (isinstance(error, SendError) and lock.owner not in error.failures)
            if not sent and not made:
                continue  # whoever made it may be sending just now
            try:
                self._note(lock, sent)
            except (OperationalError, BackendError) as trouble:
                # Whoever calls next sends the message once more, under this id; it runs once all the same.
                what = "confirmed" if sent else "given up"
                logger.warning("the claim of %s cannot be %s: %s", lock.owner, what, trouble)

    def _note(self, lock: Lock, sent: bool) -> None:
        owner = lock.owner
        while lock.owner == owner and not lock.sent:  # somebody else may have sent it, or it has run by now
            now = self._clock.time()
            after = lock.changed(now, sent=True) if sent else lock.without_claim(now)
            stood = locks.swap(self._backend, lock, after, now)
            if stood is None:
                return
            lock = stood


def _key(rule: Uniqueness, message: Message) -> str:
    try:
        return rule.key_of(message.args, message.kwargs)
    except ImproperlyConfigured as error:
        if message.sensitive is None:
            raise
        secrets = Secrets.of(message.args, message.kwargs, message.sensitive)
        raise ImproperlyConfigured(secrets.mask(str(error))) from None


def _duplicate(call: Call, owner: str) -> Call:
    return call._replace(message=call.message.replace(id=owner), duplicate=owner != call.message.id)
