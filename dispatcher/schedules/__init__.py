"""Schedules: when a periodic task is due, as values; under Celery's names, arguments and meaning.

Two rules hold where the clock of a zone is changed, those that EventBridge Scheduler documents
(https://docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html): a time that the clock skips does not run
that day, and one that it shows twice runs the first time only. docs/schedules.md has examples.
"""

from dispatcher.schedules.base import BaseSchedule, schedstate
from dispatcher.schedules.cron import crontab
from dispatcher.schedules.fields import ParseException, crontab_parser
from dispatcher.schedules.interval import schedule
from dispatcher.schedules.stored import from_dict, maybe_schedule, to_dict
from dispatcher.schedules.sun import solar

__all__ = [
    "BaseSchedule",
    "ParseException",
    "crontab",
    "crontab_parser",
    "from_dict",
    "maybe_schedule",
    "schedstate",
    "schedule",
    "solar",
    "to_dict",
]
