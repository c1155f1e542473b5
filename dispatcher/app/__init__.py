"""The app: `Dispatcher` in `base`; the other modules have Celery's names for imports such as ``celery.app.task``."""

from dispatcher.app.base import Dispatcher
from dispatcher.shared import shared_task
from dispatcher.state import current_app, current_task

__all__ = ["Dispatcher", "current_app", "current_task", "shared_task"]
