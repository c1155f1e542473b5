"""Results: handles on tasks that were sent (`AsyncResult`) or ran at once (`EagerResult`)."""

from dispatcher.async_result import AsyncResult, result_from_tuple
from dispatcher.eager_result import EagerResult
from dispatcher.result_reading import ResultReader, assert_will_not_block

__all__ = ["AsyncResult", "EagerResult", "ResultReader", "assert_will_not_block", "result_from_tuple"]
