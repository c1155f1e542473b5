"""How long calls of AWS services may take where the process may run for a known time only, as a Lambda function.

A client's own timeouts and retries add up to a minute. They stay as they are, and nobody waits longer than is left,
save for an answer that trickles in, begun while much time was left: it is waited for until it is complete.
"""

from __future__ import annotations

import contextvars
import math
import os
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

_Result = TypeVar("_Result")

#: Threads for the calls of a process, those made side by side included, and others that were given up.
_MAX_THREADS: Final = 32
#: More seconds than a call ever takes by its client's own timeouts and retries.
AMPLE: Final = 300.0
#: The longest that botocore pauses before another try, and that the system looks for a name, in seconds.
_PAUSE: Final = 20.0
_LOOKUP: Final = 10.0


class OutOfTime(Exception):
    """A call had no answer in the time that was left for it, in seconds."""

    def __init__(self, left: float) -> None:
        super().__init__(f"no answer in the {max(0.0, left):.1f} s that were left for it")


class _Process:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.bounds: Mapping[str, Callable[[], float]] = {}
        self.threads: ThreadPoolExecutor | None = None


_process = _Process()


def _forget_parent() -> None:
    global _process
    _process = _Process()


os.register_at_fork(after_in_child=_forget_parent)


def bound(bounds: Mapping[str, Callable[[], float]]) -> None:
    """Let this process's calls of these services take no longer than the seconds that their functions return.

    This replaces what was bound before; nothing is by default.
    """
    _process.bounds = bounds


def time_left(service: str) -> float:
    """Return how long calls of a service may take from now, in seconds; infinity where nothing is bound."""
    left = _process.bounds.get(service)
    return math.inf if left is None else left()


class _Retries:
    """Stands in for the method by which botocore's endpoints decide on another try, and pause before it.

    A handler of ``needs-retry`` could not: up to botocore 1.43.0 its `False` means another try at once, and the usual
    handler takes from the quota of retries whatever others say.
    """

    def __init__(self, usual: Callable[..., bool], service: str, longest: float) -> None:
        self._usual = usual
        self._service = service
        self.longest = longest

    def __call__(self, *arguments: Any, **more: Any) -> bool:
        return time_left(self._service) > self.longest and self._usual(*arguments, **more)


def stop_trying(client: Any) -> None:
    """Have a client of botocore's repeat a call only while there is time for another try, where botocore lets us."""
    endpoint = getattr(client, "_endpoint", None)
    usual = getattr(endpoint, "_needs_retry", None)
    if endpoint is not None and callable(usual):
        endpoint._needs_retry = _Retries(usual, client.meta.service_model.service_name, longest_try(client))


def longest_call(client: Any) -> float:
    """Return more seconds than a call of a small request goes on for once there is little time left for it.

    That is one try where `stop_trying` sees to it. A server that sends a few bytes now and then takes longer: timeouts
    of a client end with the next byte.
    """
    retries = getattr(getattr(client, "_endpoint", None), "_needs_retry", None)
    return retries.longest if isinstance(retries, _Retries) else AMPLE


def longest_try(client: Any) -> float:
    """Return more seconds than a pause and one try of a small request take by the client's own timeouts.

    A name may have several addresses, each of which is tried.
    """
    config = client.meta.config
    # Both may be set to None, for ever.
    return float(_PAUSE + _LOOKUP + 4 * (config.connect_timeout or AMPLE) + 2 * (config.read_timeout or AMPLE))


def in_time(service: str, function: Callable[[], _Result], ample: float = AMPLE) -> _Result:
    """Call a function within the time left for a service; raises `OutOfTime`.

    A call that is given up goes on in its thread, and may still take effect. ``ample`` is more than the function takes
    in any case, in seconds: with more left, it is called as it is, since a thread takes as much CPU as half a call.
    """
    left = time_left(service)
    if left > ample:
        return function()
    if left <= 0:
        raise OutOfTime(left)
    import concurrent.futures

    future: Any = _threads().submit(contextvars.copy_context().run, function)
    concurrent.futures.wait([future], left)
    if not future.done():
        future.cancel()
        raise OutOfTime(left)
    result: _Result = future.result()
    return result


def _threads() -> ThreadPoolExecutor:
    process = _process
    if process.threads is None:
        from concurrent.futures import ThreadPoolExecutor

        with process.lock:
            if process.threads is None:
                process.threads = ThreadPoolExecutor(_MAX_THREADS, "dispatcher-aws-bounded")
    return process.threads
