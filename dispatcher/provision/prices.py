"""What AWS charges for what a task queue uses: list prices by region, with their date, or those of a file.

Prices are dollars, before tax, discounts and free tiers, of the first step where a price falls with volume. They are
constants of their day, not looked up: check them against the pages before you rely on them.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Final, Self

from dispatcher.exceptions import ImproperlyConfigured

#: When the constants below were collected.
DATE: Final = "2026-11-22"
MILLION: Final = 1_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Prices:
    """Dollars of one region."""

    region: str
    date: str
    #: A million requests, each for at most 64 KB, on a standard and on a FIFO queue. https://aws.amazon.com/sqs/pricing/
    sqs_standard: float
    sqs_fifo: float
    #: A million invocations, and a GB-second by architecture. https://aws.amazon.com/lambda/pricing/
    lambda_requests: float
    lambda_x86_64: float
    lambda_arm64: float
    #: A million write and read units of an on-demand table, and a GB kept for a month.
    #: https://aws.amazon.com/dynamodb/pricing/on-demand/
    dynamodb_write: float
    dynamodb_read: float
    dynamodb_storage: float
    #: A million PUTs and GETs. https://aws.amazon.com/s3/pricing/
    s3_put: float
    s3_get: float
    #: A million invocations of EventBridge Scheduler; scheduled rules of EventBridge cost nothing.
    #: https://aws.amazon.com/eventbridge/pricing/
    scheduler: float
    #: A GB of logs taken in; a metric, an alarm and a dashboard for a month.
    #: https://aws.amazon.com/cloudwatch/pricing/
    logs: float
    metric: float
    alarm: float
    dashboard: float

    @classmethod
    def of(cls, region: str) -> Self:
        """Return the list prices of a region; raises `ImproperlyConfigured` for one that is not in the table."""
        try:
            return cls(region, DATE, **_REGIONS[region])
        except KeyError:
            raise ImproperlyConfigured(
                f"there are no prices of region {region!r} in the table of {DATE}, which has {', '.join(_REGIONS)}; "
                "write them into a JSON file and pass it (--prices FILE), or take another region's (--region)"
            ) from None

    @classmethod
    def read(cls, path: Path, region: str) -> Self:
        """Return the prices that a JSON file holds: an object of this class's fields, without region.

        What it leaves out is taken from the table's region of that name. Raises `ImproperlyConfigured` for a file that
        cannot be read, for names that are not prices, and for prices that are missing.
        """
        given = _object(path)
        names = {field.name for field in dataclasses.fields(cls)} - {"region"}
        if unknown := sorted(given.keys() - names):
            raise ImproperlyConfigured(f"{path}: {unknown[0]!r} is no price; there are {', '.join(sorted(names))}")
        wrong = [name for name, price in given.items() if name != "date" and not _is_price(price)]
        if wrong:
            raise ImproperlyConfigured(f"{path}: {wrong[0]} must be a number of dollars, not {given[wrong[0]]!r}")
        if not isinstance(given.get("date", ""), str):
            raise ImproperlyConfigured(f'{path}: date must be a text such as "{DATE}", not {given["date"]!r}')
        known = {**_REGIONS.get(region, {}), "date": f"{DATE}, with {path.name}"}
        if missing := sorted(names - given.keys() - known.keys()):
            raise ImproperlyConfigured(f"{path}: the table has no region {region!r}, so {missing[0]} is missing")
        return cls(region, **{**known, **given})


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ImproperlyConfigured(f"{path}: no prices can be read: {error}") from None
    if not isinstance(found, dict):
        raise ImproperlyConfigured(f"{path}: an object of prices is wanted, not a {type(found).__name__}")
    return found


def _is_price(price: Any) -> bool:
    return isinstance(price, int | float) and not isinstance(price, bool) and 0 <= price < math.inf


_US: Final[dict[str, Any]] = {
    "sqs_standard": 0.40,
    "sqs_fifo": 0.50,
    "lambda_requests": 0.20,
    "lambda_x86_64": 0.0000166667,
    "lambda_arm64": 0.0000133334,
    "dynamodb_write": 0.625,
    "dynamodb_read": 0.125,
    "dynamodb_storage": 0.25,
    "s3_put": 5.00,
    "s3_get": 0.40,
    "scheduler": 1.00,
    "logs": 0.50,
    "metric": 0.30,
    "alarm": 0.10,
    "dashboard": 3.00,
}
_REGIONS: Final[dict[str, dict[str, Any]]] = {
    "us-east-1": _US,
    "us-east-2": _US,
    "us-west-2": _US,
    # https://pricing.us-east-1.amazonaws.com/offers/v1.0/aws/AmazonDynamoDB/current/eu-central-1/index.json and those
    # of AWSLambda, AWSQueueService, AmazonCloudWatch; S3 by its page.
    "eu-central-1": {
        **_US,
        "dynamodb_write": 0.7625,
        "dynamodb_read": 0.1525,
        "dynamodb_storage": 0.306,
        "s3_put": 5.40,
        "s3_get": 0.43,
        "logs": 0.63,
    },
}


@dataclasses.dataclass(frozen=True, slots=True)
class FreeTier:
    """What an account has free each month, for all of its applications together."""

    #: https://aws.amazon.com/sqs/pricing/
    sqs: float = 1 * MILLION
    #: https://aws.amazon.com/lambda/pricing/
    invocations: float = 1 * MILLION
    gb_seconds: float = 400_000
    #: GB kept. https://aws.amazon.com/dynamodb/pricing/on-demand/
    stored: float = 25
    #: https://aws.amazon.com/eventbridge/pricing/
    schedules: float = 14 * MILLION
    #: GB of logs, metrics, alarms, dashboards. https://aws.amazon.com/cloudwatch/pricing/
    logs: float = 5
    metrics: float = 10
    alarms: float = 10
    dashboards: float = 3
