"""Results: handles on tasks that were sent (`AsyncResult`) or ran at once (`EagerResult`)."""

from dispatcher.async_result import AsyncResult, result_from_tuple
from dispatcher.eager_result import EagerResult
from dispatcher.result_reading import ResultReader, allow_join_result, assert_will_not_block, denied_join_result

__all__ = [
    "AsyncResult",
    "EagerResult",
    "ResultReader",
    "allow_join_result",
    "assert_will_not_block",
    "denied_join_result",
    "result_from_tuple",
]
