"""Leases: keeps the deliveries in hand leased, and gives back those that wait behind a slow run."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Sequence

from dispatcher.brokers.base import Broker, Delivery, Settlement
from dispatcher.exceptions import OperationalError
from dispatcher.execution.run import Run

logger = logging.getLogger("dispatcher.worker")
#: A run that takes longer than this lets go of the deliveries behind it, in seconds.
SLOW_RUN = 1.0
#: What waits for longer than this goes back, whatever begins meanwhile, in seconds.
_LONGEST_WAIT = 5.0
#: The share of a lease after which it is no longer trusted: it began a little before we knew of it.
_TRUSTED = 0.9


@dataclasses.dataclass(slots=True)
class _Lease:
    delivery: Delivery
    #: until when nobody else can have the message, on the broker's monotonic clock
    until: float
    begun: bool = False
    #: ticks since it was received
    ticks: int = 0
    run: Run | None = None


class Leases:
    """The deliveries one consumer holds, renewed by a thread of its own while any is held.

    ``on_tick`` is called by that thread twice a second or more often.
    """

    def __init__(self, broker: Broker, on_tick: Callable[[], None] | None = None) -> None:
        self._broker = broker
        self._on_tick = on_tick
        self._lock = threading.Lock()
        self._held: dict[int, _Lease] = {}
        self._returning: list[_Lease] = []
        self._ticks_in_run = 0
        self._closing = False
        self._last = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread; call it after a fork."""
        self._thread = threading.Thread(target=self._run, name="dispatcher-leases", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        self._return()

    def close(self) -> None:
        """Let nothing wait behind a run any more: the thread gives it back within half a second.

        Callable from a signal handler, so it takes no lock.
        """
        self._closing = True

    def hold(self, deliveries: Sequence[Delivery]) -> None:
        """Keep these leased from now on; they have just been received."""
        now = self._broker.clock.monotonic()
        with self._lock:
            for delivery in deliveries:
                began = now if delivery.leased_at is None else delivery.leased_at
                self._held[id(delivery)] = _Lease(delivery, self._trusted_until(began))
            self._ticks_in_run = 0

    def begin(self, delivery: Delivery, run: Run | None = None) -> bool:
        """Say whether a delivery is still ours, as its run is about to start.

        It is not if it was given back, or if this process stood still for so long that another may have it.
        """
        with self._lock:
            self._ticks_in_run = 0
            lease = self._held.get(id(delivery))
            if lease is None or lease.begun or self._last:
                return False
            if lease.until <= self._broker.clock.monotonic():
                del self._held[id(delivery)]
                return False
            lease.begun = True
            lease.run = run
            return True

    def running(self) -> list[Run]:
        """Return the runs that were begun and have no outcome yet."""
        with self._lock:
            runs = [lease.run for lease in self._held.values()]
        return [run for run in runs if run is not None and run.outcome is None]

    def make_last(self, run: Run) -> bool:
        """Let no other run begin, because the process is about to end with this one; false if it is over already."""
        with self._lock:
            lease = self._held.get(id(run.delivery))
            if lease is None or lease.run is not run or run.outcome is not None:
                return False
            self._last = True
            return True

    def drop(self, deliveries: Sequence[Delivery]) -> None:
        """Stop keeping these: they are settled."""
        with self._lock:
            for delivery in deliveries:
                self._held.pop(id(delivery), None)

    def give_back_unstarted(self) -> None:
        """Release what no run has started yet, at once, for other workers."""
        self._give_back(lambda lease: not lease.begun)

    def give_back_all(self) -> None:
        """Release everything in hand, at once; what runs will find its outcome unwanted or run again elsewhere."""
        self._give_back(lambda lease: True)

    def _give_back(self, chosen: Callable[[_Lease], bool]) -> None:
        with self._lock:
            given = [(key, lease) for key, lease in self._held.items() if chosen(lease)]
            for key, lease in given:
                del self._held[key]
                self._returning.append(lease)
        self._return()

    def _return(self) -> None:
        """Release what is on its way back; while the broker is away it is kept until its lease ends anyway."""
        now = self._broker.clock.monotonic()
        with self._lock:
            returning, self._returning = [lease for lease in self._returning if lease.until > now], []
        if not returning:
            return
        try:
            self._broker.settle([Settlement(lease.delivery, "release") for lease in returning])
        except OperationalError as error:
            logger.warning("%d messages cannot be handed back at the moment: %s", len(returning), error)
            with self._lock:
                self._returning += returning

    def _run(self) -> None:
        lease = self._broker.visibility_timeout
        pause = min(SLOW_RUN / 2, lease / 6)
        ticks_per_renewal = max(1, int(lease / 3 / pause))
        ticks = 0
        while not self._stop.wait(pause):
            ticks += 1
            try:
                self._tick(pause, renew=ticks % ticks_per_renewal == 0)
            except OperationalError as error:
                logger.warning("leases cannot be renewed at the moment: %s", error)
            except Exception:  # without this thread every task that takes longer than a lease would run twice
                logger.exception("leases cannot be renewed at the moment")
            if self._on_tick is not None:
                self._on_tick()

    def _tick(self, pause: float, renew: bool) -> None:
        now = self._broker.clock.monotonic()
        with self._lock:
            self._ticks_in_run += 1
            slow = self._ticks_in_run * pause > SLOW_RUN
            for key, lease in list(self._held.items()):
                if lease.begun:
                    continue
                lease.ticks += 1
                if lease.until <= now:  # somebody else may have it by now
                    del self._held[key]
        if slow or self._closing:
            self.give_back_unstarted()
        else:
            self._give_back(lambda lease: not lease.begun and lease.ticks * pause > _LONGEST_WAIT)
        if renew:
            self._renew()

    def _renew(self) -> None:
        with self._lock:
            held = list(self._held.values())
        if held:
            until = self._trusted_until(self._broker.clock.monotonic())
            self._broker.extend([lease.delivery for lease in held], self._broker.visibility_timeout)
            now = self._broker.clock.monotonic()
            with self._lock:
                for lease in held:
                    if lease.begun or lease.until > now:  # else it may have ended before that, and be another's
                        lease.until = until

    def _trusted_until(self, began: float) -> float:
        return began + _TRUSTED * self._broker.visibility_timeout
