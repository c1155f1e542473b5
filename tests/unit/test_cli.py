"""The command line in one process: commands, their output, their errors and exit codes."""

import importlib.metadata
import io
import json
import os
import subprocess
import sys
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from dispatcher.cli import absent, main
from dispatcher.cli.root import cli as root

APP = """
import datetime
from decimal import Decimal

from dispatcher import Dispatcher
from dispatcher.exceptions import Ignore

app = Dispatcher("clitest", broker="sqlite:///{directory}/queue.db", set_as_current=False)

@app.task
def add(x, y):
    return x + y

@app.task(queue="mail", max_retries=None, time_limit=30.0, throws=(KeyError,))
def mail(to):
    return to

@app.task(bind=True)
def hold(self):
    self.update_state(state="ON_HOLD", meta={{"order": 44}})
    raise Ignore

@app.task
def typed():
    return {{"at": datetime.date(2030, 1, 31), "price": Decimal("9.90"), "raw": b"x"}}
"""


class Said(NamedTuple):
    """What a command line printed and returned."""

    code: int
    out: str
    err: str


class Cli:
    """Runs command lines in a directory with an app in the module `name`."""

    def __init__(self, directory: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory, self.name, self._capsys = directory, name, capsys

    def __call__(self, *arguments: str) -> Said:
        """Run a command line for the app."""
        return self.bare("-A", self.name, *arguments)

    def bare(self, *arguments: str) -> Said:
        """Run a command line without an app."""
        self._capsys.readouterr()
        code = main(arguments)
        return Said(code, *self._capsys.readouterr())

    def module(self, source: str) -> str:
        """Write another module and return its name."""
        name = f"clitest_{uuid.uuid4().hex}"
        (self.directory / f"{name}.py").write_text(source)
        return name


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    """A command line in a directory of its own, with an app of three tasks on SQLite."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    for name in [name for name in os.environ if name.startswith("DISPATCHER_") and "_TEST_" not in name]:
        monkeypatch.delenv(name)
    made = Cli(tmp_path, "", capsys)
    made.name = made.module(APP.format(directory=tmp_path))
    yield made
    for name in [name for name in sys.modules if name.startswith("clitest_")]:
        del sys.modules[name]


def _run_waiting_tasks(cli: Cli) -> None:
    """Run what waits on the queue, as a worker would, until nothing is left."""
    from dispatcher.consumer.loop import ConsumerLoop
    from dispatcher.execution.limits import NoLimits

    app = sys.modules[cli.name].app
    app.finalize()
    loop = ConsumerLoop(app, ["default", "mail"], NoLimits(), hostname="test", on_runs=lambda runs: loop.stop())
    loop.run()
    app.close()


# -- the command itself


def test_version(cli: Cli) -> None:
    """`--version` prints the version of the distribution."""
    assert cli.bare("--version").out == f"dispatcher {importlib.metadata.version('serverless-dispatcher')}\n"


def test_every_command_has_help_with_examples(cli: Cli) -> None:
    """`-h` works everywhere, and tells more than the options' names."""
    for name in (None, *root.commands):
        said = cli.bare(*([name] if name else []), "-h")
        assert said.code == 0
        assert "Usage: dispatcher" in said.out
        if name not in ("report", "shell"):
            assert "Examples:" in said.out, name


def test_every_option_has_help() -> None:
    """No visible option of any command is left unexplained."""
    silent = [
        f"{name} {option.opts}"
        for name, command in {"": root, **root.commands}.items()
        for option in command.params
        if option.param_type_name == "option"
        and not getattr(option, "hidden", False)
        and not getattr(option, "help", "")
    ]
    assert silent == []


def test_missing_app_is_named(cli: Cli) -> None:
    """A command that needs an app says how to name one."""
    said = cli.bare("worker")
    assert said.code == 2
    assert "-A module:attribute" in said.err
    assert "DISPATCHER_APP" in said.err


def test_app_from_the_environment(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """DISPATCHER_APP takes the place of -A."""
    monkeypatch.setenv("DISPATCHER_APP", cli.name)
    assert f"{cli.name}.add" in cli.bare("list", "tasks").out


def test_module_that_is_not_there(cli: Cli) -> None:
    """A misspelt module is an error line that names it."""
    said = cli.bare("-A", "no_such_module", "status")
    assert said.code == 2
    assert "there is no module 'no_such_module'" in said.err
    assert "Traceback" not in said.err


def test_import_error_inside_the_app_shows_its_cause(cli: Cli) -> None:
    """An import that fails inside the user's module is told apart from a missing module, with file and line."""
    name = cli.module("x = 1\nimport no_such_library\n")
    said = cli.bare("-A", name, "status")
    assert said.code == 2
    assert "No module named 'no_such_library'" in said.err
    assert f"{name}.py, line 2" in said.err
    assert "Traceback" not in said.err


def test_debug_shows_the_traceback(cli: Cli) -> None:
    """With --debug the exception itself comes out."""
    name = cli.module("1 / 0\n")
    said = cli.bare("-A", name, "status")
    assert said.code == 1
    assert "ZeroDivisionError: division by zero" in said.err
    sys.modules.pop(name, None)
    with pytest.raises(Exception, match="division by zero"):
        main(["--debug", "-A", name, "status"])


def test_global_option_after_the_command(cli: Cli) -> None:
    """The commonest mistake of Celery's users is answered with the right order."""
    said = cli.bare("worker", "-A", cli.name)
    assert said.code == 2
    assert "-A belongs before the command: dispatcher -A … worker" in said.err


def test_misspelt_option_is_an_error_with_the_nearest(cli: Cli) -> None:
    """An option that does not exist is never ignored."""
    said = cli("worker", "--concurency", "2")
    assert said.code == 2
    assert "--concurrency" in said.err


@pytest.mark.parametrize("name", sorted(absent.COMMANDS))
def test_absent_commands_say_so(cli: Cli, name: str) -> None:
    """Celery's other commands are named as unavailable, with a way out."""
    said = cli.bare(name, "anything", "--here")
    assert said.code == 2
    assert f"`dispatcher {name}` is not available in this release: " in said.err


def test_workdir(cli: Cli, tmp_path: Path) -> None:
    """--workdir is where modules are looked for."""
    inner = tmp_path / "inner"
    inner.mkdir()
    name = f"clitest_{uuid.uuid4().hex}"
    (inner / f"{name}.py").write_text(
        "from dispatcher import Dispatcher\napp = Dispatcher('w', set_as_current=False)\n"
    )
    assert cli.bare("-A", name, "report").code == 2
    assert cli.bare("--workdir", str(inner), "-A", name, "report").code == 0
    assert "--workdir" in cli.bare("--workdir", str(inner / "gone"), "report").err


def test_missing_extra_is_one_line() -> None:
    """Without click, one line names the extra; the exit code is 2."""
    program = "import sys; sys.modules['click'] = None\nfrom dispatcher.cli import main\nsys.exit(main(['--version']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == "dispatcher: the command line needs click: pip install 'serverless-dispatcher[cli]'\n"


# -- call and result


def test_call_prints_the_id_and_result_the_state(cli: Cli) -> None:
    """A task goes from `call` over a run to `result`."""
    said = cli("call", f"{cli.name}.add", "--args", "[1, 2]")
    assert said.code == 0
    task_id = said.out.strip()
    waiting = cli("result", task_id)
    assert waiting.code == 3
    assert "PENDING" in waiting.err
    _run_waiting_tasks(cli)
    assert cli("result", task_id) == Said(0, "3\n", "")


def test_revoke_keeps_tasks_from_starting(cli: Cli) -> None:
    """By their ids; a signal that cannot work is one line."""
    ids = [cli("call", f"{cli.name}.add", "--args", "[1, 2]").out.strip() for _ in range(2)]
    assert cli("revoke", *ids) == Said(0, "revoked 2 tasks\n", "")
    assert cli("revoke", ids[0], "--terminate", "--signal", "KILL").out == "revoked 1 task\n"
    refused = cli("revoke", ids[0], "--signal", "KILL")
    assert refused.code == 2
    assert "terminate=True" in refused.err
    _run_waiting_tasks(cli)
    assert cli("result", ids[1]).code == 1


def test_result_as_json(cli: Cli) -> None:
    """--json prints one object with everything that is known."""
    task_id = json.loads(cli("call", f"{cli.name}.add", "-k", '{"x": 1, "y": 2}', "--json").out)["task_id"]
    _run_waiting_tasks(cli)
    found = json.loads(cli("result", task_id, "--json").out)
    assert (found["task_id"], found["state"], found["result"], found["retries"]) == (task_id, "SUCCESS", 3, 0)
    assert found["date_done"].startswith("20")


def test_values_that_json_lacks(cli: Cli) -> None:
    """Dates, decimals and bytes are printed in a plain form."""
    task_id = cli("call", f"{cli.name}.typed").out.strip()
    _run_waiting_tasks(cli)
    assert json.loads(cli("result", task_id).out) == {"at": "2030-01-31", "price": "9.90", "raw": "eA=="}


def test_failed_task(cli: Cli) -> None:
    """A failure is an error line and exit code 1; the traceback comes on request."""
    task_id = cli("call", f"{cli.name}.add", "-a", '[1, "x"]').out.strip()
    _run_waiting_tasks(cli)
    said = cli("result", task_id)
    assert said.code == 1
    assert "FAILURE: TypeError: unsupported operand" in said.err
    assert "Traceback" not in said.err
    assert "Traceback" in cli("result", task_id, "--traceback").err


def test_final_state_of_its_own(cli: Cli) -> None:
    """A task that ended in a state of its own is not a success; its meta is shown."""
    task_id = cli("call", f"{cli.name}.hold").out.strip()
    _run_waiting_tasks(cli)
    assert cli("result", task_id) == Said(1, "", 'error: ON_HOLD: {"order": 44}\n')


def test_call_by_broker_alone(cli: Cli, tmp_path: Path) -> None:
    """Without an app the task is sent by name; the app's worker runs it."""
    url = f"sqlite:///{tmp_path}/queue.db"
    task_id = cli.bare("-b", url, "call", f"{cli.name}.add", "-a", "[20, 3]").out.strip()
    cli("list", "tasks")
    _run_waiting_tasks(cli)
    assert cli.bare("-b", url, "result", task_id).out == "23\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nope",), "the app has no task 'nope'"),
        (("{app}.ad",), "did you mean {app}.add?"),
        (("{app}.add", "-a", "[1]"), "missing 1 required positional argument"),
        (("{app}.add", "-a", "1, 2"), "is not JSON"),
        (("{app}.add", "-a", '{{"x": 1}}'), "must be JSON like [1, 2]"),
        (("{app}.add", "-a", "[1, 2]", "--eta", "tomorrow"), "is not a time such as"),
        (
            ("{app}.add", "-a", "[1, 2]", "--countdown", "nan"),
            "Invalid value for '--countdown': 'nan' is not a number of",
        ),
        (("{app}.add", "-a", "[1, 2]", "--countdown", "soon"), "'soon' is not a number of seconds"),
        (("{app}.add", "-a", "[1, 2]", "--expires", "inf"), "'inf' is not a number of seconds"),
        (("{app}.add", "-a", "[1, 2]", "--timeout", "3"), "--timeout needs --wait"),
        (("{app}.add", "-a", "[1, 2]", "--exchange", "x"), "there is no AMQP here"),
    ],
)
def test_wrong_calls_are_refused(cli: Cli, arguments: tuple[str, ...], message: str) -> None:
    """What cannot work is refused before anything is sent."""
    said = cli("call", *(each.format(app=cli.name) for each in arguments))
    assert said.code == 2
    assert message.format(app=cli.name) in said.err
    assert json.loads(cli("status", "--json").out)["queues"][0]["ready"] == 0


