"""Nothing that a test run starts outlives it unnoticed."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from dispatcher.local import processes, reaper
from tests.emulation import environments
from tests.emulation.endpoint import AwsEndpoint

pytestmark = pytest.mark.skipif(not Path("/proc").exists(), reason="processes are recognised by /proc")

LEAKING_TEST = """
import subprocess, sys
from pathlib import Path

def test_leaves_a_process():
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    Path({file!r}).write_text(str(process.pid))
    process.returncode = 0  # nobody complains about the abandoned object
"""


def run_pytest(test: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a test file with the plugin that this suite's conftest is."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-q", *arguments, str(test)]
    return subprocess.run(command, cwd=environments.ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_leaked_process_fails_the_run_and_is_killed(tmp_path: Path, workers: str) -> None:
    """A run whose tests pass but leave a process fails and names it, under pytest-xdist too."""
    (tmp_path / "test_leak.py").write_text(LEAKING_TEST.format(file=str(tmp_path / "pid")))
    ended = run_pytest(tmp_path / "test_leak.py", "-n", workers)
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout + ended.stderr
    assert "1 passed" in ended.stdout
    assert "sleep 60" in ended.stdout
    assert not processes.command(int((tmp_path / "pid").read_text()))


def test_tidy_run_passes(tmp_path: Path) -> None:
    """A run that leaves nothing is not disturbed."""
    (tmp_path / "test_tidy.py").write_text("import subprocess\ndef test_it(): subprocess.run(['true'], check=True)\n")
    ended = run_pytest(tmp_path / "test_tidy.py")
    assert ended.returncode == pytest.ExitCode.OK, ended.stdout + ended.stderr


def test_reaper_kills_what_a_killed_process_left() -> None:
    """When the owner is killed, everything that carries its tag dies, in whatever session it is."""
    tag = f"reaped-{uuid.uuid4().hex}"
    script = (
        "import os, subprocess, sys, time\n"
        "from dispatcher.local import processes, reaper\n"
        "reaper.start(sys.argv[1])\n"
        "os.environ[processes.TAG_VARIABLE] = sys.argv[1]\n"
        "child = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tag], cwd=environments.ROOT, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        child = int(owner.stdout.readline())
        assert processes.tagged(tag) == [child]
        os.kill(owner.pid, signal.SIGKILL)
    while processes.command(child):
        time.sleep(0.01)


SERVING_TEST = """
import os, signal
from pathlib import Path

def test_serves(redis_server, aws_endpoint):
    Path({file!r}).write_text(f"{{redis_server.pid}} {{aws_endpoint.pid}} {{redis_server.socket_path.parent}}")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_is_left_of_servers_when_a_run_is_killed(
    tmp_path: Path, redis_executable: str, aws_endpoint: AwsEndpoint
) -> None:
    """The servers of a run that is killed are killed with it, and their files removed."""
    assert redis_executable  # without either server there is nothing to leave
    assert aws_endpoint.pid
    (tmp_path / "test_serve.py").write_text(SERVING_TEST.format(file=str(tmp_path / "servers")))
    ended = run_pytest(tmp_path / "test_serve.py")
    assert ended.returncode == -signal.SIGKILL, ended.stdout + ended.stderr
    redis, emulator, directory = (tmp_path / "servers").read_text().split()
    while processes.command(int(redis)) or processes.command(int(emulator)) or Path(directory).parent.exists():
        time.sleep(0.01)


def test_descendants_are_found_through_generations() -> None:
    """A grandchild belongs to us as much as a child does."""
    with subprocess.Popen(["sh", "-c", "sleep 60 & wait"], start_new_session=True) as shell:
        while len(found := processes.descendants(shell.pid)) != 1:
            time.sleep(0.001)
        assert found[0] in processes.descendants(os.getpid())
        processes.kill_tree(shell)
        while processes.command(found[0]):  # a signal takes effect a moment later
            time.sleep(0.001)


def test_reaper_module_can_be_started_and_ended() -> None:
    """A reaper does nothing while its owner lives."""
    watcher = reaper.start(f"none-{uuid.uuid4().hex}")
    assert watcher.poll() is None
    watcher.kill()
    watcher.wait()
