"""`dispatcher local` as a developer runs it: the app on an emulated AWS, in processes of its own."""

import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM, Signals

import botocore.session
import pytest

from dispatcher.local import processes
from tests.e2e.commands import WorkerProcess, eventually, run
from tests.emulation.endpoint import AwsEndpoint

APP = """
import time
from dispatcher import Dispatcher

app = Dispatcher("shop", changes={
    "lambda_guard": "none",
    "task_routes": {"shop.stuck": {"queue": "slow"}},
    "infra": {"queues": {"slow": {"timeout": 2}}},
    "beat_schedule": {"tick": {"task": "shop.tick", "schedule": 60.0}},
})

@app.task
def add(x, y):
    return x + y

@app.task
def tick():
    return "ticked"

@app.task
def nap(seconds):
    print(f"napping for {seconds} s")
    time.sleep(seconds)

@app.task
def stuck():
    until = time.monotonic() + 600
    while time.monotonic() < until:
        try:
            time.sleep(600)
        except BaseException:
            pass
"""


LOSE = """
import os, sys, boto3
sys.path.insert(0, os.getcwd())
import shop
sent, send = [], shop.app.broker.send
shop.app.broker.send = sent.extend
result = shop.add.delay(20, 22)
shop.app.broker.send = send
client = boto3.client("sqs")
(lost,) = client.list_queues(QueueNamePrefix="shop-local-default-lost")["QueueUrls"]
client.send_message(QueueUrl=lost, MessageBody=sent[0].body)  # as SQS moves it
print(result.get(timeout=60))
"""


class Local(WorkerProcess):
    """`dispatcher -A shop local` with the emulator on any free port."""

    def __init__(self, directory: Path, cache: Path, *arguments: str, **variables: str) -> None:
        self.directory = directory
        self.scratch = directory / "scratch"
        self.scratch.mkdir(exist_ok=True)
        self.tag = f"{os.environ[processes.TAG_VARIABLE]}/{directory}"
        self.variables = {
            "XDG_CACHE_HOME": str(cache),
            "TMPDIR": str(self.scratch),
            processes.TAG_VARIABLE: self.tag,
            **variables,
        }
        super().__init__(directory, "-A", "shop", "local", *(arguments or ("--port", "0")), variables=self.variables)

    def exports(self) -> dict[str, str]:
        """Wait for the variables of a producer, as they are printed for its shell."""
        self.wait_for("# in the shell of a producer")
        found = {}
        while line := self.wait_for(""):
            name, value = shlex.split(line)[1].split("=", 1)
            found[name] = value
        return found

    def write(self, source: str) -> None:
        """Save the app's module, as an editor does."""
        (self.directory / "shop.py").write_text(source)

    def call(self, exports: dict[str, str], *arguments: str) -> str:
        """Call a task as a producer in another terminal does; its output."""
        done = run(self.directory, "-A", "shop", "call", *arguments, variables={**self.variables, **exports})
        assert done.returncode == 0, done.stderr
        return done.stdout

    def left(self) -> list[str]:
        """Everything that it started and that is still there, files included."""
        found = [command for pid in processes.tagged(self.tag) if (command := processes.command(pid))]
        return [*found, *(path.name for path in self.scratch.iterdir())]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with the app's module."""
    (tmp_path / "shop.py").write_text(APP)
    return tmp_path


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, local_cache: Path) -> Iterator[tuple[Local, dict[str, str]]]:
    """The app, running, and the variables of its producers."""
    directory = tmp_path_factory.mktemp("local")
    (directory / "shop.py").write_text(APP)
    with Local(directory, local_cache) as local:
        yield local, local.exports()


def test_task_runs_in_a_function_and_its_result_is_readable(running: tuple[Local, dict[str, str]]) -> None:
    """What is printed is all that a producer needs, and the function's lines are in the terminal."""
    local, exports = running
    assert local.call(exports, "shop.add", "--args", "[20, 22]", "--wait").splitlines()[0] == "42"
    assert local.wait_for("succeeded").split()[1] == "Default"


def test_records_expire_as_planned(running: tuple[Local, dict[str, str]]) -> None:
    """The table has its time to live, which the emulator's CloudFormation leaves out."""
    _, exports = running
    client = botocore.session.Session().create_client(
        "dynamodb", region_name=exports["AWS_REGION"], endpoint_url=exports["AWS_ENDPOINT_URL"],
        aws_access_key_id="test", aws_secret_access_key="test",
    )  # fmt: skip
    about = client.describe_time_to_live(TableName=exports["DISPATCHER_TABLE"])["TimeToLiveDescription"]
    assert about == {"TimeToLiveStatus": "ENABLED", "AttributeName": "ttl"}


