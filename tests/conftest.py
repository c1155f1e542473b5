"""Servers for tests, started when the first test asks, and the guard that nothing we started outlives the run."""

import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import hypothesis
import pytest

from dispatcher import state
from dispatcher.local import processes, reaper
from tests.emulation import environments, ports
from tests.emulation.availability import require_executable, unavailable
from tests.emulation.endpoint import AwsEndpoint
from tests.emulation.environments import EnvironmentUnavailable
from tests.emulation.redis_server import RedisServer

# How long an example takes is no property: machines are shared.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

_GRACE_SECONDS = 2.0
_TAG = pytest.StashKey[str]()
_SCRATCH = pytest.StashKey[str]()
_REAPER = pytest.StashKey[Any]()
_LEAKED = pytest.StashKey[list[str]]()

_NEED_ENVIRONMENTS = frozenset({"aws_endpoint", "aws_endpoint_chaos", "aws_iam", "lambda_python", "local_cache"})

# Part of Python's own multiprocessing; they end with the process that owns them.
_ALLOWED = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


@pytest.fixture(scope="session")
def redis_executable() -> str:
    """The installed redis-server, for tests that start servers of their own with `RedisServer`."""
    return require_executable("redis-server", "valkey-server")


@pytest.fixture(scope="session")
def redis_server(redis_executable: str) -> Iterator[RedisServer]:
    """A Redis shared by all tests of the run: use unique names, leave it running."""
    with RedisServer(redis_executable) as server:
        yield server


@pytest.fixture(scope="session")
def lambda_python() -> str:
    """An interpreter that has the Lambda runtime client and what the package needs."""
    try:
        return str(environments.lambda_python())
    except EnvironmentUnavailable as error:
        unavailable(f"no environment for Lambda functions: {error}")


@pytest.fixture(scope="session")
def local_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's cache directory (`XDG_CACHE_HOME`) in which `dispatcher local` finds everything installed."""
    try:
        environments.ministack_python()
        environments.runtime_python()
    except EnvironmentUnavailable as error:
        unavailable(f"no environment for the AWS emulator: {error}")
    cache = tmp_path_factory.mktemp("cache")
    (cache / "dispatcher").symlink_to(environments.directory())
    return cache


@pytest.fixture(scope="session")
def aws_endpoint() -> Iterator[AwsEndpoint]:
    """An AWS-shaped endpoint shared by all tests of the run: use unique names."""
    yield from _endpoint()


@pytest.fixture(scope="session")
def aws_endpoint_chaos() -> Iterator[AwsEndpoint]:
    """The same with duplicates and disorder on standard queues."""
    yield from _endpoint(duplicates=0.3, shuffle=True)


@pytest.fixture(scope="module")
def aws_iam() -> Iterator[AwsEndpoint]:
    """One that enforces IAM, of the module's own."""
    yield from _endpoint(auth=True)


def _endpoint(**options: Any) -> Iterator[AwsEndpoint]:
    try:
        endpoint = AwsEndpoint(**options).start()
    except EnvironmentUnavailable as error:
        unavailable(f"no environment for the AWS emulator: {error}")
    try:
        yield endpoint
    finally:
        endpoint.close()


@pytest.fixture
def aws_env(aws_endpoint: AwsEndpoint, monkeypatch: pytest.MonkeyPatch) -> AwsEndpoint:
    """The shared endpoint, with the environment of this process pointed at it."""
    for name, value in aws_endpoint.env().items():
        monkeypatch.setenv(name, value)
    return aws_endpoint


@pytest.fixture
def free_port() -> int:
    """A port on loopback that nothing listens on."""
    return ports.free_port()


@pytest.fixture(scope="session")
def require_server() -> Callable[[str], NoReturn]:
    """Call it with the reason when a server is missing: skips at home, fails where `CI=true`."""
    return unavailable


def pytest_sessionstart(session: pytest.Session) -> None:
    """Tag what this run starts, and have it killed and its files removed even if this process cannot do so any more."""
    if _only_distributes(session.config):
        return
    tag = f"tests-{uuid.uuid4().hex}"
    session.config.stash[_TAG] = tag
    os.environ[processes.TAG_VARIABLE] = tag
    session.config.stash[_SCRATCH] = scratch = _scratch()
    session.config.stash[_REAPER] = reaper.start(tag, scratch)


def _scratch() -> str:
    """Make the directory of this run's servers, and of whatever else asks for a temporary one; pytest keeps its own."""
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    scratch = tempfile.mkdtemp(prefix="dispatcher-tests-")
    os.environ["TMPDIR"] = tempfile.tempdir = scratch
    return scratch


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make the environments that tests will ask for: the first time takes longer than a test may."""
    if not _only_distributes(session.config) and any(
        _NEED_ENVIRONMENTS.intersection(getattr(item, "fixturenames", ())) for item in session.items
    ):
        try:
            environments.ministack_python()
            environments.lambda_python()
            environments.runtime_python()
        except EnvironmentUnavailable:
            pass  # the fixtures say so, for each test that cannot run


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that leaves processes behind, and kill them."""
    config = session.config
    leaked = config.stash.setdefault(_LEAKED, [])
    if _TAG in config.stash:
        watcher = config.stash[_REAPER]
        watcher.kill()
        watcher.wait()
        leaked += _end_survivors(config.stash[_TAG])
        shutil.rmtree(config.stash[_SCRATCH], ignore_errors=True)
    if hasattr(config, "workeroutput"):
        config.workeroutput["leaked"] = leaked
    elif leaked and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a pytest-xdist worker found."""
    node.config.stash.setdefault(_LEAKED, []).extend(getattr(node, "workeroutput", {}).get("leaked", []))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Name the processes that outlived the tests."""
    leaked = config.stash.get(_LEAKED, [])
    if leaked:
        terminalreporter.section("processes left behind (killed now)", red=True)
        for line in leaked:
            terminalreporter.line(line)


def _only_distributes(config: pytest.Config) -> bool:
    """Whether this is pytest-xdist's controller, whose children are the workers and which starts nothing else."""
    return config.pluginmanager.hasplugin("dsession")


def _end_survivors(tag: str) -> list[str]:
    """Give what still runs a moment to end by itself, kill the rest; the command lines of those."""
    limit = time.monotonic() + _GRACE_SECONDS
    while (survivors := _survivors(tag)) and time.monotonic() < limit:
        time.sleep(0.05)
    processes.kill(survivors)
    return [f"{pid}: {command}" for pid, command in survivors.items()]


def _survivors(tag: str) -> dict[int, str]:
    found = {pid: processes.command(pid) for pid in (*processes.tagged(tag), *processes.descendants(os.getpid()))}
    # Without a command line it is a zombie: it has ended, only its parent does not know yet.
    return {pid: line for pid, line in found.items() if line and not any(name in line for name in _ALLOWED)}


@pytest.fixture(autouse=True)
def _no_client_of_an_earlier_endpoint() -> Iterator[None]:
    """Let no test use a client that an earlier one made: clients remember the endpoint their environment named."""
    yield
    aws = sys.modules.get("dispatcher.aws")
    if aws is not None:
        aws._process.clients.clear()


@pytest.fixture(autouse=True)
def _no_shared_tasks_of_an_earlier_test() -> Iterator[None]:
    """Let no app have tasks that an earlier test shared with all apps."""
    before = list(state._on_app_finalizers)
    yield
    state._on_app_finalizers[:] = before
