"""The Lambda sandbox does around the real runtime client what the service does."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dispatcher.local import processes
from dispatcher.local.runtime_api import MAX_RESPONSE_BYTES
from dispatcher.local.sandbox import Function, Sandbox

MakeSandbox = Callable[..., Sandbox]


@pytest.fixture
def make_sandbox(tmp_path: Path, lambda_python: str) -> Iterator[MakeSandbox]:
    """Make a sandbox for the source of a module with a function `handler`."""
    made: list[Sandbox] = []

    def make(source: str, **settings: object) -> Sandbox:
        (tmp_path / "app.py").write_text(source)
        function = Function(code=tmp_path, handler="app.handler", python=lambda_python, **settings)  # type: ignore[arg-type]
        made.append(Sandbox(function))
        return made[-1]

    yield make
    for sandbox in made:
        sandbox.close()


def is_gone(pid: int) -> bool:
    """Whether the process has ended; a zombie has."""
    return not processes.command(pid)


def state(pid: int) -> str:
    """The state of the process in one letter; T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_handler_sees_event_and_context(make_sandbox: MakeSandbox) -> None:
    """The handler gets the event and a context with the deadline, the request id and the function's identity."""
    sandbox = make_sandbox(
        "def handler(event, context):\n"
        "    return [event, context.aws_request_id, context.function_name, context.memory_limit_in_mb,\n"
        "            context.invoked_function_arn, context.get_remaining_time_in_millis()]\n",
        timeout=7.0,
        name="orders",
    )
    invocation = sandbox.invoke({"number": 1}, request_id="b6d3b3ae-3e2d-4f5f-8c4f-8f0c5a4b0001")
    assert not invocation.failed
    event, request_id, name, memory, arn, remaining = invocation.json()
    assert event == {"number": 1}
    assert request_id == "b6d3b3ae-3e2d-4f5f-8c4f-8f0c5a4b0001"
    assert (name, memory) == ("orders", "512")
    assert arn == "arn:aws:lambda:us-east-1:000000000000:function:orders"
    assert 0 < remaining <= 7000


