"""Leases: keeps the deliveries in hand leased, and gives back those that wait behind a slow run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from dispatcher.brokers.base import Broker, Delivery, Settlement
from dispatcher.exceptions import OperationalError

logger = logging.getLogger("dispatcher.worker")
#: A run that takes longer than this lets go of the deliveries behind it, in seconds.
SLOW_RUN = 1.0


class Leases:
    """The deliveries one consumer holds, renewed by a thread of its own while any is held."""

    def __init__(self, broker: Broker, on_tick: Callable[[], None] | None = None) -> None:
        self._broker = broker
        self._on_tick = on_tick
        self._lock = threading.Lock()
        self._held: dict[int, Delivery] = {}
        self._unstarted: dict[int, Delivery] = {}
        self._ticks_in_run = 0
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

    def hold(self, deliveries: Sequence[Delivery]) -> None:
        """Keep these leased from now on."""
        with self._lock:
            for delivery in deliveries:
                self._held[id(delivery)] = self._unstarted[id(delivery)] = delivery
            self._ticks_in_run = 0

    def begin(self, delivery: Delivery) -> bool:
        """Say whether a delivery is still ours, as its run is about to start."""
        with self._lock:
            self._ticks_in_run = 0
            return self._unstarted.pop(id(delivery), None) is not None

    def drop(self, deliveries: Sequence[Delivery]) -> None:
        """Stop keeping these: they are settled."""
        with self._lock:
            for delivery in deliveries:
                self._held.pop(id(delivery), None)
                self._unstarted.pop(id(delivery), None)

    def give_back_unstarted(self) -> None:
        """Release what no run has started yet, at once, for other workers."""
        with self._lock:
            given = list(self._unstarted.values())
            self._unstarted.clear()
            for delivery in given:
                self._held.pop(id(delivery), None)
        self._release(given)

    def give_back_all(self) -> None:
        """Release everything in hand, at once; what runs will find its outcome unwanted or run again elsewhere."""
        with self._lock:
            given = list(self._held.values())
            self._held.clear()
            self._unstarted.clear()
        self._release(given)

    def _release(self, given: Sequence[Delivery]) -> None:
        if given:
            self._broker.settle([Settlement(delivery, "release") for delivery in given])

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
            if self._on_tick is not None:
                self._on_tick()

    def _tick(self, pause: float, renew: bool) -> None:
        with self._lock:
            self._ticks_in_run += 1
            slow = self._ticks_in_run * pause > SLOW_RUN
            held = list(self._held.values())
        if slow:
            self.give_back_unstarted()
        if renew and held:
            self._broker.extend(held, self._broker.visibility_timeout)
