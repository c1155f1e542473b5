"""Results: handles on tasks that were sent (`AsyncResult`) or ran at once (`EagerResult`), alone or together."""

from dispatcher.async_result import AsyncResult, result_from_tuple
from dispatcher.eager_result import EagerResult
from dispatcher.result_reading import ResultReader, allow_join_result, assert_will_not_block, denied_join_result
from dispatcher.result_sets import GroupResult, ResultSet

__all__ = [
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "ResultReader",
    "ResultSet",
    "allow_join_result",
    "assert_will_not_block",
    "denied_join_result",
    "result_from_tuple",
]
