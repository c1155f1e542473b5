"""Real workers on real brokers: killed, stopped, starved and misused. Nothing is lost, nothing hangs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.consumer.loop import BrokerTransport
from dispatcher.exceptions import TimeLimitExceeded, WorkerLostError
from dispatcher.execution import recording
from dispatcher.execution.environment import Environment
from dispatcher.execution.executor import Executor
from tests.emulation.endpoint import AwsEndpoint
from tests.emulation.redis_server import RedisServer
from tests.fault.fleet import Fleet, alive, until
from tests.fault.sqs_fleet import SqsFleet
from tests.fault.storm import Report, Storm

#: A longer storm: DISPATCHER_TEST_STORM="2000 8 1 2 3" is 2,000 tasks and 8 kills from each of the seeds 1, 2, 3.
TASKS, KILLS, *SEEDS = map(int, os.environ.get("DISPATCHER_TEST_STORM", "400 5 1").split())
DURABLE = {"appendonly": "yes", "appendfsync": "always"}


@pytest.fixture(params=["sqlite", "redis"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    """A fleet on each broker that several processes of one machine share."""
    if request.param == "redis":
        executable = request.getfixturevalue("redis_executable")
        with RedisServer(executable, options=DURABLE) as server, Fleet(tmp_path, server.url) as fleet:
            yield fleet
    else:
        with Fleet(tmp_path, f"sqlite:///{tmp_path / 'store.db'}") as fleet:
            yield fleet


@pytest.fixture
def sqlite_fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A fleet on SQLite, for what does not depend on the broker."""
    with Fleet(tmp_path, f"sqlite:///{tmp_path / 'store.db'}") as fleet:
        yield fleet


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_workers_lose_nothing(fleet: Fleet, seed: int) -> None:
    """Workers and children killed at random moments lose, hang, regress and double nothing."""
    assert_nothing_lost(fleet, Storm(fleet, seed, TASKS, KILLS).run(), KILLS)


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_workers_lose_nothing_that_threads_share(fleet: Fleet, seed: int) -> None:
    """The same with workers whose threads share what is received and what is to be recorded."""
    assert_nothing_lost(fleet, Storm(fleet, seed, TASKS, KILLS, pool="threads").run(), KILLS)


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_workers_lose_nothing_on_sqs(aws_env: AwsEndpoint, tmp_path: Path, seed: int) -> None:
    """The same with local workers on SQS and DynamoDB."""
    tasks, kills = max(1, TASKS // 4), max(1, KILLS * 3 // 5)
    with SqsFleet(tmp_path, aws_env) as fleet:
        assert_nothing_lost(fleet, Storm(fleet, seed, tasks, kills).run(), kills)
        print(f"messages of failed tasks that rested: {len(fleet.rested)}")


def test_a_failure_whose_worker_died_is_buried_after_a_rest_on_sqs(aws_env: AwsEndpoint, tmp_path: Path) -> None:
    """A worker dies between record and dead letter: the next one leaves the message alone, and it is not forgotten."""
    with SqsFleet(tmp_path, aws_env) as fleet:
        failed = fleet.send("failing", 1)
        die_before_settling(fleet)
        fleet.start("solo")
        assert isinstance(fleet.get(failed), ValueError)
        fleet.drained()
        assert (fleet.starts(failed), fleet.rested) == (1, [failed])
        assert f"{failed} failed already; its message rests for 8" in fleet.logs()
        assert [letter.reason["task_id"] for letter in fleet.app.broker.dead_letters("default")] == [failed]


def die_before_settling(fleet: Fleet) -> None:
    """Run one message as far as its record, here, and leave it so."""
    app = fleet.app
    [delivery] = app.broker.receive(["default"], 1, 20.0)
    executor = Executor(
        Environment(
            app=app, backend=app.backend, transport=BrokerTransport(app.broker), clock=app.clock, hostname="dead"
        )
    )
    [run] = executor.prepare([delivery])
    executor.execute(run)
    recording.record(executor.env, [run])
    executor.close()


@pytest.mark.parametrize("pool", ["prefork", "threads"])
@pytest.mark.parametrize("seed", SEEDS)
def test_killed_servers_lose_nothing(redis_executable: str, tmp_path: Path, seed: int, pool: str) -> None:
    """A Redis that writes always is killed at random moments, and workers in between: nothing is lost either."""
    with RedisServer(redis_executable, options=DURABLE) as server, Fleet(tmp_path, server.url) as fleet:
        assert_nothing_lost(fleet, Storm(fleet, seed, TASKS, KILLS, server=server, pool=pool).run(), KILLS)


def assert_nothing_lost(fleet: Fleet, report: Report, kills: int) -> None:
    """Nothing of what a storm counts may have happened."""
    print(f"{report.kills} kills, {report.in_flight} deliveries in flight at them, {report.reruns} re-runs")
    assert report.kills == kills
    assert not report.violations, fleet.logs()
    assert report.reruns <= report.in_flight


def test_a_killed_parent_leaves_no_workers_behind(fleet: Fleet) -> None:
    """Children whose parent was killed finish their runs and end by themselves."""
    worker = fleet.start("prefork", 2)
    ids = [fleet.send("work", number, 1.0) for number in range(2)]
    for task_id in ids:
        fleet.started(task_id)
    children = worker.children()
    assert len(children) == 2
    worker.kill()
    assert [fleet.get(task_id) for task_id in ids] == [0, 1]
    until(lambda: not any(alive(pid) for pid in children), "the end of the children")
    assert [fleet.starts(task_id) for task_id in ids] == [1, 1]


# Hard limits and crashes in the prefork pool


@pytest.mark.parametrize("name", ["regex", "deaf", "blocking_coroutine"])
def test_a_hard_limit_ends_what_nothing_else_can(sqlite_fleet: Fleet, name: str) -> None:
    """Code that holds the GIL, swallows everything or never awaits is killed at its limit, once; others run on."""
    fleet = sqlite_fleet
    fleet.start("prefork", 2)
    stuck = fleet.send(name, *([60.0] if name == "blocking_coroutine" else []), time_limit=1.0)
    fleet.started(stuck)
    neighbours = [fleet.send("work", number) for number in range(20)]
    assert isinstance(fleet.get(stuck), TimeLimitExceeded)
    assert [fleet.get(task_id) for task_id in neighbours] == list(range(20))
    fleet.drained()
    assert fleet.starts(stuck) == 1
    assert [fleet.starts(task_id) for task_id in neighbours] == [1] * 20
    assert fleet.app.broker.dead_letters("default")[0].reason["task_id"] == stuck


def test_a_soft_limit_reaches_a_deaf_task_before_the_hard_one_ends_it(sqlite_fleet: Fleet) -> None:
    """A task that swallows its soft limit goes on until the hard one."""
    fleet = sqlite_fleet
    fleet.start("prefork", 1)
    stuck = fleet.send("deaf", soft_time_limit=0.3, time_limit=1.0)
    assert isinstance(fleet.get(stuck), TimeLimitExceeded)
    assert [line["error"] for line in fleet.effects.read("swallowed", stuck)] == ["SoftTimeLimitExceeded"]


@pytest.mark.parametrize(
    ("name", "arguments"), [("leave", [0]), ("leave", [3]), ("crash", [])], ids=["exit 0", "exit 3", "crash"]
)
def test_a_task_that_kills_its_process_ends_as_a_failure(sqlite_fleet: Fleet, name: str, arguments: list[int]) -> None:
    """It is started max_worker_losses times at most beyond the first, then fails; its neighbours all run."""
    fleet = sqlite_fleet
    fleet.start("prefork", 1, broker_visibility_timeout=1.0, max_worker_losses=2)
    neighbours = [fleet.send("work", number) for number in range(3)]
    deadly = fleet.send(name, *arguments)
    neighbours += [fleet.send("work", number) for number in range(3, 6)]
    assert isinstance(fleet.get(deadly), WorkerLostError), fleet.logs()
    assert [fleet.get(task_id) for task_id in neighbours] == list(range(6))
    fleet.drained()
    # The first delivery costs no record of its start, so it is not counted.
    assert fleet.starts(deadly) == 3
    assert fleet.app.broker.dead_letters("default")[0].reason["task_id"] == deadly


def test_the_first_death_of_a_run_with_a_hard_limit_counts(sqlite_fleet: Fleet) -> None:
    """The parent knows what its child was running, records the loss and hands the message back at once."""
    fleet = sqlite_fleet
    fleet.start("prefork", 1, broker_visibility_timeout=600.0, max_worker_losses=2)
    deadly = fleet.send("crash", time_limit=300.0)
    assert isinstance(fleet.get(deadly), WorkerLostError), fleet.logs()
    fleet.drained()
    assert fleet.starts(deadly) == 2


def test_many_deadly_tasks_do_not_end_the_worker(sqlite_fleet: Fleet) -> None:
    """A queue full of tasks that crash costs children, not the worker."""
    fleet = sqlite_fleet
    worker = fleet.start("prefork", 1, prefetch=1, max_worker_losses=1, broker_visibility_timeout=1.0)
    deadly = [fleet.send("crash") for _ in range(12)]
    healthy = fleet.send("work", "alive")
    assert fleet.get(healthy) == "alive"
    assert all(isinstance(fleet.get(task_id), WorkerLostError) for task_id in deadly)
    assert worker.process.poll() is None


def test_a_dead_child_is_noticed_although_what_it_forked_lives_on(sqlite_fleet: Fleet) -> None:
    """A process that a task leaves behind keeps pipes of its child open; the worker starts another all the same."""
    fleet = sqlite_fleet
    fleet.start("prefork", 1, prefetch=1)
    fleet.started(fleet.send("leave_a_child"))
    alive_id = fleet.send("work", "alive")
    assert fleet.get(alive_id) == "alive"


def test_children_that_cannot_start_end_the_worker(sqlite_fleet: Fleet) -> None:
    """A worker whose children fail at their start gives up with an exit code that says so."""
    worker = sqlite_fleet.start("prefork", 2, broken_start=True)
    assert worker.wait() == 1
    assert "giving up" in worker.log()


# Shutdowns

POOLS = pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio", "solo"])


@POOLS
def test_a_warm_shutdown_finishes_what_runs_and_hands_back_the_rest(fleet: Fleet, pool: str) -> None:
    """On SIGTERM what runs ends well, what waits behind it can be had by others at once; the exit code is 0."""
    concurrency = 1 if pool == "solo" else 2
    slow, quick = [], []
    for number in range(concurrency):
        slow.append(fleet.send("work", number, 2.0))
        quick += [fleet.send("work", number) for number in range(3)]
    first = fleet.start(pool, concurrency, prefetch=4, broker_visibility_timeout=600.0)
    for task_id in slow:
        fleet.started(task_id)
    first.signal(signal.SIGTERM)
    second = fleet.start("solo", broker_visibility_timeout=600.0)
    assert [fleet.get(task_id) for task_id in quick] == [0, 1, 2] * concurrency
    assert first.wait() == 0
    assert [fleet.get(task_id) for task_id in slow] == list(range(concurrency))
    assert {fleet.starts(task_id) for task_id in slow + quick} == {1}
    fleet.drained()
    second.signal(signal.SIGTERM)
    assert second.wait() == 0


@POOLS
def test_a_cold_shutdown_hands_back_what_runs(fleet: Fleet, pool: str) -> None:
    """On SIGQUIT everything in hand can be had by others at once, and the process ends soon; its exit code is 0."""
    concurrency = 1 if pool == "solo" else 2
    ids = [fleet.send("work", number, 4.0) for number in range(concurrency)]
    ids += [fleet.send("nap" if pool == "asyncio" else "work", number, 0.1) for number in range(concurrency, 5)]
    first = fleet.start(pool, concurrency, prefetch=8, broker_visibility_timeout=600.0)
    for task_id in ids[:concurrency]:
        fleet.started(task_id)
    first.signal(signal.SIGQUIT)
    assert first.wait() == 0
    assert fleet.app.broker.counts("default")[:3] == (5, 0, 0)
    assert not fleet.effects.read("end", ids[0])


def test_a_second_signal_makes_a_warm_shutdown_cold(sqlite_fleet: Fleet) -> None:
    """Whoever does not want to wait any longer signals once more."""
    fleet = sqlite_fleet
    task_id = fleet.send("work", 1, 60.0)
    worker = fleet.start("prefork", 1)
    fleet.started(task_id)
    worker.signal(signal.SIGTERM)
    until(lambda: "warm shutdown" in worker.log(), "the warm shutdown")
    time.sleep(0.2)  # two signals within 0.1 s count as one
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert fleet.app.broker.counts("default").ready == 1


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_task_that_swallows_a_cold_shutdown_ends_the_worker(sqlite_fleet: Fleet, pool: str) -> None:
    """A task that catches everything keeps its outcome, and nothing is started after it."""
    fleet = sqlite_fleet
    stubborn = fleet.send("hard_of_hearing", 60.0)
    worker = fleet.start(pool, 1)
    fleet.started(stubborn)
    left = fleet.send("work", 1)
    worker.signal(signal.SIGQUIT)
    assert worker.wait() == 0
    assert fleet.get(stubborn) == "done"
    assert fleet.starts(left) == 0
    assert fleet.app.broker.counts("default")[:3] == (1, 0, 0)


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_busy_coroutine_is_handed_back_by_a_cold_shutdown(sqlite_fleet: Fleet, pool: str) -> None:
    """A cold shutdown that strikes inside a coroutine is no failure of its task."""
    fleet = sqlite_fleet
    task_id = fleet.send("blocking_coroutine", 60.0)
    worker = fleet.start(pool, 1)
    fleet.started(task_id)
    worker.signal(signal.SIGQUIT)
    assert worker.wait() == 0
    assert fleet.app.broker.counts("default")[:3] == (1, 0, 0)
    assert fleet.app.AsyncResult(task_id).state == "PENDING"


def test_a_child_that_ignores_a_cold_shutdown_is_killed(sqlite_fleet: Fleet) -> None:
    """A deaf child does not keep the worker from ending; its message comes again when its lease ends."""
    fleet = sqlite_fleet
    task_id = fleet.send("regex")
    worker = fleet.start("prefork", 1)
    fleet.started(task_id)
    worker.signal(signal.SIGQUIT)
    worker.wait()
    until(lambda: fleet.app.broker.counts("default").ready == 1, "the end of the lease")
