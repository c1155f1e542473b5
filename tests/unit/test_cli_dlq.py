"""The commands for dead letters in one process, on an SQLite file that needs no app."""

import io
import json
import sqlite3
import sys
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest

from dispatcher.brokers.base import Outgoing, Settlement
from dispatcher.brokers.sqlite import SQLiteBroker
from dispatcher.cli import main
from dispatcher.clock import ManualClock

DAY = 86_400.0


class Said(NamedTuple):
    """What a command line printed and returned."""

    code: int
    out: str
    err: str


class Letters:
    """Dead letters in a file, and the command line that looks at them."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self.url = f"sqlite:///{directory}/queue.db"
        self.broker = SQLiteBroker(self.url)
        self._capsys = capsys

    def bury(self, id: str, *, queue: str = "default", age: float = 0.0, body: str = "", **reason: str) -> None:
        """Let a message die so many seconds ago."""
        broker = SQLiteBroker(self.url, clock=ManualClock(time.time() - age))
        broker.send([Outgoing(queue, body or json.dumps({"v": 1, "id": id, "task": "shop.mail"}), id)])
        (taken,) = broker.receive([queue], 1)
        broker.settle([Settlement(taken, "dead", reason=reason)])

    def fail(self, id: str, task: str, exception: str, age: float = 0.0) -> None:
        """Let a task's failure be buried as a worker does it."""
        texts = {"reason": "failed", "task": task, "task_id": id, "exception": exception}
        self.bury(id, age=age, traceback=f"Traceback:\n{exception}", **texts)

    def __call__(self, *arguments: str) -> Said:
        """Run ``dispatcher dlq``."""
        self._capsys.readouterr()
        code = main(["-b", self.url, "--result-backend", self.url, "dlq", *arguments])
        return Said(code, *self._capsys.readouterr())

    def left(self, queue: str = "default") -> list[str]:
        """The ids of a queue's letters, sorted."""
        return sorted(json.loads(letter.body)["id"] for letter in self.broker.dead_letters(queue))

    def waiting(self, queue: str = "default") -> list[str]:
        """Take what waits to be run; the ids, sorted."""
        return sorted(json.loads(delivery.body)["id"] for delivery in self.broker.receive([queue], 1000))


