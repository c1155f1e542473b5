"""Logging of a local worker: for people, or one JSON object a line; lines of a task carry its name and id."""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
import time
import traceback
from datetime import UTC, datetime
from typing import IO, Any

from dispatcher import signals
from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.state import current_frame
from dispatcher.utils.log import task_logger, writable

#: The logger of the executor's line on how each run ended, which names the task itself.
OUTCOMES = "dispatcher.task.outcome"
#: The colours of messages, by level.
_COLOURS = {
    logging.DEBUG: "\x1b[34m",
    logging.WARNING: "\x1b[33m",
    logging.ERROR: "\x1b[31m",
    logging.CRITICAL: "\x1b[35m",
}
_RESET = "\x1b[0m"
#: Attributes every record has; whatever else is on one came by ``extra=``.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "task_name", "task_id"}


def set_up(
    conf: Any,
    *,
    level: str | int | None = None,
    logfile: str | None = None,
    log_format: str | None = None,
    colour: bool | None = None,
) -> None:
    """Set up the root logger of a worker; what is `None` comes from the configuration.

    A receiver of the signal ``setup_logging`` takes all of it over. ``after_setup_logger`` and
    ``after_setup_task_logger`` are sent afterwards, for additions. With ``worker_hijack_root_logger`` off, a root
    logger that has handlers is left alone. Raises `OSError` for a file that cannot be written.
    """
    chosen = conf.worker_log_level if level is None else level
    number: int = logging.getLevelNamesMapping()[chosen] if isinstance(chosen, str) else chosen
    shape: str = log_format or conf.worker_log_format
    colour = conf.worker_log_color if colour is None else colour
    fields = {"loglevel": number, "logfile": logfile, "format": shape, "colorize": colour}
    logging.captureWarnings(True)
    if signals.setup_logging.send(None, **fields):
        return
    root = logging.getLogger()
    if conf.worker_hijack_root_logger:
        for handler in list(root.handlers):
            root.removeHandler(handler)
    if not root.handlers:
        root.addHandler(_handler(logfile, shape, colour))
        root.setLevel(number)
    for logger in (logging.getLogger("dispatcher"), task_logger):
        logger.setLevel(number)
    signals.after_setup_logger.send(None, logger=root, **fields)
    signals.after_setup_task_logger.send(None, logger=task_logger, **fields)


def _handler(logfile: str | None, shape: str, colour: bool | None) -> logging.Handler:
    # A WatchedFileHandler opens the file anew when logrotate has moved it.
    handler: logging.Handler = logging.StreamHandler()
    if logfile:
        try:
            handler = logging.handlers.WatchedFileHandler(logfile)
        except OSError as error:
            raise ImproperlyConfigured(
                f"worker_log_file (--logfile) cannot be {logfile!r}: {error.strerror}"
            ) from error
    painted = colour if colour is not None else not logfile and _is_terminal(sys.stderr)
    handler.setFormatter(formatter(shape, painted))
    return handler


def _is_terminal(stream: IO[str]) -> bool:
    return hasattr(stream, "isatty") and stream.isatty()


def formatter(shape: str, colour: bool = False) -> logging.Formatter:
    """Return the formatter for ``"human"``, ``"json"`` or a format string, which may use task_name and task_id."""
    if shape == "json":
        return JsonFormatter()
    if shape == "human":
        return HumanFormatter(colour)
    return _TaskFormatter(shape)


class HumanFormatter(logging.Formatter):
    """Time, level and process, then the message; before it, inside a task, the task's name and id."""

    def __init__(self, colour: bool = False) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with a traceback below it where there is one."""
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        text = super().format(record)  # the message and the traceback
        frame = current_frame()
        if frame is not None and record.name != OUTCOMES and frame.request.id:
            text = f"{frame.task.name}[{frame.request.id}]: {text}"
        paint = _COLOURS.get(record.levelno) if self._colour else None
        if paint is not None:
            text = f"{paint}{text}{_RESET}"
        return f"[{moment},{int(record.msecs):03d}: {record.levelname}/{_place(record)}] {text}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line, ``extra=`` fields included; names as Powertools' Logger has them.

    ``timestamp`` (ISO 8601, UTC), ``level``, ``logger``, ``message``, ``process``; inside a task ``task``, ``task_id``,
    ``root_id``, ``queue`` and ``retries``; with an exception ``exception``, its traceback, and ``exception_name``. The
    line on how a run ended has ``outcome`` and ``duration`` (seconds).
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the object; values that JSON lacks are shown as their ``repr``."""
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "timestamp": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        frame = current_frame()
        if frame is not None and frame.request.id:
            request = frame.request
            line.update(
                task=frame.task.name, task_id=request.id, root_id=request.root_id or request.id,
                queue=(request.delivery_info or {}).get("routing_key"), retries=request.retries,
            )  # fmt: skip
        line.update({name: value for name, value in vars(record).items() if name not in _STANDARD})
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = "".join(traceback.format_exception(*record.exc_info))
            line["exception_name"] = record.exc_info[0].__name__
        return writable(json.dumps(line, default=repr, ensure_ascii=False))


class _TaskFormatter(logging.Formatter):
    """A format string of the user's, which may use ``%(task_name)s`` and ``%(task_id)s`` as in Celery."""

    def format(self, record: logging.LogRecord) -> str:
        frame = current_frame()
        record.task_name = frame.task.name if frame is not None else "???"
        record.task_id = frame.request.id if frame is not None else "???"
        return super().format(record)


def _place(record: logging.LogRecord) -> str:
    thread = record.threadName
    if thread in (None, "MainThread"):
        return str(record.processName)
    return f"{record.processName}/{thread}"
