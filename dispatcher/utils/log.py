"""Loggers for tasks, as `celery.utils.log` has them."""

from __future__ import annotations

import logging

task_logger = logging.getLogger("dispatcher.task")
worker_logger = logging.getLogger("dispatcher.worker")


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module."""
    return logging.getLogger(name)


def get_task_logger(name: str) -> logging.Logger:
    """Return a logger for a module of tasks: its lines carry the name and the id of the task that runs."""
    logger = logging.getLogger(name)
    if logger.parent is logging.root and logger is not task_logger:
        logger.parent = task_logger
    return logger


def writable(line: str) -> str:
    """Return a line as UTF-8 can hold it: half a surrogate pair, which a body may carry, is written as its escape."""
    return line if line.isascii() else line.encode("utf-8", "backslashreplace").decode()
