"""The pages for people, taken apart and run: every fenced block of Python or shell is an example that must work.

Comments on the lines above a fence say what to do with a block that is not simply run:

    <!-- file: tasks.py -->       written to this file, for the blocks below to import
    <!-- needs: redis -->         run beside a server: redis, sqs or lambda
    <!-- output -->               a block of text: what the block above it prints
    <!-- not run: the reason -->  neither run nor checked; counted by the tests

Blocks of a page run in order, in a directory of their own, with a data directory of their own. Python blocks share one
namespace, like the lines of one session.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from dispatcher.local import processes
from tests.project.imports import REPOSITORY

PYTHON = frozenset({"python"})
SHELL = frozenset({"shell", "bash", "sh"})
#: What the pages call a Redis server; replaced by the one that the tests started.
REDIS_URL = "redis://localhost:6379/0"

_MARKS = frozenset({"file", "needs", "output", "not run"})
_FENCE = re.compile(r"^(`{3,})([^`]*)$")
_COMMENT = re.compile(r"^<!-- *([a-z ]+?) *(?:: *(.*?))? *-->$")
_SECONDS = 120.0
_STOP_SECONDS = 30.0


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, the line it starts at, and the marks above it."""

    page: Path
    line: int
    language: str
    text: str
    marks: Mapping[str, str]

    @property
    def runnable(self) -> bool:
        return self.language in PYTHON | SHELL and "not run" not in self.marks

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page in their order."""
    blocks = []
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        opening = _FENCE.match(lines[number].strip())
        if opening:
            start = number
            number += 1
            while lines[number].strip() != opening[1]:
                number += 1
            text = "".join(f"{line}\n" for line in lines[start + 1 : number])
            blocks.append(Block(page, start + 2, opening[2].strip(), text, _marks_above(lines, start)))
        number += 1
    return blocks


def _marks_above(lines: list[str], start: int) -> dict[str, str]:
    marks = {}
    while start and (comment := _COMMENT.match(lines[start - 1].strip())):
        marks[comment[1]] = comment[2] or ""
        start -= 1
    unknown = marks.keys() - _MARKS
    assert not unknown, f"unknown mark above line {start + 2}: {', '.join(sorted(unknown))}"
    return marks


class Session:
    """One page's run: a directory, a Python process, and whatever its shell blocks start and leave running."""

    def __init__(self, directory: Path, servers: Callable[[str, Path], Mapping[str, str]]) -> None:
        self._directory = directory
        self._servers = servers
        self._tag = f"{os.environ.get(processes.TAG_VARIABLE, '')}/page-{uuid.uuid4().hex}"
        self._python: subprocess.Popen[str] | None = None
        self._printed = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._python is not None:
            self._python.communicate()
        running = processes.tagged(self._tag)
        for pid in running:
            _signal(pid, signal.SIGTERM)
        limit = time.monotonic() + _STOP_SECONDS
        while (running := _alive(self._tag)) and time.monotonic() < limit:
            time.sleep(0.05)
        lines = [processes.command(pid) for pid in running]
        processes.kill(running)
        assert not lines, f"SIGTERM does not stop {lines}"

    def run(self, block: Block) -> None:
        """Run a block, or compare it with what the one before printed; raises `AssertionError` with its output."""
        if "output" in block.marks:
            assert self._printed.strip() == block.text.strip(), f"{block}: printed was\n{self._printed}"
            return
        if not block.runnable:
            return
        if "file" in block.marks:
            path = self._directory / block.marks["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
            return
        text, environment = self._beside_servers(block)
        self._printed = (
            self._run_python(block, text) if block.language in PYTHON else self._run_shell(block, text, environment)
        )

    def _beside_servers(self, block: Block) -> tuple[str, dict[str, str]]:
        environment = self._environment()
        text = block.text
        if "needs" in block.marks:
            given = dict(self._servers(block.marks["needs"], self._directory))
            text = text.replace(REDIS_URL, given.pop("redis", REDIS_URL))
            environment.update(given)
        return text, environment

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DISPATCHER_", "AWS_"))}
        return {
            **kept,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": f"{self._directory}{os.pathsep}{REPOSITORY}",
            "XDG_DATA_HOME": str(self._directory / ".data"),
            processes.TAG_VARIABLE: self._tag,
        }

    def _run_shell(self, block: Block, text: str, environment: Mapping[str, str]) -> str:
        # Files, not pipes: what a block leaves running would hold a pipe open.
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            done = subprocess.run(
                ["bash", "-eu", "-o", "pipefail", "-c", text], cwd=self._directory, env=environment, stdout=out,
                stderr=err, stdin=subprocess.DEVNULL, timeout=_SECONDS, check=False,
            )  # fmt: skip
            out.seek(0)
            err.seek(0)
            printed, errors = out.read(), err.read()
        assert done.returncode == 0, f"{block} ended with {done.returncode}:\n{printed}{errors}"
        return printed

    def _run_python(self, block: Block, text: str) -> str:
        if self._python is None:
            self._python = subprocess.Popen(
                [sys.executable, "-c", _DRIVER], cwd=self._directory, env=self._environment(), text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
        assert self._python.stdin is not None
        assert self._python.stdout is not None
        self._python.stdin.write(json.dumps({"name": str(block), "line": block.line, "text": text}) + "\n")
        self._python.stdin.flush()
        answer: dict[str, Any] = json.loads(self._python.stdout.readline() or '{"error": "Python died"}')
        assert answer["error"] is None, f"{block}:\n{answer['error']}"
        return str(answer["printed"])


#: Runs blocks from its input in one namespace; the padding gives tracebacks the page's line numbers.
_DRIVER = """
import contextlib, io, json, sys, traceback
answers, names = sys.stdout, {"__name__": "__page__"}
for request in map(json.loads, sys.stdin):
    printed, error = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        try:
            source = "\\n" * (request["line"] - 1) + request["text"]
            exec(compile(source, request["name"], "exec"), names)
        except BaseException:
            error = traceback.format_exc()
    answers.write(json.dumps({"error": error, "printed": printed.getvalue()}) + "\\n")
    answers.flush()
"""


def _alive(tag: str) -> list[int]:
    return [pid for pid in processes.tagged(tag) if processes.command(pid)]


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def pages() -> Iterator[Path]:
    """Yield the README, the changelog and every page under docs/."""
    yield REPOSITORY / "README.md"
    yield REPOSITORY / "CHANGELOG.md"
    yield from sorted((REPOSITORY / "docs").rglob("*.md"))