@pytest.fixture
def letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Letters:
    """Five dead letters of two queues and three tasks, from now to ten days old."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.delenv("DISPATCHER_APP", raising=False)
    made = Letters(tmp_path, capsys)
    made.fail("a", "shop.charge", "ConnectionError: no route to bank", age=10 * DAY)
    made.fail("b", "shop.charge", "ValueError: amount\nis negative", age=3600.0)
    made.fail("c", "shop.refund", "TimeoutError: bank timed out", age=60.0)
    made.bury("d", reason="rejected", task="shop.mail", task_id="d")
    made.bury("e", queue="mail")
    return made


# -- looking


def test_list_shows_the_newest_first(letters: Letters) -> None:
    """With task, id, time and the first line of the reason; a letter without one is read from its body."""
    said = letters("list")
    lines = [line.split() for line in said.out.splitlines() if " shop." in line]
    assert said.code == 0
    assert [line[2] for line in lines] == ["e", "d", "c", "b", "a"]
    assert {line[2]: line[0] for line in lines}["e"] == "mail"
    assert "ValueError: amount …" in said.out
    assert "negative" not in said.out


def test_list_counts_what_it_leaves_out(letters: Letters) -> None:
    """A limit keeps the newest and says that there are more."""
    said = letters("list", "--limit", "2")
    assert "shop.refund" not in said.out
    assert "the newest 2 of 5" in said.err
    assert "the newest 1 of 2" in letters("list", "--task", "shop.charge", "--limit", "1").err


def test_list_as_json(letters: Letters) -> None:
    """Everything that is known, the body as text."""
    [letter] = json.loads(letters("list", "--id", "a", "--json").out)
    assert (letter["queue"], letter["task"], letter["task_id"]) == ("default", "shop.charge", "a")
    assert letter["reason"]["exception"] == "ConnectionError: no route to bank"
    assert json.loads(letter["body"])["id"] == "a"
    assert json.loads(letters("list", "-Q", "nothing", "--json").out) == []
    assert "no dead letters" in letters("list", "-Q", "nothing").err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--id", "a", "--id", "e"], "ae"),
        (["--task", "shop.charge"], "ab"),
        (["--task", "shop.*e"], "ab"),
        (["--task", "shop.mail"], "de"),
        (["--task", "/refund|mail$/"], "cde"),
        (["--exception", "ConnectionError"], "a"),
        (["--exception", "*bank*"], "ac"),
        (["--exception", "/timed? ?out/"], "c"),
        (["--exception", "Error"], ""),
        (["--exception", "*negative", "--exception", "TimeoutError*"], "bc"),
        (["--reason", "rejected"], "d"),
        (["--older-than", "7d"], "a"),
        (["--older-than", "30m"], "ab"),
        (["--newer-than", "90"], "cde"),
        (["--older-than", "30s", "--newer-than", "2h"], "bc"),
        (["--task", "shop.charge", "--newer-than", "1d"], "b"),
        (["-Q", "mail"], "e"),
        (["--queue", "mail,default", "--task", "shop.mail"], "de"),
    ],
)
def test_options_choose(letters: Letters, options: list[str], expected: str) -> None:
    """Values of one option are alternatives, different options must all fit."""
    found = json.loads(letters("list", "--json", *options).out)
    assert "".join(sorted(letter["task_id"] for letter in found)) == expected


@pytest.mark.parametrize(
    ("options", "why"),
    [(["--older-than", "soon"], "90s, 30m, 12h, 7d or 2w"), (["--task", "/(/"], "not a regular expression")],
)
def test_wrong_values_are_refused(letters: Letters, options: list[str], why: str) -> None:
    """With an example or the reason."""
    said = letters("list", *options)
    assert said.code == 2
    assert why in said.err


def test_show_prints_all_of_a_letter(letters: Letters) -> None:
    """Reason, traceback and body; by the task's id or by the message's."""
    said = letters("show", "b")
    assert said.code == 0
    for text in ("shop.charge", "failed", "Traceback:\nValueError: amount\nis negative", '"id": "b"'):
        assert text in said.out
    [letter] = json.loads(letters("show", "b", "--json").out)
    assert json.loads(letters("show", letter["message_id"], "--json").out) == [letter]


def test_show_of_an_unknown_id(letters: Letters) -> None:
    """Says where it looked, and exits as for a result that is not there."""
    said = letters("show", "x")
    assert (said.code, said.out) == (3, "")
    assert "no dead letter of x in" in said.err


# -- acting


def test_redrive_sends_what_was_chosen(letters: Letters) -> None:
    """Without asking; the rest stays."""
    said = letters("redrive", "--task", "shop.charge")
    assert (said.code, said.out) == (0, "default: 2 dead letters redriven\n")
    assert (letters.left(), letters.waiting()) == (["c", "d"], ["a", "b"])
    assert "no dead letter fits" in letters("redrive", "--task", "shop.charge").err


@pytest.mark.parametrize("answer", ["y\n", "n\n"])
def test_redriving_everything_asks(letters: Letters, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """With how many there are; a no changes nothing."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    said = letters("redrive", "-Q", "default")
    assert "about 4 dead letters of queue default" in said.err
    assert said.code == (0 if answer == "y\n" else 1)
    assert letters.left() == ([] if answer == "y\n" else ["a", "b", "c", "d"])


def test_redriving_everything_with_yes(letters: Letters) -> None:
    """Takes all queues that are known."""
    assert json.loads(letters("redrive", "--yes", "--json").out) == {"default": 4, "mail": 1}
    assert (letters.waiting(), letters.waiting("mail")) == (["a", "b", "c", "d"], ["e"])


def test_redrive_a_few(letters: Letters) -> None:
    """A limit takes the oldest, and does not ask."""
    assert letters("redrive", "-Q", "default", "--limit", "3").out == "default: 3 dead letters redriven\n"
    assert letters.left() == ["d"]


def test_json_cannot_ask(letters: Letters) -> None:
    """A program that reads the output cannot answer."""
    for command in ("redrive", "purge"):
        said = letters(command, "--json")
        assert (said.code, said.out) == (2, "")
        assert "--yes" in said.err


