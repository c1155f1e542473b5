"""Answering invocations: a batch of SQS messages in, a partial batch response out.

Whatever happens, the answer is a partial batch response of ids that the batch has. An exception or a malformed answer
would count as a failure of the whole batch, finished tasks included, and slow the event source mapping down.
https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from dispatcher import aws_bounds
from dispatcher.app import Dispatcher
from dispatcher.clock import SYSTEM, Clock
from dispatcher.lambda_runtime import deadline, events
from dispatcher.lambda_runtime.environment import LambdaEnvironment
from dispatcher.lambda_runtime.handback import hand_back
from dispatcher.lambda_runtime.logs import invocation
from dispatcher.lambda_runtime.transport import Response, response_of

logger = logging.getLogger("dispatcher.worker")

#: The settle margin of an app that cannot be loaded, in seconds: the option's default.
_SETTLE_MARGIN: Final = 2.0


class Worker:
    """Answers the invocations of one function; ``load`` returns its app, or raises."""

    environment: type[LambdaEnvironment] = LambdaEnvironment

    def __init__(self, load: Callable[[], Dispatcher], clock: Clock = SYSTEM) -> None:
        self._load = load
        self._clock = clock
        self._environment: LambdaEnvironment | None = None
        self._guarded = False
        self._cause: BaseException | None = None

    def start(self) -> None:
        """Load the app and get ready for the first batch; what goes wrong is logged, and an invocation tries again."""
        try:
            self._environment = self.environment(self._load())
        except BaseException as error:
            self._environment, self._cause = None, error
            logger.critical("the app cannot be loaded, no task can run: %r", error, exc_info=error)

    def guard(self) -> None:
        """Have batches guarded from now on; call it before the first one. May go on in a forked process."""
        self._guarded = True
        if self._environment is not None:
            self._guard(self._environment, early=True)

    def close(self) -> None:
        """Close the event loop and the app's connections; Lambda never does, whoever runs the worker elsewhere may."""
        environment, self._environment = self._environment, None
        if environment is not None:
            environment.close()

    def __call__(self, event: Any, context: Any) -> Response:
        """Run the tasks of an SQS event."""
        arrived = self._clock.time()
        records: Sequence[events.Record] = ()
        answer: Response | None = None
        try:
            invocation.begin(context)
            records = events.records_of(event)
            if len(records) != _size_of(event):
                _complain(event, records)
            if records:
                answer = self._run(records, context, arrived)
            invocation.end()
        except BaseException as error:  # noqa: BLE001 - see the module's docstring
            _log_internal(error, len(records))
        # What is not known to be done with goes back.
        return answer if answer is not None else response_of([record["messageId"] for record in records])

    def _run(self, records: Sequence[events.Record], context: Any, arrived: float) -> Response | None:
        environment = self._environment or self._start_late()
        margin = _SETTLE_MARGIN if environment is None else environment.settle_margin
        seconds = deadline.remaining(context)
        aws_bounds.bound(deadline.call_bounds(seconds, margin))
        try:
            if environment is None:
                return hand_back(records, arrived, self._cause)
            return environment.run(records, context, arrived, seconds)
        finally:
            aws_bounds.bound({})

    def _start_late(self) -> LambdaEnvironment | None:
        self.start()
        environment = self._environment
        if environment is not None and self._guarded:
            self._guard(environment, early=False)
        return environment

    @staticmethod
    def _guard(environment: LambdaEnvironment, *, early: bool) -> None:
        try:
            environment.guard(early=early)
        except Exception as error:
            logger.critical("nobody guards the batches of this environment: %r", error, exc_info=error)


def _size_of(event: Any) -> int:
    records = event.get("Records") if isinstance(event, dict) else None
    return len(records) if isinstance(records, list) and records else -1


def _complain(event: Any, records: Sequence[events.Record]) -> None:
    """Say that an invocation is not, or not wholly, what an event source mapping of SQS sends."""
    if records:
        logger.error(
            "the event has %d records that are no SQS messages; they are left out", _size_of(event) - len(records)
        )
    else:
        logger.error(
            "the event is no batch of SQS messages, so there is nothing to run: %.500s; this function is for an SQS "
            "event source mapping, a task is sent by task.delay()", _shape_of(event),
        )  # fmt: skip


def _shape_of(event: Any) -> str:
    """Return what an event looks like, without its content."""
    if not isinstance(event, dict):
        return f"it is a {type(event).__name__}"
    records = event.get("Records")
    first = records[0] if isinstance(records, list) and records else None
    inside = f", the first of the Records has {sorted(map(str, first))}" if isinstance(first, dict) else ""
    return f"it has the keys {sorted(map(str, event))}{inside}"


def _log_internal(error: BaseException, size: int) -> None:
    try:
        logger.critical("an internal error; what is not settled of %d messages goes back", size, exc_info=error)
    except BaseException:  # noqa: BLE001, S110 - out of memory, say: the answer matters more than the line
        pass