def test_unregistered_task_is_sent_on_request(cli: Cli) -> None:
    """--unregistered sends a name that the app does not know."""
    assert cli("call", "elsewhere.task", "--unregistered").code == 0


def test_call_that_is_not_finished_in_time(cli: Cli) -> None:
    """Without a worker `call --wait --timeout` gives up with exit code 3."""
    said = cli("call", f"{cli.name}.add", "-a", "[1, 2]", "--wait", "--timeout", "0.05")
    assert said.code == 3
    assert "is not finished" in said.err


def test_countdown_delays(cli: Cli) -> None:
    """A task with a countdown is counted as delayed."""
    cli("call", f"{cli.name}.add", "-a", "[1, 2]", "--countdown", "600")
    [counts] = json.loads(cli("status", "--json").out)["queues"]
    assert (counts["ready"], counts["delayed"]) == (0, 1)


# -- status and purge


def test_status_counts(cli: Cli) -> None:
    """`status` counts every queue that the app declares or the broker knows."""
    for _ in range(3):
        cli("call", f"{cli.name}.add", "-a", "[1, 2]")
    cli("call", f"{cli.name}.mail", "-a", '["a@b.c"]')
    found = json.loads(cli("status", "--json").out)
    assert found["broker"]["reachable"] is True
    assert found["backend"]["reachable"] is True
    assert {row["queue"]: row["ready"] for row in found["queues"]} == {"default": 3, "mail": 1}
    assert "mail" in cli("status").out


