"""Where MiniStack's EventBridge differs from the service in ways that periodic tasks notice, corrected in place.

https://docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html
"""

from __future__ import annotations

import datetime
import json
import time
import zoneinfo
from collections.abc import Mapping
from typing import Any, Final

#: Seconds between looks at what is due; MiniStack takes 10.
TICK_SECONDS: Final = 0.5

Schedule = dict[str, Any]


class ScheduleCorrections:
    """Schedules fire promptly, in their own time zone, once for each time that is due, and say which it was."""

    def __init__(self, eventbridge: Any, scheduler: Any) -> None:
        self.eventbridge = eventbridge
        self.scheduler = scheduler
        #: The time up to which each schedule has been looked at, or `None` once it is over.
        self._seen: dict[Any, float | None] = {}

    def install(self) -> None:
        """Replace MiniStack's functions by the corrected ones."""
        self.eventbridge._SCHEDULER_TICK_INTERVAL = TICK_SECONDS
        self.scheduler._SCHEDULE_TICK_INTERVAL = TICK_SECONDS
        self.scheduler._tick_schedules = self.tick

    def tick(self) -> None:
        """Fire what has become due."""
        now = time.time()
        for key, schedule in list(self.scheduler._schedules._data.items()):
            # Another expression under the same name, or the same one made anew, is another schedule.
            identity = (key, schedule["CreationDate"], schedule["LastModificationDate"])
            if identity not in self._seen:
                self._forget(key)
                self._seen[identity] = self._begin(schedule, now)
            due = self._due(schedule, identity, now)
            if due is None or schedule.get("State") != "ENABLED":
                continue
            self._fire(key, schedule, due)
            if self._seen[identity] is None and schedule.get("ActionAfterCompletion") == "DELETE":
                self.scheduler._schedules._data.pop(key, None)

    def _begin(self, schedule: Schedule, now: float) -> float:
        """A one-time schedule in the past is due at once; a recurring one waits for its next time."""
        return 0.0 if schedule["ScheduleExpression"].startswith("at(") else now

    def _forget(self, key: Any) -> None:
        for identity in [each for each in self._seen if each[0] == key]:
            del self._seen[identity]

    def _due(self, schedule: Schedule, identity: Any, now: float) -> float | None:
        """The time that is due now, if one is; it is noted as seen."""
        seen = self._seen[identity]
        moment = None if seen is None else self._next(schedule, seen)
        if moment is None or moment > now:
            return None
        start, end = (self.scheduler._to_epoch(schedule.get(name)) for name in ("StartDate", "EndDate"))
        once = schedule["ScheduleExpression"].startswith("at(")
        self._seen[identity] = None if once or (end is not None and moment > end) else self._last(schedule, moment, now)
        outside = (start is not None and moment < start) or (end is not None and moment > end)
        return None if outside and not once else moment

    def _next(self, schedule: Schedule, after: float) -> float | None:
        expression = schedule["ScheduleExpression"].strip()
        zone = zoneinfo.ZoneInfo(schedule.get("ScheduleExpressionTimezone") or "UTC")
        if expression.startswith("at("):
            return datetime.datetime.fromisoformat(expression[3:-1]).replace(tzinfo=zone).timestamp()
        interval = self.eventbridge._parse_rate_seconds(expression)
        if interval is not None:
            return after + float(interval)
        fields = self.eventbridge._parse_cron_fields(expression)
        if fields is None:
            return None
        found = self.eventbridge._cron_next_fire(fields, datetime.datetime.fromtimestamp(after, tz=zone))
        return None if found is None else float(found.timestamp())

    def _last(self, schedule: Schedule, moment: float, now: float) -> float:
        """The last time on the schedule's grid: what a sleeping machine missed is not made up for, call by call."""
        interval = self.eventbridge._parse_rate_seconds(schedule["ScheduleExpression"])
        return now if interval is None else moment + (now - moment) // interval * interval

    def _fire(self, key: Any, schedule: Schedule, due: float) -> None:
        account, region, _ = key
        scheduler = self.scheduler
        previous = scheduler.get_account_id(), scheduler.get_region()
        scheduler.set_request_account_id(account)
        scheduler.set_request_region(region)
        event = {
            "EventId": scheduler.new_uuid(),
            "Source": "aws.scheduler",
            "DetailType": "Scheduled Event",
            "Detail": "{}",
            "Time": due,
            "Resources": [schedule["Arn"]],
            "Account": account,
            "Region": region,
        }
        try:
            self.eventbridge._invoke_target(_as_queue(_filled_in(schedule, due), account, region), event, schedule)
        except Exception:
            scheduler.logger.exception("the schedule %s could not be fired", schedule["Name"])
        finally:
            scheduler.set_request_account_id(previous[0])
            scheduler.set_request_region(previous[1])


def _filled_in(schedule: Schedule, due: float) -> Mapping[str, Any]:
    """The target, its input with the attributes that the service fills in.

    https://docs.aws.amazon.com/scheduler/latest/UserGuide/managing-schedule-context-attributes.html
    """
    moment = datetime.datetime.fromtimestamp(due, tz=datetime.UTC)
    attributes = {
        "aws.scheduler.schedule-arn": schedule["Arn"],
        "aws.scheduler.scheduled-time": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "aws.scheduler.execution-id": f"{int(due)}",
        "aws.scheduler.attempt-number": "1",
    }
    target = dict(schedule["Target"])
    for name, value in attributes.items():
        if "Input" in target:
            target["Input"] = target["Input"].replace(f"<{name}>", value)
    return target


def _as_queue(target: Mapping[str, Any], account: str, region: str) -> Mapping[str, Any]:
    """The target as a queue, where it is the call of SendMessage, which MiniStack does not know as a target.

    https://docs.aws.amazon.com/scheduler/latest/UserGuide/managing-targets-universal.html
    """
    if not str(target["Arn"]).endswith(":aws-sdk:sqs:sendMessage"):
        return target
    sent = json.loads(target["Input"])
    group = {"SqsParameters": {"MessageGroupId": sent["MessageGroupId"]}} if "MessageGroupId" in sent else {}
    name = sent["QueueUrl"].rsplit("/", 1)[1]
    return {**target, "Arn": f"arn:aws:sqs:{region}:{account}:{name}", "Input": sent["MessageBody"], **group}
