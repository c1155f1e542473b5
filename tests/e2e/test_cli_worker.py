"""`dispatcher worker` as a process: shutdowns, children that end, limits, options, logs."""

import json
import os
import signal
from pathlib import Path

import pytest

from dispatcher.local import processes
from tests.e2e import commands
from tests.e2e.commands import WorkerProcess, run
from tests.emulation.endpoint import unique_name
from tests.emulation.redis_server import RedisServer

APP = """
import asyncio, logging, os, time
from pathlib import Path

from dispatcher import Dispatcher, signals
from dispatcher.utils.log import get_task_logger

app = Dispatcher("work", broker="sqlite:///work.db", broker_visibility_timeout=2)
logger = get_task_logger(__name__)

@app.task
def add(x, y):
    logger.info("adding")
    return x + y

@app.task
def until(path):
    logger.info("begun in %s", os.getpid())
    while not Path(path).exists():
        time.sleep(0.01)
    return "seen"

@app.task
async def wait_until(path):
    logger.info("begun in %s", os.getpid())
    while not Path(path).exists():
        await asyncio.sleep(0.01)
    return "seen"

@app.task
def pid():
    return os.getpid()

@app.task
def kept_out_of_collections():
    import gc
    return gc.get_freeze_count()

@app.task
def grow(mib):
    globals()["kept"] = bytearray(mib * 1024 * 1024)
    return os.getpid()

@app.task
def fail():
    raise ValueError("no such order")
"""
LIMITED = """
from work import app
from dispatcher.exceptions import SoftTimeLimitExceeded

@app.task(name="deaf", time_limit=0.3)
def deaf():
    while True:
        pass

@app.task(name="tidy", soft_time_limit=0.2, time_limit=30)
def tidy():
    try:
        while True:
            pass
    except SoftTimeLimitExceeded:
        return "tidied up"
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with the app `work`, and `limited` with tasks that have limits."""
    (tmp_path / "work.py").write_text(APP)
    (tmp_path / "limited.py").write_text(LIMITED)
    return tmp_path