def test_lost_messages_are_decided_on(running: tuple[Local, dict[str, str]], tmp_path: Path) -> None:
    """The second function reads the lost queues: what can still run is sent home."""
    local, exports = running
    script = tmp_path / "lose.py"
    script.write_text(LOSE)
    done = run(local.directory, variables={**local.variables, **exports}, program=(sys.executable, str(script)))
    assert done.stdout.strip() == "42", done.stderr
    assert local.wait_for("sent lost message").split()[1] == "DefaultLost"


def test_timeout_of_the_function_is_enforced(running: tuple[Local, dict[str, str]]) -> None:
    """A task that is deaf to everything is killed with its function when the plan's timeout is over."""
    local, exports = running
    local.call(exports, "shop.stuck")
    assert "Task timed out after 2.00 seconds" in local.wait_for("Sandbox.Timedout")


def test_changed_code_is_run_and_broken_code_waits(running: tuple[Local, dict[str, str]]) -> None:
    """An edit counts from the next task on; a broken one shows its traceback, and messages wait until it is mended."""
    local, exports = running
    local.write(APP.replace("x + y", "x * y"))
    local.wait_for("running the new code")
    assert local.call(exports, "shop.add", "--args", "[20, 22]", "--wait").splitlines()[0] == "440"
    local.write(APP + "\nimport no_such_module\n")
    local.wait_for("ModuleNotFoundError: No module named 'no_such_module'")
    local.wait_for("waiting for a change")
    aws_client = {**local.variables, **exports}
    (local.directory / "send.py").write_text(
        "from dispatcher import Dispatcher\nDispatcher('shop').send_task('shop.add', (20, 2), task_id='waits')\n"
    )
    local.wait_for("changed: send.py")
    sent = run(local.directory, "send.py", variables=aws_client, program=(sys.executable,))
    assert sent.returncode == 0, sent.stderr
    local.wait_for("waiting for a change")
    local.write(APP.replace("x + y", "x - y"))
    local.wait_for("Task shop.add[waits] succeeded")


def test_new_queue_and_lost_one_follow_the_code(running: tuple[Local, dict[str, str]]) -> None:
    """A queue that a change adds is made and read, with the variables told before; one taken away is not any more."""
    local, exports = running
    local.write(APP + "\n@app.task(queue='mail')\ndef send(to):\n    return f'mail to {to}'\n")
    local.wait_for("function Mail: ")
    assert "mail to ops" in local.call(exports, "shop.send", "--args", '["ops"]', "--wait")
    local.write(APP)
    local.wait_for("no more: function Mail: ")


def test_rules_fire(running: tuple[Local, dict[str, str]]) -> None:
    """An entry of the beat is fired by EventBridge and run by a function."""
    local, _ = running
    assert any("schedule tick: " in line for line in local.log)
    if not any("ticked" in line for line in local.log):  # while the other tests ran
        local.wait_for("ticked")


@pytest.mark.parametrize("number", [SIGINT, SIGTERM, SIGHUP, SIGKILL])
def test_nothing_is_left_behind(directory: Path, local_cache: Path, number: Signals) -> None:
    """Whatever ends it, a task that runs included: no process, no port, no file is left."""
    with Local(directory, local_cache) as local:
        exports = local.exports()
        local.call(exports, "shop.nap", "--args", "[600]")
        local.wait_for("napping for 600 s")
        assert local.left()
        local.signal(number)
        local.wait()
        eventually(lambda: not local.left(), f"nothing left of {local.left()}")
        port = int(exports["AWS_ENDPOINT_URL"].rpartition(":")[2])
        socket.create_server(("127.0.0.1", port)).close()


def test_command_runs_beside_it(directory: Path, local_cache: Path) -> None:
    """A command has the producer's environment, whatever the code names, and its exit code is that of the whole."""
    code = APP.replace(
        '"lambda_guard"', '"broker_url": "redis://nowhere", "result_backend": "redis://nowhere", "lambda_guard"'
    )
    (directory / "shop.py").write_text(code)
    (directory / "send.py").write_text("import shop, sys\nsys.exit(shop.add.delay(40, 2).get(timeout=60))\n")
    with Local(directory, local_cache, "--port", "0", "--", sys.executable, "send.py") as local:
        assert local.wait() == 42
    assert not any(line.startswith("export") for line in local.log)


