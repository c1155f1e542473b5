"""Partial batch responses are judged as Lambda's documentation says."""

from typing import Any

import pytest

from tests.emulation.mapping_corrections import failed_ids

MAPPING = {"FunctionResponseTypes": ["ReportBatchItemFailures"]}
BATCH = [{"id": "a"}, {"id": "b"}]


@pytest.mark.parametrize(
    "response", [None, "", {}, {"batchItemFailures": None}, {"batchItemFailures": []}, {"other": 1}]
)
def test_empty_answers_are_complete_success(response: Any) -> None:
    """Nothing reported means nothing failed."""
    assert failed_ids(response, MAPPING, BATCH) == set()


def test_reported_ids_failed() -> None:
    """The messages named are those that failed."""
    assert failed_ids({"batchItemFailures": [{"itemIdentifier": "b"}]}, MAPPING, BATCH) == {"b"}


@pytest.mark.parametrize(
    "response",
    [
        "text",
        [],
        {"batchItemFailures": "a"},
        {"batchItemFailures": ["a"]},
        {"batchItemFailures": [{"itemIdentifier": ""}]},
        {"batchItemFailures": [{"itemIdentifier": None}]},
        {"batchItemFailures": [{"itemIdentifier": "c"}]},
        {"batchItemFailures": [{"itemidentifier": "a"}]},
        {"batchItemFailures": [{"itemIdentifier": "a"}, {"itemIdentifier": ["b"]}]},
    ],
)
def test_malformed_answers_fail_the_whole_batch(response: Any) -> None:
    """One unusable entry spoils the answer."""
    assert failed_ids(response, MAPPING, BATCH) is None


def test_without_the_response_type_any_answer_is_success() -> None:
    """A mapping that did not ask for reports does not read them."""
    assert failed_ids({"batchItemFailures": [{"itemIdentifier": "a"}]}, {}, BATCH) == set()