def test_status_of_a_broker_out_of_reach(cli: Cli) -> None:
    """A server that does not answer is an error line and exit code 1; passwords are masked."""
    said = cli.bare("-b", "redis://user:hunter2@127.0.0.1:1/0", "status")
    assert said.code == 1
    assert "out of reach" in said.out
    assert "hunter2" not in said.out + said.err


def test_status_of_a_broken_file_as_json(cli: Cli, tmp_path: Path) -> None:
    """Output as JSON stays JSON when something is wrong."""
    (tmp_path / "broken.db").write_text("this is no database" * 100)
    said = cli.bare("-b", f"sqlite:///{tmp_path}/broken.db", "status", "--json")
    assert said.code == 1
    found = json.loads(said.out)
    assert found["broker"]["reachable"] is False
    assert "broken.db" in found["broker"]["error"]


def test_purge_says_how_many(cli: Cli) -> None:
    """-f purges without asking; the app's own queues unless others are named."""
    for _ in range(2):
        cli("call", f"{cli.name}.add", "-a", "[1, 2]")
    cli("call", f"{cli.name}.mail", "-a", '["a@b.c"]')
    assert cli("purge", "-f").out == "default: 2 messages removed\n"
    assert json.loads(cli("purge", "-f", "-Q", "mail,default", "--json").out) == {"mail": 1, "default": 0}


