"""What the contract suites run in processes of their own."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from dispatcher.backends import locks
from dispatcher.backends.base import ResultBackend, Write
from dispatcher.brokers.base import Broker, Outgoing, Settlement
from dispatcher.clock import SYSTEM, Clock
from dispatcher.exceptions import OperationalError
from tests.contract.harness import Recipe

#: how long the parent waits for a child before it gives up, in seconds
PATIENCE = 60.0


class Child:
    """A function in a process of its own; `result` is what it returned."""

    def __init__(self, function: Callable[..., Any], *args: Any, method: str = "spawn") -> None:
        context = multiprocessing.get_context(method)
        self._reader, writer = context.Pipe(duplex=False)
        self.process = context.Process(target=_run, args=(function, args, writer))  # type: ignore[attr-defined]
        self.process.start()
        writer.close()

    def result(self) -> Any:
        """Wait for what the function returned; an error there is raised here, an early death fails the test."""
        try:
            assert self._reader.poll(PATIENCE), f"the child did not answer within {PATIENCE} s"
            try:
                kind, value = self._reader.recv()
            except EOFError:
                self.process.join(PATIENCE)
                raise AssertionError(f"the child died with exit code {self.process.exitcode}") from None
            assert kind == "returned", value
            return value
        finally:
            self.finish()

    def finish(self) -> None:
        """Wait for the process to end; kill it where it does not."""
        self.process.join(PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self._reader.close()


def _run(function: Callable[..., Any], args: tuple[Any, ...], writer: Connection) -> None:
    try:
        answer = ("returned", function(*args))
    except BaseException as error:  # noqa: BLE001 - whatever went wrong is the parent's to see
        answer = ("raised", f"{type(error).__name__}: {error}")
    writer.send(answer)
    writer.close()


def consume(recipe: Recipe, queue: str, limit: int) -> list[str]:
    """Receive and ack until the queue stays empty for a moment; return the bodies."""
    broker: Broker = recipe.open()
    bodies: list[str] = []
    while deliveries := broker.receive([queue], limit, wait=1.0):
        bodies += [str(delivery.body) for delivery in deliveries]
        broker.settle([Settlement(delivery, "ack") for delivery in deliveries])
    broker.close()
    return bodies


def send(recipe: Recipe, messages: list[Outgoing]) -> None:
    """Send from a process of its own."""
    broker: Broker = recipe.open()
    broker.send(messages)
    broker.close()


def receive_and_die(recipe: Recipe, queue: str, limit: int, lease: float) -> None:
    """Lease messages, then die as by the OOM killer."""
    broker: Broker = recipe.open(visibility_timeout=lease)
    leased = 0
    while leased < limit:
        leased += len(broker.receive([queue], limit - leased, wait=10.0))
    os.kill(os.getpid(), signal.SIGKILL)


def send_until_killed(recipe: Recipe, queue: str, accepted: Connection) -> None:
    """Send small batches for ever, reporting each body once the broker has taken it."""
    broker: Broker = recipe.open()
    for number in itertools.count():
        bodies = [f"{number}/{part}" for part in range(3)]
        broker.send([Outgoing(queue, body, body) for body in bodies])
        accepted.send(bodies)


def consume_until_killed(recipe: Recipe, queue: str, settled: Connection) -> None:
    """Receive and ack for ever, reporting bodies once their ack is done."""
    broker: Broker = recipe.open(visibility_timeout=1.0)
    while True:
        deliveries = broker.receive([queue], 4, wait=10.0)
        broker.settle([Settlement(delivery, "ack") for delivery in deliveries])
        settled.send([str(delivery.body) for delivery in deliveries])


def send_within(recipe: Recipe, queue: str, file_size: int) -> str:
    """Send until files may grow no more, then without that limit; return the error in between."""
    broker: Broker = recipe.open()
    broker.send([Outgoing(queue, "before", "before")])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, hard))
    error = ""
    while not error:
        try:
            broker.send([Outgoing(queue, "x" * 100_000, "filler")])
        except OperationalError as refusal:
            error = str(refusal)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    broker.send([Outgoing(queue, "after", "after")])
    broker.close()
    return error


def open_at_once(recipe: Recipe, queue: str, gate: Connection) -> None:
    """Wait at the gate, then be among the first to use the store."""
    broker: Broker = recipe.open()
    gate.poll(PATIENCE)
    broker.send([Outgoing(queue, "{}", "first")])
    broker.close()


def send_in_steps(broker: Broker, queue: str, steps: Connection) -> None:
    """Send one message for every step until the other end closes; answer each."""
    while steps.recv():
        broker.send([Outgoing(queue, "step", "step")])
        steps.send(True)
    steps.close()


def use_inherited_broker(broker: Broker, queue: str, message: Outgoing) -> list[str]:
    """Receive and send with a broker object that the parent has used before the fork."""
    deliveries = broker.receive([queue], 1, wait=10.0)
    broker.settle([Settlement(delivery, "ack") for delivery in deliveries])
    broker.send([message])
    return [str(delivery.body) for delivery in deliveries]


def write(recipe: Recipe, writes: list[Write]) -> list[bool]:
    """Write one by one; say which took effect."""
    backend: ResultBackend = recipe.open()
    try:
        return [backend.write([item]) == [None] for item in writes]
    finally:
        backend.close()


def take_lock(backend: ResultBackend, clock: Clock, key: str, owner: str) -> int:
    """Take a lock that nobody has, give it up, and return the fence it came with."""
    while True:
        before, now = locks.read(backend, key), clock.time()
        leased = before.with_lease(owner, owner, now + PATIENCE, now)
        if before.runner or locks.swap(backend, before, leased, now) is not None:
            continue
        assert locks.read(backend, key).runner == owner
        assert locks.swap(backend, leased, leased.without_lease(now), now) is None, "somebody else took it meanwhile"
        return leased.fence


def take_lock_often(recipe: Recipe, key: str, owner: str, times: int) -> list[int]:
    """Take a lock again and again, in a process of its own."""
    backend: ResultBackend = recipe.open()
    try:
        return [take_lock(backend, SYSTEM, key, owner) for _ in range(times)]
    finally:
        backend.close()


def use_inherited_backend(backend: ResultBackend, write: Write, other: str) -> list[str]:
    """Write and read with a backend object that the parent has used before the fork."""
    backend.write([write])
    return sorted(backend.read([write.id, other]))


def reserve(recipe: Recipe, bucket: str, interval: float, burst: int) -> list[tuple[float, float]]:
    """Reserve 30 slots by ones and twos; return each with the time it was asked for."""
    backend: ResultBackend = recipe.open()
    taken = []
    for size in (1, 2) * 10:
        asked = backend.clock.time()
        taken += [
            (slot, asked + number * interval)
            for number, slot in enumerate(backend.reserve(bucket, size, interval, burst))
        ]
    backend.close()
    return taken
