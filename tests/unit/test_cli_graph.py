"""``dispatcher graph``: the tree, JSON, Mermaid and SVG, and the exit codes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from dispatcher import chord, group
from tests.unit.test_cli import Cli, _run_waiting_tasks, cli

__all__ = ["cli"]


def _sent(cli: Cli, *args: Any, fails: bool = False) -> str:
    cli("list", "tasks")
    app = sys.modules[cli.name].app
    last = app.signature("add", (1,)) if not fails else app.signature(f"{cli.name}.mail", ("a", "b"))
    add = app.tasks[f"{cli.name}.add"]
    canvas = add.s(1, 1) | chord(group(add.s(1), add.s(2) | add.s(3)), app.tasks[f"{cli.name}.mail"].s())
    if fails:
        canvas = chord([add.s(1, "x"), add.s(1, 1)], last)
    return str(canvas.apply_async().id)


def test_the_tree_shows_what_follows_and_what_is_side_by_side(cli: Cli) -> None:
    """Names, states, ids; 3 before the end, 0 after it."""
    task_id = _sent(cli)
    said = cli("graph", task_id)
    assert said[:2] == (3, f"0 of 1 done: 1 PENDING\n└── ?  PENDING  {task_id}\n")
    assert "also said of an unknown id" in said.err
    _run_until_done(cli)
    said = cli("graph", task_id)
    assert said.err == ""
    name = cli.name
    shape = [re.sub("  [A-Z].*", "", line).replace(name, "app") for line in said.out.splitlines()]
    assert shape == [
        "5 of 5 done: 5 SUCCESS", "├── app.add", "├── → group of 2", "│   ├── app.add", "│   ├── app.add",
        "│   └── → app.add", "└── → app.mail",
    ]  # fmt: skip
    assert said.code == 0
    assert task_id in said.out.splitlines()[-1]


def test_a_failure_is_shown_once_and_is_exit_code_1(cli: Cli) -> None:
    """Those that did not run because of it point up."""
    task_id = _sent(cli, fails=True)
    _run_until_done(cli)
    said = cli("graph", task_id)
    assert said.code == 1
    assert said.out.count("TypeError") == 1
    assert "as above" in said.out.splitlines()[-1]


def test_other_forms(cli: Cli) -> None:
    """JSON has everything, Mermaid boxes and arrows, SVG is a picture; together they are refused."""
    task_id = _sent(cli)
    _run_until_done(cli)
    found = json.loads(cli("graph", task_id, "--json").out)
    assert (found["done"], found["total"], found["complete"], len(found["lines"][0])) == (5, 5, True, 3)
    assert [len(line) for line in found["lines"][0][1]["members"]] == [1, 2]
    drawn = cli("graph", task_id, "--mermaid").out.splitlines()
    assert drawn[0] == "flowchart TD"
    assert '  subgraph n1 ["group of 2"]' in drawn
    assert [line for line in drawn if "-->" in line] == ["  n0 --> n1", "  n1 --> n5", "  n3 --> n4"]
    picture = cli("graph", task_id, "--svg").out
    assert picture.startswith("<svg")
    assert "group" in picture
    refused = cli("graph", task_id, "--svg", "--json")
    assert (refused.code, "exclude each other" in refused.err) == (2, True)
    limited = cli("graph", task_id, "--limit", "2")
    assert "--limit" in limited.err


def _run_until_done(cli: Cli) -> None:
    app = sys.modules[cli.name].app
    for _ in range(10):
        _run_waiting_tasks(cli)
        counts = [app.broker.counts(queue) for queue in ("default", "mail")]
        if not any(each.ready + each.delayed for each in counts):
            return
    pytest.fail(f"still not done in {Path.cwd()}")