def _send(directory: Path, name: str, *arguments: object, **variables: str) -> str:
    done = run(
        directory, "-A", "work", "call", name, "-a", json.dumps(arguments), "--unregistered", variables=variables
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _result(directory: Path, task_id: str, **variables: str) -> object:
    done = run(directory, "-A", "work", "result", task_id, "--wait", "--timeout", "40", "--json", variables=variables)
    found = json.loads(done.stdout)
    return found["result"] if found["state"] == "SUCCESS" else (found["state"], found["error"])


# -- shutdown


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads", "asyncio"])
def test_warm_shutdown_finishes_what_runs(directory: Path, pool: str) -> None:
    """SIGTERM lets the running task end; the exit code is 0."""
    task_id = _send(directory, "work.wait_until" if pool == "asyncio" else "work.until", "go")
    with WorkerProcess(directory, "-A", "work", "worker", "-P", pool, "-c", "1") as worker:
        worker.wait_for("begun in")
        worker.signal(signal.SIGTERM)
        worker.wait_for("SIGTERM: warm shutdown")
        (directory / "go").touch()
        assert worker.wait() == 0
    assert any("succeeded" in line for line in worker.log)
    assert _result(directory, task_id) == "seen"


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads", "asyncio"])
def test_cold_shutdown_hands_back(directory: Path, pool: str) -> None:
    """SIGQUIT ends the worker at once; its task is ready for the next worker, which finishes it."""
    task_id = _send(directory, "work.wait_until" if pool == "asyncio" else "work.until", "go")
    arguments = ("-A", "work", "worker", "-P", pool, "-c", "1")
    with WorkerProcess(directory, *arguments) as worker:
        worker.wait_for("begun in")
        worker.signal(signal.SIGQUIT)
        assert worker.wait() == 0
    (directory / "go").touch()
    with WorkerProcess(directory, *arguments) as worker:
        worker.wait_for("succeeded")
        assert _result(directory, task_id) == "seen"
        assert worker.stop() == 0


def test_second_signal_is_cold(directory: Path) -> None:
    """A second SIGINT, some time after the first, does not wait any more."""
    _send(directory, "work.until", "never")
    with WorkerProcess(directory, "-A", "work", "worker", "-c", "1") as worker:
        worker.wait_for("begun in")
        worker.signal(signal.SIGINT)
        worker.wait_for("warm shutdown")
        waiting = run(directory, "-A", "work", "status", "--json")  # takes longer than two signals that are one
        assert json.loads(waiting.stdout)["queues"][0]["in_flight"] == 1
        worker.signal(signal.SIGINT)
        worker.wait_for("cold shutdown")
        assert worker.wait() == 0


def test_ctrl_c_in_a_terminal_is_warm(directory: Path) -> None:
    """A terminal signals the whole group, children included: they finish their task all the same."""
    task_id = _send(directory, "work.until", "go")
    with WorkerProcess(directory, "-A", "work", "worker", "-c", "2") as worker:
        worker.wait_for("begun in")
        worker.signal_group(signal.SIGINT)
        worker.wait_for("warm shutdown")
        (directory / "go").touch()
        assert worker.wait() == 0
    assert _result(directory, task_id) == "seen"


def test_signals_to_process_and_group_at_once_are_one(directory: Path) -> None:
    """A supervisor that signals the process and its group means one shutdown, a warm one."""
    task_id = _send(directory, "work.until", "go")
    with WorkerProcess(directory, "-A", "work", "worker", "-c", "1") as worker:
        worker.wait_for("begun in")
        worker.signal(signal.SIGTERM)
        worker.signal_group(signal.SIGTERM)
        worker.wait_for("warm shutdown")
        (directory / "go").touch()
        assert worker.wait() == 0
    assert not any(": cold shutdown, " in line for line in worker.log)
    assert _result(directory, task_id) == "seen"


# -- children


def test_killed_child_is_replaced_and_its_task_runs_again(directory: Path) -> None:
    """After kill -9 of a child its lease runs out, and another child runs the task."""
    task_id = _send(directory, "work.until", "go")
    with WorkerProcess(directory, "-A", "work", "worker", "-c", "1") as worker:
        child = int(worker.wait_for("begun in").rpartition(" ")[2])
        os.kill(child, signal.SIGKILL)
        worker.wait_for("starting another")
        again = int(worker.wait_for("begun in").rpartition(" ")[2])
        assert again != child
        (directory / "go").touch()
        assert _result(directory, task_id) == "seen"
        assert worker.stop() == 0


def test_children_end_with_a_killed_worker(directory: Path) -> None:
    """After kill -9 of the worker its children do not go on for ever."""
    with WorkerProcess(directory, "-A", "work", "worker", "-c", "2") as worker:
        worker.ready()
        commands.eventually(lambda: len(processes.descendants(worker.process.pid)) == 2, "two children")
        children = processes.descendants(worker.process.pid)
        worker.process.kill()
        commands.eventually(lambda: not any(processes.command(pid) for pid in children), "the children ended")


def test_child_is_replaced_after_its_tasks(directory: Path) -> None:
    """--max-tasks-per-child counts runs, not fetches."""
    with WorkerProcess(directory, "-A", "work", "worker", "-c", "1", "--max-tasks-per-child", "2") as worker:
        worker.ready()
        pids = [_result(directory, _send(directory, "work.pid")) for _ in range(4)]
        assert pids[0] == pids[1] != pids[2] == pids[3]
        assert worker.stop() == 0


def test_child_is_replaced_when_it_has_grown(directory: Path) -> None:
    """--max-memory-per-child replaces a child after the task that made it too large."""
    with WorkerProcess(directory, "-A", "work", "worker", "-c", "1", "--max-memory-per-child", "100000") as worker:
        worker.ready()
        pids = [_result(directory, _send(directory, "work.grow", mib)) for mib in (1, 150, 1)]
        assert pids[0] == pids[1] != pids[2]
        assert worker.stop() == 0


def test_children_share_what_the_worker_has_imported(directory: Path) -> None:
    """A child's garbage collector leaves alone what was there before the fork: looking at it would copy it."""
    with WorkerProcess(directory, "-A", "work", "worker", "-c", "1") as worker:
        kept = _result(directory, _send(directory, "work.kept_out_of_collections"))
        assert isinstance(kept, int)
        assert kept > 10_000
        assert worker.stop() == 0


# -- limits


def test_limits_of_tasks(directory: Path) -> None:
    """The soft limit lets a task clean up; the hard one fails it, and its child is replaced."""
    with WorkerProcess(directory, "-A", "work", "worker", "-c", "1", "--include", "limited") as worker:
        worker.ready()
        assert _result(directory, _send(directory, "tidy")) == "tidied up"
        assert _result(directory, _send(directory, "deaf")) == (
            "FAILURE",
            {"type": "TimeLimitExceeded", "message": "TimeLimitExceeded(0.3,)"},
        )
        assert _result(directory, _send(directory, "work.add", 1, 2)) == 3
        assert worker.stop() == 0
        assert not any("ended unexpectedly" in line for line in worker.log)


def test_limits_of_the_command_line(directory: Path) -> None:
    """--time-limit is the limit of tasks that have none."""
    with WorkerProcess(directory, "-A", "work", "worker", "-c", "1", "--time-limit", "0.3") as worker:
        worker.ready()
        assert _result(directory, _send(directory, "work.until", "never")) == (
            "FAILURE",
            {"type": "TimeLimitExceeded", "message": "TimeLimitExceeded(0.3,)"},
        )
        assert worker.stop() == 0


def test_unkept_limits_stop_the_start_unless_allowed(directory: Path) -> None:
    """A pool that cannot keep a limit refuses to start, naming task, reason and way out; the opt-out only warns."""
    arguments = ("-A", "work", "worker", "-P", "threads", "--include", "limited")
    refused = run(directory, *arguments)
    assert refused.returncode == 2
    assert "deaf: time_limit=0.3" in refused.stderr
    assert "--allow-unkept-limits" in refused.stderr
    with WorkerProcess(directory, *arguments, "--allow-unkept-limits") as worker:
        worker.wait_for("deaf: time_limit=0.3")
        assert worker.ready().stop() == 0


# -- options


def test_options_by_environment(directory: Path) -> None:
    """Every option can come from the environment."""
    variables = {
        "DISPATCHER_APP": "work",
        "DISPATCHER_WORKER_POOL": "threads",
        "DISPATCHER_WORKER_CONCURRENCY": "3",
        "DISPATCHER_WORKER_QUEUES": "orders,mail",
        "DISPATCHER_WORKER_HOSTNAME": "shop@box",
        "DISPATCHER_WORKER_LOG_FILE": "%n.log",
        "DISPATCHER_WORKER_LOG_FORMAT": "json",
        "DISPATCHER_WORKER_LOG_LEVEL": "DEBUG",
    }
    log = directory / "shop.log"
    with WorkerProcess(directory, "worker", variables=variables) as worker:
        commands.eventually(lambda: log.exists() and "ready" in log.read_text(), "the log file is written")
        assert worker.stop() == 0
    assert worker.log == []
    [line] = [json.loads(line) for line in log.read_text().splitlines() if " ready: " in line]
    assert "shop@box ready: threads ×3" in line["message"]
    assert "queues orders, mail" in line["message"]


def test_command_line_wins_over_the_environment(directory: Path) -> None:
    """An option on the command line counts, not the variable."""
    variables = {"DISPATCHER_WORKER_POOL": "prefork", "DISPATCHER_WORKER_CONCURRENCY": "7"}
    arguments = ("-A", "work", "worker", "-P", "threads", "-c", "2", "-Q", "a,b,c", "-X", "b", "-n", "one@%n")
    with WorkerProcess(directory, *arguments, variables=variables) as worker:
        line = worker.wait_for(" ready: ")
        assert worker.stop() == 0
    assert "threads ×2" in line
    assert "queues a, c," in line
    assert "one@" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-P", "gevent"), "this pool is not available in this release; use asyncio or threads"),
        (("-P", "eventlet"), "this pool is not available in this release"),
        (("-P", "solo", "-c", "2"), "the solo pool runs one task at a time"),
        (("-P", "threads", "--max-tasks-per-child", "2"), "has no child processes to replace"),
        (("-P", "solo", "--max-memory-per-child", "2"), "has no child processes to replace"),
        (("-I", "no_such"), "a module of the app cannot be imported: ModuleNotFoundError: No module named 'no_such'"),
        (("-f", "no/such/file"), "worker_log_file (--logfile) cannot be 'no/such/file': No such file or directory"),
        (("-X", "nowhere"), "would not read anyway"),
        (("-X", "default"), "leaves no queue"),
        (("-n", "a@%z"), "contains %z"),
        (("--log-format", "xml"), "worker_log_format"),
        (("--autoscale", "10,3"), "--autoscale cannot work here"),
        (("--schedule", "x"), "the beat keeps its state in the result backend"),
        (("--scheduler", "x"), "entries are those of beat_schedule"),
        (("--purge",), "--purge cannot work here: run `dispatcher -A … purge`"),
        (("--detach",), "--detach cannot work here"),
        (("--pidfile", "x.pid"), "--pidfile cannot work here"),
        (("--disable-prefetch",), "--prefetch-multiplier 1"),
    ],
)
def test_options_that_cannot_work_stop_the_start(directory: Path, arguments: tuple[str, ...], message: str) -> None:
    """Each is refused with the reason, before anything is run."""
    done = run(directory, "-A", "work", "worker", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_memory_broker_needs_one_process(directory: Path) -> None:
    """The prefork pool refuses a broker that its children cannot share."""
    done = run(directory, "-A", "work", "-b", "memory://", "worker")
    assert done.returncode == 2
    assert "only one process sees" in done.stderr


def test_options_of_celery_without_effect_warn(directory: Path) -> None:
    """Options that change nothing here are accepted with a line each."""
    arguments = ("--without-gossip", "--without-mingle", "--without-heartbeat", "-E", "-O", "fair")
    with WorkerProcess(directory, "-A", "work", "worker", "-c", "1", *arguments) as worker:
        assert worker.ready().stop() == 0
    warnings = [line for line in worker.log if line.startswith("warning: ")]
    assert len(warnings) == 5
    assert all("has no effect: " in line for line in warnings)


# -- what it says


def test_banner(directory: Path) -> None:
    """The banner names app, broker, backend, pool, queues and tasks, without credentials."""
    arguments = ("-A", "work:app", "-b", "redis://:hunter2@127.0.0.1:1/0", "worker", "-c", "1")
    with WorkerProcess(directory, *arguments) as worker:
        worker.ready()
    text = "\n".join(worker.log)
    assert "hunter2" not in text
    for part in ("app      work (work:app)", "redis://:********@127.0.0.1:1/0", "pool     prefork × 1", "  . work.add"):
        assert part in text


def test_human_log_names_the_task(directory: Path) -> None:
    """Lines that a task logs carry its name and id, once."""
    task_id = _send(directory, "work.add", 1, 2)
    with WorkerProcess(directory, "-A", "work", "worker", "-c", "1") as worker:
        line = worker.wait_for("adding")
        outcome = worker.wait_for("succeeded")
        worker.stop()
    assert line.endswith(f"] work.add[{task_id}]: adding")
    assert outcome.count(task_id) == 1


def test_json_log(directory: Path) -> None:
    """Every line is a JSON object; those of a task carry its fields, the last one outcome and duration."""
    task_id = _send(directory, "work.add", 1, 2)
    failed = _send(directory, "work.fail")
    with WorkerProcess(directory, "-A", "work", "worker", "-c", "1", "--log-format", "json") as worker:
        _result(directory, failed)
        _result(directory, task_id)
        worker.stop()
    lines = [json.loads(line) for line in worker.log]
    mine = [line for line in lines if line.get("task_id") == task_id]
    assert [line["message"].partition(" ")[0] for line in mine] == ["adding", "Task"]
    assert {line["task"] for line in mine} == {"work.add"}
    assert {line["queue"] for line in mine} == {"default"}
    assert mine[1]["outcome"] == "success"
    assert mine[1]["duration"] >= 0
    [failure] = [line for line in lines if line.get("outcome") == "failure"]
    assert "ValueError: no such order" in failure["message"]


def test_worker_reconnects_when_redis_restarts(directory: Path, redis_executable: str) -> None:
    """A worker that loses Redis says so, waits, and runs what is sent once it is back."""
    with RedisServer(redis_executable, options={"appendonly": "yes"}) as server:
        variables = {"DISPATCHER_BROKER_URL": server.url, "DISPATCHER_TASK_DEFAULT_QUEUE": unique_name("q")}
        with WorkerProcess(directory, "-A", "work", "worker", "-c", "1", variables=variables) as worker:
            worker.ready()
            assert _result(directory, _send(directory, "work.add", 1, 2, **variables), **variables) == 3
            server.stop()
            worker.wait_for("out of reach, trying again")
            server.start()
            assert _result(directory, _send(directory, "work.add", 3, 4, **variables), **variables) == 7
            assert worker.stop() == 0
