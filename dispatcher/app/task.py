"""`Task` and `Context` under the name that ``from celery.app.task import Task`` becomes."""

from dispatcher.request import Context
from dispatcher.task import Task

__all__ = ["Context", "Task"]
