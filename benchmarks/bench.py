"""One session of measurements: its Redis, its producers and its workers."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from subprocess import PIPE
from typing import IO, Any, Final

import redis

from benchmarks import environment
from benchmarks.backlogs import Backlogs
from benchmarks.outcome import parse
from benchmarks.processes import Child, cpu_seconds, peak_bytes, proportional_bytes
from benchmarks.redis_server import RedisServer
from benchmarks.work import TICKS

#: Worker processes of every library, one task thread or event loop each.
PROCESSES: Final = 2
#: Peers that need another environment than the main one.
ENVIRONMENTS: Final = {
    "saq": "redis5", "arq": "redis5", "dispatcher_redis5": "redis5", "celery_sqs": "sqs", "dispatcher_sqs": "sqs",
}  # fmt: skip
#: Contenders that differ in their workers only -> whose backlog they work off.
PRODUCERS: Final = {"celery_threads": "celery"}

#: Longer than the longest takes: a million records through a handler that keeps their results.
_PROBE_TIMEOUT: Final = 400.0
_POLL: Final = 0.005
#: Calls of a turn before its clock starts: its workers were stopped, and wait for tasks again.
_WAKING: Final = 10


class MeasurementError(Exception):
    """A library did not do its work; the message holds its output."""

    @property
    def reason(self) -> str:
        """The last line, where Python names the error."""
        return str(self).strip().splitlines()[-1]


@dataclass(frozen=True)
class Scale:
    """How much work a measurement does."""

    #: Tasks of a backlog, and of the large one; the seconds after which a slow library's drain is cut off.
    backlog: int
    large_backlog: int
    drain_window: float
    #: Tasks that each do something: compute, wait, carry a payload.
    working: int
    sends: int
    calls: int
    bulks: int
    #: Batches of ten for a warm handler, and fresh processes for its start.
    batches: int
    starts: int
    #: Members of the largest chord.
    chord: int
    #: Tasks of a process that works for long, and of the longest backlog.
    lasting: int


QUICK: Final = Scale(
    backlog=2_000, large_backlog=5_000, drain_window=3, working=300,
    sends=1_000, calls=100, bulks=5, batches=200, starts=3, chord=1_000, lasting=20_000,
)  # fmt: skip
FULL: Final = Scale(
    backlog=20_000, large_backlog=100_000, drain_window=4, working=1_500,
    sends=5_000, calls=500, bulks=20, batches=1_000, starts=9, chord=10_000, lasting=1_000_000,
)  # fmt: skip


@dataclass(frozen=True)
class Progress:
    """How far the workers were at a moment; times are seconds."""

    at: float
    ticks: int
    cpu: float


class Workers:
    """The running worker processes of one library."""

    def __init__(self, children: list[Child]) -> None:
        self._children = children

    def pids(self) -> list[int]:
        """Return every process of the worker, masters included."""
        return [pid for child in self._children for pid in child.pids()]

    def pss(self) -> int:
        """Return the proportional set size of all processes in bytes."""
        return proportional_bytes(self.pids())

    def peak(self) -> int:
        """Return the most bytes that one process has held at a time."""
        return peak_bytes(self.pids())

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal to all processes, masters first."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signum)

    def check(self) -> None:
        """Raise if a worker ended by itself."""
        for child in self._children:
            if not child.running:
                raise MeasurementError(f"{' '.join(child.command)} ended:\n{child.output()}")

    def output(self) -> str:
        """Return what the workers wrote."""
        return "\n".join(child.output() for child in self._children)


class Producer:
    """A producer that acts when it is told to; it ends with its input."""

    def __init__(self, orders: IO[str], answers: IO[str], errors: IO[str]) -> None:
        self._orders = orders
        self._answers = answers
        self._errors = errors

    def take_turn(self, count: int) -> list[float]:
        """Do so many things one after the other; return the seconds that it timed."""
        try:
            print(count, file=self._orders, flush=True)
            for line in self._answers:
                with suppress(LookupError):
                    return list(map(float, parse(line)))
        except BrokenPipeError:
            pass
        self._errors.seek(0)
        raise MeasurementError(f"the producer ended:\n{self._errors.read()[-4000:]}")


class Bench:
    """What a row needs to measure one library."""

    def __init__(self, server: RedisServer, scale: Scale) -> None:
        self.scale = scale
        self._server = server
        self.redis = redis.Redis.from_url(server.url)
        self._backlogs = Backlogs(self.redis)
        self._more_variables: dict[str, str] = {}
        self._done: set[str] = set()

    def probe(self, peer: str, verb: str, *arguments: int | str, results: bool = False) -> Any:
        """Run one verb of a peer's producer in a fresh process and return what it yields."""
        command = ["-m", "benchmarks.probe", peer, verb, *map(str, arguments)]
        return self.python(command, peer, **self._variables(results))

    def script(self, module: str, *arguments: str, results: bool = False) -> Any:
        """Run a module that sends tasks in a fresh process and return what it yields."""
        return self.python(["-m", module, *arguments], **self._variables(results))

    def fill(self, peer: str, count: int, work: str = "tick") -> None:
        """Make a backlog of one kind of work the only thing in Redis: sent by the peer, or as it once sent it."""
        producer = PRODUCERS.get(peer, peer)
        self._backlogs.restore(f"{producer} {count} {work}", lambda: self.probe(producer, "fill", count, work))

    def python(self, arguments: list[str], peer: str = "", **variables: str) -> Any:
        """Run a Python process of the peer's environment and return the value it reports."""
        python = environment.ensure(ENVIRONMENTS.get(peer, environment.MAIN))
        command = [str(python), *arguments]
        try:
            done = subprocess.run(
                command,
                env=environment.variables(**variables),
                cwd=environment.ROOT,
                capture_output=True,
                text=True,
                timeout=_PROBE_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise MeasurementError(f"{' '.join(arguments)} took more than {_PROBE_TIMEOUT} s") from None
        try:
            return parse(done.stdout)
        except LookupError:
            output = f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
            raise MeasurementError(f"{' '.join(arguments)} failed:\n{output}") from None

    @contextmanager
    def producer(self, peer: str) -> Iterator[Callable[[int], list[float]]]:
        """Run a peer's producer for the length of the block.

        Yields a function that sends so many no-ops and returns how many seconds they took, alone in a list.
        """
        with self._producer(peer, "sends", results=False) as producer:
            yield producer.take_turn

    @contextmanager
    def caller(self, peer: str) -> Iterator[Callable[[int], list[float]]]:
        """Run a peer's workers and a caller for the length of the block; the workers are stopped between its turns.

        Yields a function that calls so many tasks and returns how many seconds each took.
        """
        with self.workers(peer, results=True) as workers, self._producer(peer, "calls", results=True) as producer:

            def call(count: int) -> list[float]:
                workers.signal(signal.SIGCONT)
                try:
                    times = producer.take_turn(_WAKING + count)
                    workers.check()
                finally:
                    workers.signal(signal.SIGSTOP)
                return times[_WAKING:]

            yield call

    @contextmanager
    def _producer(self, peer: str, verb: str, *, results: bool) -> Iterator[Producer]:
        python = environment.ensure(ENVIRONMENTS.get(peer, environment.MAIN))
        command = ["timeout", str(_PROBE_TIMEOUT), str(python), "-m", "benchmarks.probe", peer, verb]
        variables = environment.variables(**self._variables(results))
        with (
            tempfile.TemporaryFile("w+", errors="replace") as errors,
            subprocess.Popen(
                command, env=variables, cwd=environment.ROOT, stdin=PIPE, stdout=PIPE, stderr=errors, text=True
            ) as process,
        ):
            assert process.stdin
            assert process.stdout
            try:
                yield Producer(process.stdin, process.stdout, errors)
            finally:
                process.terminate()

    @contextmanager
    def workers(self, peer: str, *, concurrency: int = 0, results: bool = False) -> Iterator[Workers]:
        """Run a peer's worker processes for the length of the block.

        Each runs ``concurrency`` tasks at once; with 0, one where tasks block, and the default where they don't.
        """
        start = self.probe(peer, "workers", PROCESSES, concurrency, results=results)
        variables = environment.variables(**self._variables(results), **start["variables"])
        with ExitStack() as stack:
            children = []
            for command in start["commands"]:
                child = Child(command, variables)
                stack.callback(child.stop)
                children.append(child)
            yield Workers(children)

    def once(self, what: str) -> bool:
        """Whether this is the first time in the session that this is asked."""
        if what in self._done:
            return False
        self._done.add(what)
        return True

    @contextmanager
    def variables(self, **more: str) -> Iterator[None]:
        """Give more environment variables to every probe and worker that starts within the block."""
        before, self._more_variables = self._more_variables, more
        try:
            yield
        finally:
            self._more_variables = before

    @contextmanager
    def database(self, number: int) -> Iterator[None]:
        """Have every probe and worker that starts within the block use another database of Redis."""
        with self.variables(BENCH_REDIS_URL=f"{self._server.url.rpartition('/')[0]}/{number}"):
            yield

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Keep Redis on one CPU, and the harness and what it starts on the others, for the length of the block.

        One producer and the server take turns. On a shared CPU a turn costs half of what it does across two, and the
        scheduler's choice between both would hide everything else.
        """
        cpus = os.sched_getaffinity(0)
        if len(cpus) < 2:
            yield
            return
        last = {max(cpus)}
        os.sched_setaffinity(self._server.pid, last)
        os.sched_setaffinity(0, cpus - last)
        try:
            yield
        finally:
            os.sched_setaffinity(self._server.pid, cpus)
            os.sched_setaffinity(0, cpus)

    def wait_for_ticks(self, workers: Workers, target: int, timeout: float) -> Progress:
        """Return the progress once so many no-ops ran or so many seconds passed."""
        deadline = time.monotonic() + timeout
        while True:
            ticks = int(self.redis.get(TICKS) or 0)
            now = time.monotonic()
            if ticks >= target or now >= deadline:
                return Progress(now, ticks, cpu_seconds(workers.pids()))
            workers.check()
            time.sleep(_POLL)

    def _variables(self, results: bool) -> dict[str, str]:
        results_kept = "1" if results else "0"
        return {"BENCH_REDIS_URL": self._server.url, "BENCH_RESULTS": results_kept, **self._more_variables}