@pytest.mark.parametrize(("source", "error"), [("1 / 0\n", "ZeroDivisionError"), ("def f(:\n", "SyntaxError")])
def test_broken_app_ends_the_run_of_a_command(directory: Path, local_cache: Path, source: str, error: str) -> None:
    """Where nobody is there to mend the app, its traceback is the error."""
    (directory / "shop.py").write_text(source)
    with Local(directory, local_cache, "--port", "0", "--", "true") as local:
        assert local.wait() == 1
    assert any(error in line for line in local.log)
    assert not any("/dispatcher/" in line or "importlib" in line for line in local.log)  # the user's frames only


def test_given_endpoint_is_used_and_left_running(directory: Path, local_cache: Path, aws_endpoint: AwsEndpoint) -> None:
    """`AWS_ENDPOINT_URL` names the endpoint; nothing is started in its place."""
    (directory / "send.py").write_text("import shop, sys\nsys.exit(shop.add.delay(40, 2).get(timeout=60))\n")
    name = f"shop{time.time_ns()}"
    (directory / "shop.py").write_text(APP.replace('"infra": {', f'"infra": {{"name": "{name}", '))
    with Local(directory, local_cache, "--", sys.executable, "send.py", AWS_ENDPOINT_URL=aws_endpoint.url) as local:
        assert local.wait() == 42, local.log
    assert name in str(aws_endpoint.client("sqs").list_queues(QueueNamePrefix=name)["QueueUrls"])


def test_port_that_is_taken_is_an_error_with_a_way_out(directory: Path, local_cache: Path) -> None:
    """The error names the port and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(directory, "-A", "shop", "local", "--port", port, variables={"XDG_CACHE_HOME": str(local_cache)})
    assert done.returncode == 2
    assert f"port {port} is taken" in done.stderr
    assert "--port 0" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        (["--endpoint", "https://sqs.eu-west-1.amazonaws.com"], {}, "which is AWS itself"),
        (["--endpoint", "nonsense"], {}, "must be an address such as"),
        (["--endpoint", "http://127.0.0.1:9"], {}, "where nothing answers"),
        ([], {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "unset AWS_ENDPOINT_URL"),
        (["--endpoint", "http://127.0.0.1:9", "--port", "0"], {}, "give one"),
        (["--env", "NO_SUCH_VARIABLE"], {}, "--env NO_SUCH_VARIABLE=value"),
    ],
)
def test_what_cannot_work_is_refused(
    directory: Path, local_cache: Path, arguments: list[str], variables: dict[str, str], words: str
) -> None:
    """One line that says what is wrong and what to do."""
    variables = {"XDG_CACHE_HOME": str(local_cache), **variables}
    done = run(directory, "-A", "shop", "local", *arguments, variables=variables)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_missing_app_is_an_error_at_once(directory: Path, local_cache: Path) -> None:
    """Nobody waits for an app that does not exist."""
    variables = {"XDG_CACHE_HOME": str(local_cache)}
    done = run(directory, "-A", "nowhere", "local", "--port", "0", variables=variables)
    assert done.returncode == 2
    assert "there is no module 'nowhere'" in done.stderr


def test_missing_emulator_is_named_where_it_may_not_be_installed(directory: Path, tmp_path: Path) -> None:
    """Offline, or where nothing may be installed, the error says what is missing and how to get it."""
    variables = {"XDG_CACHE_HOME": str(tmp_path / "empty")}
    done = run(directory, "-A", "shop", "local", "--no-install", variables=variables)
    assert done.returncode == 1
    assert "is not installed" in done.stderr
    assert "without --no-install" in done.stderr
    variables |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    offline = run(directory, "-A", "shop", "local", variables=variables)
    assert offline.returncode == 1
    assert "No matching distribution found" in offline.stderr


def test_functions_see_their_own_variables_only(directory: Path, local_cache: Path) -> None:
    """The shell's variables are not the function's, unless they are handed on by name."""
    (directory / "shop.py").write_text(
        APP + "\n@app.task\ndef seen():\n    import os\n    return [os.environ.get(n) for n in ('A', 'B', 'C')]\n"
    )
    (directory / "send.py").write_text("import shop\nprint('seen', shop.seen.delay().get(timeout=60))\n")
    arguments = ("--port", "0", "-e", "B", "-e", "C=three", "--", sys.executable, "send.py")
    with Local(directory, local_cache, *arguments, A="one", B="two") as local:
        local.wait()
    assert "seen [None, 'two', 'three']" in local.log
