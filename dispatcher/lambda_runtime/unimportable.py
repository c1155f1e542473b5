"""The end of a broken deploy's grace: messages whose app cannot be imported fail with the cause, and are kept.

There is no app here, so everything comes from the environment: the result backend, the queues' URLs, signing keys.
What cannot be done by these alone is not done, and the message goes back.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Final

from dispatcher import connections, states
from dispatcher.app.wire import Wire
from dispatcher.backends.base import ResultBackend, TaskRecord, Write
from dispatcher.backends.meta import ResultMeta
from dispatcher.brokers.base import Delivery, Settlement
from dispatcher.brokers.sqs import SQSBroker
from dispatcher.brokers.sqs_queues import Queues
from dispatcher.clock import SYSTEM
from dispatcher.config import Config, app_name, queue_urls
from dispatcher.exceptions import DecodeError, DispatcherError, SecurityError
from dispatcher.execution.run import format_traceback
from dispatcher.execution.workflow import follows
from dispatcher.lambda_runtime import bootstrap, events
from dispatcher.lambda_runtime.sources import Sources
from dispatcher.message import Message, decode
from dispatcher.security import Signer, home_queue

logger = logging.getLogger("dispatcher.worker")

#: Since when the app cannot be imported is kept in a record of this id and the function's name.
_OUTAGE: Final = "dispatcher/unimportable/"
#: That record's status.
_STATUS: Final = "UNIMPORTABLE"


class Undertaker:
    """Fails the messages of a batch whose grace is over; ``forgotten_after`` are the seconds an outage is remembered.

    The outage counts, not the age of a message alone: one that waited for days behind others has its grace too.
    """

    def __init__(self, cause: BaseException | None, now: float, forgotten_after: float) -> None:
        """Raises `DispatcherError` where the environment is not enough to fail anything."""
        self._now = now
        self._kept = forgotten_after
        self._conf = conf = Config()
        self._cause = cause
        reason = repr(cause) if cause is not None else "no cause is known"
        self._error = ImportError(f"the app {app_name() or '?'} cannot be imported: {reason}")
        self._wire = Wire(conf, SYSTEM)
        self._signer = Signer(conf.signing_keys, max_age=conf.signing_max_age) if conf.signing_keys else None
        self._broker = SQSBroker("sqs://", {"queue_urls": conf.queue_url_for, "create_missing_queues": False})

    def bury(self, records: Sequence[events.Record], rested: Sequence[float]) -> set[str]:
        """Return the message ids that are done with; ``rested`` is how long each message has been handed back for."""
        conf = self._conf
        if not (conf.result_backend or conf.broker_url):
            logger.error("no task can be failed: DISPATCHER_RESULT_BACKEND does not say where its record is")
            return set()
        backend = connections.backend_of(conf, None)
        try:
            outage = self._now - self._since(backend)
            homes = [*queue_urls(), conf.task_default_queue]
            names = [*homes, *map(Queues.lost, homes)]  # in this order: the last that has a URL names it
            sources = Sources(names, conf.queue_url_for, queue_urls(), self._broker.local_name)
            deliveries = [
                delivery
                for delivery, rest in zip(
                    events.deliveries_of(records, sources.queue_of, self._now), rested, strict=True
                )
                if min(outage, self._now - (delivery.sent_at or self._now), rest) >= conf.import_grace
            ]
            return self._fail(backend, deliveries) if deliveries else set()
        finally:
            backend.close()

    def _since(self, backend: ResultBackend) -> float:
        """Return since when the app cannot be imported, and remember that it still cannot."""
        task_id = _OUTAGE + bootstrap.function().name
        known = backend.read([task_id]).get(task_id)
        since = known.started_at if known is not None and known.started_at is not None else self._now
        backend.write([
            Write(task_id, _STATUS, 0, 0, 0, final=False, token="", expires_at=self._now + self._kept, started_at=since)
        ])  # fmt: skip
        return since

    def _fail(self, backend: ResultBackend, deliveries: Sequence[Delivery]) -> set[str]:
        readable = [(delivery, message) for delivery in deliveries if (message := self._read(delivery)) is not None]
        found = backend.read([message.id for _, message in readable])
        due = [
            (delivery, message, self._write(message, found.get(message.id)))
            for delivery, message in readable
            if self._is_due(message, found.get(message.id))
        ]
        stood = backend.write([write for _, _, write in due])
        failed = [
            (delivery, message) for (delivery, message, _), loser in zip(due, stood, strict=True) if loser is None
        ]
        if failed:
            logger.error("%d tasks failed, since %s", len(failed), self._error)
        # What follows from a failure takes the app: such a message rests on, and finds its outcome when there is one.
        alone = [(delivery, message) for delivery, message in failed if not (message.link_error or follows(message))]
        if not alone:
            return set()
        buried, problem = self._broker.bury([self._settlement(delivery, message) for delivery, message in alone])
        if problem is not None:
            logger.error("%d messages cannot be moved to the dead letters: %s", len(alone) - len(buried), problem)
        return {delivery.message_id for delivery in buried}

    def _read(self, delivery: Delivery) -> Message | None:
        """Return a message whose sender can be told; its arguments stay as they are."""
        try:
            if self._signer is not None:
                self._signer.verify(delivery.body, delivery.queue, self._now)
            elif '"sig":"' in str(delivery.body)[-200:]:
                logger.error("a signed message goes back: DISPATCHER_SIGNING_KEYS must be set to fail its task")
                return None
            return decode(delivery.body, self._conf.max_message_bytes)
        except (DecodeError, SecurityError) as error:
            why = "only the app knows which task a firing of its beat starts" if '"beat"' in delivery.body else error
            logger.error("message %s goes back: %s", delivery.message_id, why)
            return None

    def _is_due(self, message: Message, record: TaskRecord | None) -> bool:
        """Say whether a task would run now if there were an app."""
        if message.eta is not None and message.eta > self._now:
            return False
        if record is None or record.gen < message.gen:
            return True
        waits = record.not_before is not None and record.not_before > self._now
        return record.gen == message.gen and not (record.final or record.revoked or waits)

    def _write(self, message: Message, record: TaskRecord | None) -> Write:
        conf = self._conf
        retries = record.retries if record is not None and record.gen == message.gen else message.retries
        meta = ResultMeta(
            error=self._error, date_done=round(self._now, 3), parent_id=message.parent_id, root_id=message.root_id,
            group_id=message.group, traceback=format_traceback(self._cause) if self._cause is not None else None,
        )  # fmt: skip
        if conf.result_expires:
            meta.visible_until = round(self._now + conf.result_expires, 3)
        return Write(
            message.id, states.FAILURE, message.gen, retries, retries, final=True, token=os.urandom(16).hex(),
            expires_at=self._now + max(conf.result_expires or 0.0, conf.record_retention), data=meta.encode(),
            exists=record is not None,
        )  # fmt: skip

    def _settlement(self, delivery: Delivery, message: Message) -> Settlement:
        """Return the dead letter: of the next generation, so that it runs when it is brought back after the repair."""
        reason = {
            "reason": "unimportable", "task": message.task, "task_id": message.id, "retries": str(message.retries),
            "exception": f"ImportError: {self._error}"[:1000],
        }  # fmt: skip
        following = message.replace(gen=message.gen + 1, retries=0, eta=None, expires=None)
        body = self._wire.sealed_body(following, home_queue(delivery.queue))
        return Settlement(delivery, "dead", reason=reason, body=body)


def bury(
    records: Sequence[events.Record], cause: BaseException | None, now: float, rested: Sequence[float], longest: float
) -> set[str]:
    """Fail the tasks of a batch whose grace is over; return the ids of the messages that are done with.

    ``longest`` is the longest that a message rests: an outage is over when nothing came for twice as long.
    """
    try:
        return Undertaker(cause, now, 2 * longest).bury(records, rested)
    except DispatcherError as error:
        logger.error("no task can be failed, all messages go back: %s", error)
        return set()