def test_a_dry_run_changes_nothing(letters: Letters) -> None:
    """It counts what would be done, without asking."""
    assert letters("redrive", "--dry-run", "-Q", "default").out == "default: 4 dead letters would be redriven\n"
    said = letters("purge", "--dry-run", "--older-than", "7d", "-Q", "default")
    assert said.out == "default: 1 dead letter would be removed\n"
    assert (letters.left(), letters.waiting()) == (["a", "b", "c", "d"], [])


def test_purge_removes_for_good(letters: Letters) -> None:
    """Only what was chosen, and nothing is sent."""
    assert letters("purge", "--older-than", "7d", "--yes").out == "default: 1 dead letter removed\n"
    assert (letters.left(), letters.waiting()) == (["b", "c", "d"], [])
    assert json.loads(letters("purge", "--yes", "--json", "-Q", "mail").out) == {"mail": 1}


def test_purge_always_asks(letters: Letters, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where options choose; a no changes nothing."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    said = letters("purge", "--task", "shop.charge")
    assert said.code == 1
    assert "nothing was changed" in said.err
    assert letters.left() == ["a", "b", "c", "d"]


def test_what_was_done_is_told_when_it_fails(letters: Letters) -> None:
    """A store that fails half-way: how many were redriven, and the error."""
    for number in range(150):
        letters.fail(f"f{number}", "shop.bulk", "KeyError: 1")
    with sqlite3.connect(letters.directory / "queue.db") as connection:
        connection.execute(
            "CREATE TRIGGER failing BEFORE DELETE ON dead_letters WHEN old.reason LIKE '%f149%' "
            "BEGIN SELECT RAISE(ABORT, 'the disk is gone'); END"
        )
    connection.close()
    said = letters("redrive", "--task", "shop.bulk")
    assert said.code == 1
    # The four others come first, a page has 100, and the page that failed stays whole.
    assert said.out == "default: 96 dead letters redriven\n"
    assert "the disk is gone" in said.err
    assert len(letters.waiting()) == 96
    assert letters.broker.counts("default").dead == 4 + 54


def test_thousands_of_letters(letters: Letters) -> None:
    """All are acted on, page by page."""
    broker = letters.broker
    broker.send([Outgoing("default", json.dumps({"id": str(n), "task": "shop.bulk"}), str(n)) for n in range(3000)])
    taken = broker.receive(["default"], 3000)
    broker.settle([Settlement(delivery, "dead", reason={"reason": "failed"}) for delivery in taken])
    assert letters("redrive", "--task", "shop.bulk").out == "default: 3000 dead letters redriven\n"
    assert broker.counts("default") == (3000, 0, 0, 4)


# -- saving


def test_export_writes_json_lines(letters: Letters) -> None:
    """One object a line, to the output or to a file; the letters stay."""
    said = letters("export", "--task", "shop.charge")
    assert [json.loads(line)["task_id"] for line in said.out.splitlines()] == ["a", "b"]
    assert "2 dead letters written" in said.err
    file = letters.directory / "dead.jsonl"
    assert letters("export", "-o", str(file)).out == ""
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert [letter["task_id"] for letter in found] == ["a", "b", "c", "d", "e"]
    assert found[1]["reason"]["exception"] == "ValueError: amount\nis negative"
    assert json.loads(found[1]["body"])["id"] == "b"
    assert letters.left() == ["a", "b", "c", "d"]
    assert "0 dead letters written" in letters("export", "--task", "no.such", "-o", str(file)).err
    assert file.read_text() == ""


def test_a_body_that_is_no_message(letters: Letters) -> None:
    """It is listed by its message id, and exported and redriven as it is."""
    letters.bury("x", queue="odd", body="<xml/>", reason="undecodable", exception="InvalidMessage: no JSON")
    [letter] = json.loads(letters("list", "-Q", "odd", "--json").out)
    assert (letter["task"], letter["task_id"], letter["body"]) == (None, None, "<xml/>")
    assert letters("redrive", "--id", letter["message_id"], "-Q", "odd").out == "odd: 1 dead letter redriven\n"
    (delivery,) = letters.broker.receive(["odd"], 1)
    assert delivery.body == "<xml/>"