def test_environment_is_the_functions_alone(make_sandbox: MakeSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime sees Lambda's variables and the function's, not those of the process that started it."""
    monkeypatch.setenv("SECRET_OF_THE_TESTS", "x")
    sandbox = make_sandbox(
        "import os\ndef handler(event, context): return dict(os.environ)\n", environment={"STAGE": "test"}
    )
    seen = sandbox.invoke({}).json()
    assert seen["STAGE"] == "test"
    assert seen["AWS_LAMBDA_FUNCTION_NAME"] == "function"
    assert "SECRET_OF_THE_TESTS" not in seen


def test_warm_environment_is_reused_after_a_handler_error(make_sandbox: MakeSandbox) -> None:
    """An exception is reported with type, message and trace, and module state lives on in the same process."""
    sandbox = make_sandbox(
        "import os\ncount = 0\n"
        "def handler(event, context):\n"
        "    global count\n    count += 1\n"
        "    if event == 'fail': raise ValueError('boom')\n"
        "    return [count, os.getpid()]\n"
    )
    first = sandbox.invoke("go")
    failure = sandbox.invoke("fail")
    third = sandbox.invoke("go")
    assert first.init_duration is not None
    assert failure.failed
    assert failure.json()["errorType"] == "ValueError"
    assert failure.json()["errorMessage"] == "boom"
    assert failure.json()["stackTrace"]
    assert third.init_duration is None
    assert third.json() == [3, first.json()[1]]


def test_timeout_kills_the_whole_environment(make_sandbox: MakeSandbox, tmp_path: Path) -> None:
    """At the timeout every process dies, those that ignore SIGTERM or have sessions of their own included."""
    sandbox = make_sandbox(
        "import os, signal, subprocess, time\n"
        "def handler(event, context):\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    detached = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        f"    open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{detached.pid}}')\n"
        "    print('still here')\n"
        "    while True:\n        time.sleep(1)\n",
        timeout=1.0,
    )
    invocation = sandbox.invoke({}, request_id="r1")
    assert invocation.json() == {
        "errorType": "Sandbox.Timedout",
        "errorMessage": "RequestId: r1 Error: Task timed out after 1.00 seconds",
    }
    assert "still here" in invocation.log
    assert "Task timed out after 1.00 seconds" in invocation.log
    assert sandbox.pid is None
    assert all(is_gone(int(pid)) for pid in (tmp_path / "pids").read_text().split())


def test_timeout_is_followed_by_a_cold_start(make_sandbox: MakeSandbox) -> None:
    """The invocation after a timeout runs in a new process."""
    sandbox = make_sandbox(
        "import time\ndef handler(event, context):\n    time.sleep(60 if event == 'hang' else 0)\n    return 'fine'\n",
        timeout=1.0,
    )
    assert sandbox.invoke("hang").failed
    after = sandbox.invoke("go")
    assert after.json() == "fine"
    assert after.init_duration is not None


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("sys.exit(3)", "exit status 3"),
        ("os._exit(4)", "exit status 4"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "signal: SIGSEGV"),
    ],
)
def test_dead_runtime_is_an_exit_error(make_sandbox: MakeSandbox, statement: str, reason: str) -> None:
    """A process that ends before it answers is `Runtime.ExitError` with the way it died; the next start is cold."""
    sandbox = make_sandbox(
        f"import os, signal, sys\ndef handler(event, context):\n    if event: {statement}\n    return 'alive'\n"
    )
    invocation = sandbox.invoke(True, request_id="r1")
    assert invocation.failed
    assert invocation.json() == {
        "errorType": "Runtime.ExitError",
        "errorMessage": f"RequestId: r1 Error: Runtime exited with error: {reason}",
    }
    assert sandbox.invoke(False).json() == "alive"


def test_import_error_is_reported_at_every_invocation(make_sandbox: MakeSandbox) -> None:
    """A module that cannot be imported fails the init phase with the runtime's own error."""
    sandbox = make_sandbox("import nowhere_to_be_found\ndef handler(event, context): pass\n")
    for _ in range(2):
        invocation = sandbox.invoke({})
        assert invocation.failed
        assert invocation.json()["errorType"] == "Runtime.ImportModuleError"
        assert "nowhere_to_be_found" in invocation.json()["errorMessage"]


def test_unserialisable_result_is_a_marshal_error(make_sandbox: MakeSandbox) -> None:
    """A result that JSON cannot hold is the runtime's error, not ours."""
    invocation = make_sandbox("def handler(event, context): return {1, 2}\n").invoke({})
    assert invocation.failed
    assert invocation.json()["errorType"] == "Runtime.MarshalError"


def test_response_over_six_megabytes_is_refused(make_sandbox: MakeSandbox) -> None:
    """A larger response fails the invocation; one of exactly the limit passes."""
    sandbox = make_sandbox("def handler(event, context): return 'x' * event\n")
    fitting = sandbox.invoke(MAX_RESPONSE_BYTES - 2)
    assert not fitting.failed
    assert len(fitting.payload) == MAX_RESPONSE_BYTES
    refused = sandbox.invoke(MAX_RESPONSE_BYTES)
    assert refused.failed
    assert refused.json()["errorType"] == "Function.ResponseSizeTooLarge"
    assert sandbox.invoke(1).json() == "x"


@pytest.mark.skipif(not Path("/proc").exists(), reason="memory is read from /proc")
def test_memory_limit_covers_child_processes(make_sandbox: MakeSandbox) -> None:
    """The environment dies as out of memory when all its processes together use more than the function has."""
    sandbox = make_sandbox(
        "import subprocess, sys\n"
        "def handler(event, context):\n"
        "    code = 'import time; kept = bytearray(b\"x\") * (300 << 20); time.sleep(60)'\n"
        "    return subprocess.run([sys.executable, '-c', code]).returncode\n",
        memory_mb=128,
        timeout=30.0,
    )
    invocation = sandbox.invoke({})
    assert invocation.json()["errorType"] == "Runtime.OutOfMemory"
    assert invocation.memory_mb > 128


def test_handler_cannot_forge_the_result_through_stdout(make_sandbox: MakeSandbox) -> None:
    """Whatever a handler writes to its descriptors is log, complete and in order."""
    sandbox = make_sandbox(
        "import os, sys\n"
        "def handler(event, context):\n"
        '    os.write(1, b\'{"status": "ok"}\\n\')\n'
        "    for number in range(1000): print('line', number)\n"
        "    print('end', file=sys.stderr)\n"
        "    return 'real'\n"
    )
    for _ in range(2):
        invocation = sandbox.invoke({})
        assert invocation.json() == "real"
        assert invocation.log.splitlines() == ['{"status": "ok"}', *(f"line {n}" for n in range(1000)), "end"]


@pytest.mark.skipif(not Path("/proc").exists(), reason="process states are read from /proc")
def test_environment_is_frozen_between_invocations(make_sandbox: MakeSandbox) -> None:
    """Background threads and children do not run while no invocation does, and go on with the next one."""
    sandbox = make_sandbox(
        "import subprocess\nchild = subprocess.Popen(['sleep', '60'])\ndef handler(event, context): return child.pid\n"
    )
    child = sandbox.invoke({}).json()
    assert sandbox.pid is not None
    for pid in (sandbox.pid, child):
        while state(pid) != "T":  # a signal takes effect when the process would run next
            time.sleep(0.001)
    assert sandbox.invoke({}).json() == child


def test_close_kills_the_environment(make_sandbox: MakeSandbox) -> None:
    """Nothing of a closed sandbox is left, and it cannot be used again."""
    sandbox = make_sandbox(
        "import os, subprocess\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "def handler(event, context): return [os.getpid(), child.pid]\n"
    )
    pids = sandbox.invoke({}).json()
    sandbox.close()
    assert all(is_gone(pid) for pid in pids)
    with pytest.raises(RuntimeError, match="closed"):
        sandbox.invoke({})


def test_runtime_killed_while_idle_is_replaced(make_sandbox: MakeSandbox) -> None:
    """An environment that died between invocations costs a cold start, not an invocation."""
    sandbox = make_sandbox("import os\ndef handler(event, context): return os.getpid()\n")
    first = sandbox.invoke({}).json()
    os.kill(first, signal.SIGKILL)
    while sandbox.pid is not None:  # the end of the process is noticed by a thread of its own
        time.sleep(0.001)
    second = sandbox.invoke({})
    assert not second.failed
    assert second.json() != first
