"""Log lines of a Lambda function: JSON with the fields of Powertools' Logger, and what task a line belongs to.

Powertools itself would make the package three times as large, and a cold start a twentieth longer, for these few lines.
An app that uses its Logger gets the fields of the task by ``logger.addFilter(TaskFields())``.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Final

from dispatcher.config import Config
from dispatcher.lambda_runtime import bootstrap
from dispatcher.state import current_frame
from dispatcher.utils.log import writable

#: The logger of the line that says how each task ended: one line a task, each of which AWS bills.
OUTCOMES: Final = "dispatcher.task.outcome"

#: What every record of `logging` has; anything else was put there to be logged.
_PLAIN: Final = frozenset(
    {*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName", "aws_request_id", "tenant_id"}
)


class Invocation:
    """The invocation that is under way, for the lines that it logs."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self.service: str | None = None
        self._cold = True

    def begin(self, context: Any) -> None:
        """Note a new invocation; costs next to nothing, since most invocations log nothing."""
        self._context = context
        self.fields = {}

    def all_fields(self) -> dict[str, Any]:
        """Return Powertools' names for what is known of the invocation."""
        if not self.fields:
            context = self.__dict__.get("_context")
            function = bootstrap.function()
            known = {
                "service": self.service,
                "cold_start": self._cold,
                "function_name": function.name,
                "function_memory_size": function.memory_mb,
                "function_arn": getattr(context, "invoked_function_arn", None),
                "function_request_id": getattr(context, "aws_request_id", None),
                "xray_trace_id": bootstrap.trace_id(),
            }
            self.fields = {name: value for name, value in known.items() if value not in (None, "")}
        return self.fields

    def end(self) -> None:
        """Note that the invocation is over: the next one is no cold start."""
        self._cold = False


#: There is one at a time in a Lambda environment.
invocation: Final = Invocation()


class TaskFields(logging.Filter):
    """Puts on a record which task and which invocation it belongs to; it keeps no record back.

    ``task``, ``task_id``, ``root_id``, ``queue`` come from the task that runs where the line is logged. What a record
    has already, from ``extra=``, stays.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields."""
        fields = record.__dict__
        for name, value in invocation.all_fields().items():
            fields.setdefault(name, value)
        frame = current_frame()
        if frame is not None:
            request = frame.request
            fields.setdefault("task", frame.task.name)
            fields.setdefault("task_id", request.id)
            fields.setdefault("root_id", request.root_id)
            fields.setdefault("queue", request.delivery_info.get("queue"))
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with Powertools' names in Powertools' order."""

    def __init__(self, terminator: str = "") -> None:
        super().__init__()
        self._terminator = terminator

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; never raises for what the record carries."""
        line: dict[str, Any] = {
            "level": record.levelname,
            "location": f"{record.funcName}:{record.lineno}",
            "message": record.msg if isinstance(record.msg, dict) and not record.args else record.getMessage(),
            "timestamp": _timestamp(record.created),
            "logger": record.name,
        }
        line.update((name, value) for name, value in record.__dict__.items() if name not in _PLAIN)
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)
            line["exception_name"] = record.exc_info[0].__name__
        if record.stack_info:
            line["stack"] = record.stack_info
        return writable(json.dumps(line, default=str, ensure_ascii=False)) + self._terminator


def _timestamp(created: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(created)) + f",{int(created * 1000) % 1000:03d}+0000"


def set_up(conf: Config) -> None:
    """Have every line of the root logger carry the fields, as JSON unless another format is set.

    The runtime's own JSON format (``LogFormat: JSON``) takes the fields as it is. Levels stay the function's, but for
    the lines that tell each task's outcome, which need ``worker_log_level`` to go below WARNING.
    """
    root = logging.getLogger()
    own_level = conf.source_of("worker_log_level") != "default"
    logging.getLogger(OUTCOMES).setLevel(conf.worker_log_level if own_level else logging.WARNING)
    if not conf.worker_hijack_root_logger:
        return
    if own_level:
        root.setLevel(conf.worker_log_level)
    if not root.handlers:
        root.addHandler(logging.StreamHandler(sys.stdout))
    for handler in root.handlers:
        if not any(isinstance(each, TaskFields) for each in handler.filters):
            handler.addFilter(TaskFields())
        _set_format(handler, conf)


def _set_format(handler: logging.Handler, conf: Config) -> None:
    # The runtime's handlers end no line; that is left to the formatter.
    terminator = "\n" if type(handler).__name__.startswith("LambdaLoggerHandler") else ""
    if conf.source_of("worker_log_format") == "default" or conf.worker_log_format == "json":
        if type(handler.formatter).__name__ != "JsonFormatter":
            handler.setFormatter(JsonFormatter(terminator))
    elif conf.worker_log_format != "human":
        handler.setFormatter(logging.Formatter(conf.worker_log_format + terminator))
