"""Alarms, and the dashboard that shows what they watch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from dispatcher.provision.plan import Plan, PlannedQueue
from dispatcher.provision.policies import queue_id
from dispatcher.provision.template import Resource

#: How old the oldest message of a queue may become, in seconds, before somebody is told.
OLDEST: Final = 900
_PERIOD: Final = 60


def alarms(plan: Plan) -> Iterator[Resource]:
    """Yield the alarms of queues and functions."""
    for queue in plan.queues:
        yield from _of_queue(queue)
        if queue.function is not None:
            yield from _of_function(queue_id(queue, "Function"), f"the tasks of {queue.name}")
    yield from _of_function("LostFunction", "lost messages")


def _of_queue(queue: PlannedQueue) -> Iterator[Resource]:
    yield _alarm(
        queue_id(queue, "OldMessages"), "AWS/SQS", "ApproximateAgeOfOldestMessage", "Maximum", _queue(queue, "Queue"),
        f"Messages of {queue.name} wait: too few workers, or none that works.", OLDEST, 5,
        {"Threshold": "15 minutes: a backlog that autoscaling has not worked off.", "EvaluationPeriods": "Five minutes "
         "in a row, since a burst is no trouble."},
    )  # fmt: skip
    yield _alarm(
        queue_id(queue, "DeadLetters"), "AWS/SQS", "ApproximateNumberOfMessagesVisible", "Maximum",
        _queue(queue, "DeadQueue"), f"Tasks of {queue.name} failed for good; `dispatcher dlq list` shows them.", 0, 1,
        {"Threshold": "Each is a task that somebody wanted."},
    )  # fmt: skip


def _of_function(id: str, what: str) -> Iterator[Resource]:
    dimension = [{"Name": "FunctionName", "Value": {"Ref": id}}]
    yield _alarm(
        f"{id}Errors", "AWS/Lambda", "Errors", "Sum", dimension,
        f"The function of {what} failed: a crash, a time-out, or a package without its handler.", 0, 1,
        {"Threshold": "The handler answers whatever tasks do, so an error is never a task's failure."},
    )  # fmt: skip
    yield _alarm(
        f"{id}Throttles", "AWS/Lambda", "Throttles", "Sum", dimension,
        f"The function of {what} is throttled: the account's concurrency is used up.", 0, 5,
        {"Threshold": "Each throttle uses up a receive of its messages.", "EvaluationPeriods": "Five minutes in a row: "
         "a few throttles are within the transport budget."},
    )  # fmt: skip


def _queue(queue: PlannedQueue, kind: str) -> list[dict[str, Any]]:
    return [{"Name": "QueueName", "Value": {"Fn::GetAtt": [queue_id(queue, kind), "QueueName"]}}]


def _alarm(
    id: str, namespace: str, metric: str, statistic: str, dimensions: list[dict[str, Any]], description: str,
    threshold: int, periods: int, reasons: dict[str, str],
) -> Resource:  # fmt: skip
    told = {"Fn::If": ["TellsAlarms", [{"Ref": "AlarmTopic"}], {"Ref": "AWS::NoValue"}]}
    properties = {
        "AlarmDescription": description,
        "Namespace": namespace,
        "MetricName": metric,
        "Dimensions": dimensions,
        "Statistic": statistic,
        "Period": _PERIOD,
        "EvaluationPeriods": periods,
        "Threshold": threshold,
        "ComparisonOperator": "GreaterThanThreshold",
        # SQS reports nothing of a queue that has been idle for hours.
        "TreatMissingData": "notBreaching",
        "AlarmActions": told,
        "OKActions": told,
    }
    return Resource(id, "AWS::CloudWatch::Alarm", properties, reasons)


def dashboard(plan: Plan) -> Resource:
    """Return the dashboard: for each queue its backlog, age and dead letters, for each function its work."""
    widgets = []
    for row, queue in enumerate(plan.queues):
        shown = queue.name.replace("${", "${!")  # no variable of the Sub around it
        own, dead = (f"${{{queue_id(queue, kind)}.QueueName}}" for kind in ("Queue", "DeadQueue"))
        lines = [
            ("messages", "Sum", [
                _line("AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", own),
                _line("AWS/SQS", "ApproximateNumberOfMessagesNotVisible", "QueueName", own),
                _line("AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", dead),
            ]),
            ("age of the oldest message", "Maximum", [
                _line("AWS/SQS", "ApproximateAgeOfOldestMessage", "QueueName", own),
            ]),
        ]  # fmt: skip
        if queue.function is not None:
            function = f"${{{queue_id(queue, 'Function')}}}"
            names = ("Invocations", "Errors", "Throttles")
            lines.append(("batches", "Sum", [_line("AWS/Lambda", name, "FunctionName", function) for name in names]))
        for column, (title, statistic, metrics) in enumerate(lines):
            widgets.append({
                "type": "metric", "x": 8 * column, "y": 6 * row, "width": 8, "height": 6,
                "properties": {
                    "title": f"{shown}: {title}", "region": "${AWS::Region}", "stat": statistic, "period": _PERIOD,
                    "metrics": metrics,
                },
            })  # fmt: skip
    name = {"Fn::Sub": "${AWS::StackName}"} if plan.prefix is None else plan.prefix.rstrip("-")
    rows = ",\n".join(json.dumps(widget) for widget in widgets)
    body = {"Fn::Sub": f'{{"widgets": [\n{rows}\n]}}'}
    return Resource("Dashboard", "AWS::CloudWatch::Dashboard", {"DashboardName": name, "DashboardBody": body})


def _line(namespace: str, metric: str, dimension: str, value: str) -> list[str]:
    return [namespace, metric, dimension, value]
