"""Settings reach the adapters they are about."""

from typing import Any

import pytest

from dispatcher import connections
from dispatcher.config import Config


@pytest.mark.parametrize(
    ("settings", "table"),
    [
        ({"broker_url": "sqs://", "dynamodb_table": "results"}, "results"),
        ({"result_backend": "dynamodb://", "dynamodb_table": "results"}, "results"),
        ({"result_backend": "dynamodb://eu-west-1", "dynamodb_table": "results"}, "results"),
        ({"result_backend": "dynamodb://named", "dynamodb_table": "results"}, "named"),
        ({"result_backend": "dynamodb://", "result_backend_transport_options": {"table": "t-1"}}, "t-1"),
        ({"result_backend": "dynamodb://"}, "dispatcher"),
    ],
)
def test_table_is_the_one_that_is_configured(settings: dict[str, Any], table: str) -> None:
    """`dynamodb_table` counts unless the URL or an option names a table."""
    backend = connections.backend_of(Config(settings, environ={}), "shop")
    assert getattr(backend, "table") == table  # noqa: B009 - an attribute of this backend only