def test_purge_asks(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without -f it asks, and without an answer it removes nothing."""
    cli("call", f"{cli.name}.add", "-a", "[1, 2]")
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    said = cli("purge")
    assert said.code == 1
    assert "Remove about 1 message from queue default for good?" in said.out + said.err
    assert json.loads(cli("status", "--json").out)["queues"][0]["ready"] == 1


# -- list, report, completion


def test_list_tasks(cli: Cli) -> None:
    """Tasks are listed with their queue and the options that differ from the defaults."""
    rows = {row["name"]: row for row in json.loads(cli("list", "tasks", "--json").out)}
    assert rows[f"{cli.name}.add"] == {"name": f"{cli.name}.add", "queue": "default", "async": False, "options": {}}
    assert rows[f"{cli.name}.mail"]["queue"] == "mail"
    assert set(rows[f"{cli.name}.mail"]["options"]) == {"max_retries", "time_limit", "throws"}
    assert "max_retries=None, time_limit=30, throws=(KeyError)" in cli("list", "tasks").out


def test_list_queues(cli: Cli) -> None:
    """Queues that only the broker knows are marked."""
    cli("call", f"{cli.name}.mail", "-a", '["a@b.c"]')
    assert cli("list", "queues").out == "default\nmail  (not declared by the app)\n"


def test_list_dead_letters(cli: Cli) -> None:
    """Dead letters are listed with task and reason."""
    task_id = cli("call", f"{cli.name}.add", "-a", '[1, "x"]').out.strip()
    assert "no dead letters" in cli("list", "dead-letters").err
    _run_waiting_tasks(cli)
    assert "TypeError" in cli("list", "dead-letters").out
    [letter] = json.loads(cli("list", "dead-letters", "-Q", "default", "--json").out)
    assert letter["reason"]["task_id"] == task_id


def test_list_bindings_is_refused(cli: Cli) -> None:
    """Bindings belong to AMQP."""
    said = cli("list", "bindings")
    assert said.code == 2
    assert "there is no AMQP here" in said.err


def test_report(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The report has versions, the embedded file, and settings with their source and without secrets."""
    monkeypatch.setenv("DISPATCHER_TASK_TIME_LIMIT", "30")
    name = cli.module(
        "from dispatcher import Dispatcher\n"
        "app = Dispatcher('reported', broker='redis://:hunter2@localhost/0', set_as_current=False)\n"
    )
    said = cli.bare("-A", name, "report")
    assert said.code == 0
    assert "hunter2" not in said.out
    assert "task_time_limit = 30.0  (environment)" in said.out
    assert f"embedded file: {tmp_path}/data/dispatcher/reported.db (does not exist yet)" in said.out
    found = json.loads(cli.bare("-A", name, "report", "--json").out)
    assert found["settings"]["broker_url"]["source"] == "app.conf"
    assert found["libraries"]["msgpack"]


def test_report_without_an_app(cli: Cli) -> None:
    """The report works before there is an app."""
    said = cli.bare("report")
    assert said.code == 0
    assert "app: none given" in said.out


@pytest.mark.parametrize(
    ("shell", "mark"), [("bash", "complete -o"), ("zsh", "#compdef"), ("fish", "complete --no-files")]
)
def test_completion_scripts(cli: Cli, shell: str, mark: str) -> None:
    """Each shell gets its script."""
    said = cli.bare("completion", shell)
    assert said.code == 0
    assert mark in said.out


def _completed(cli: Cli, line: str) -> list[str]:
    variables = {
        "_DISPATCHER_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, "-m", "dispatcher"], cwd=cli.directory, env={**os.environ, **variables}, capture_output=True,
        text=True, timeout=60, check=True,
    )  # fmt: skip
    return [each.partition(",")[2] for each in done.stdout.splitlines() if each]


def test_completion_of_commands_pools_queues_and_tasks(cli: Cli) -> None:
    """Names that only the app knows are completed too; one that cannot be loaded completes to nothing."""
    name = cli.module(
        "from dispatcher import Dispatcher\n"
        "app = Dispatcher('c', task_queues={'orders': {}, 'mail': {}}, set_as_current=False)\n"
        "@app.task(name='c.add')\n"
        "def add(x, y): return x + y\n"
    )
    assert _completed(cli, "dispatcher wo") == ["worker"]
    assert _completed(cli, "dispatcher worker --pool t") == ["threads"]
    assert _completed(cli, f"dispatcher -A {name} worker -Q orders,m") == ["orders,mail"]
    assert _completed(cli, f"dispatcher -A {name} call c") == ["c.add"]
    assert _completed(cli, "dispatcher -A no_such_module call c") == []
