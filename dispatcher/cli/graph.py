"""``dispatcher graph``: a workflow's state as a tree, as JSON, as Mermaid or as SVG."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from dispatcher import states
from dispatcher.cli.errors import FAILED, MISUSED, NO_RESULT, OK, CommandError, say_error
from dispatcher.cli.options import shown
from dispatcher.cli.session import Session
from dispatcher.cli.tables import console

if TYPE_CHECKING:
    from dispatcher.workflow_state import Line, Node, Workflow

_GRAPH = """\b
Examples:
  dispatcher -A shop.tasks graph 0d9a4ff2-5a3c-4cc5-9a3e-3d8be2f7a6a5
  dispatcher -A shop.tasks graph 0d9a4ff2-… --mermaid >> report.md
  dispatcher -A shop.tasks graph 0d9a4ff2-… --svg > workflow.svg

\b
ID is that of any task of the workflow, or of a group. Lines that begin with → follow the one above; others are side
by side. Exit codes: 0 all finished, 1 a task failed, 3 not finished or not known.
"""
_COLORS = {states.SUCCESS: "green", states.PENDING: "dim", states.STARTED: "cyan", states.RETRY: "yellow"}
_FILLS = {states.SUCCESS: "#d3f9d8", states.STARTED: "#d0ebff", states.RETRY: "#fff3bf", states.FAILURE: "#ffe3e3"}


@click.command(epilog=_GRAPH)
@click.argument("task_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.option("--mermaid", is_flag=True, help="Print a Mermaid flowchart.")
@click.option("--svg", is_flag=True, help="Print the tree as an SVG picture.")
@click.option(
    "--limit", type=click.IntRange(1), default=10_000, show_default=True, help="Read no more tasks than this."
)
@click.pass_obj
def graph(session: Session, task_id: str, as_json: bool, mermaid: bool, svg: bool, limit: int) -> int:
    """Draw the whole workflow that the task ID belongs to."""
    if as_json + mermaid + svg > 1:
        raise CommandError("--json, --mermaid and --svg exclude each other", MISUSED)
    flow = session.any_app().workflow(task_id, limit)
    if as_json:
        click.echo(shown(flow.to_dict()))
    elif mermaid:
        click.echo("\n".join(_mermaid(flow)))
    elif svg:
        click.echo(_svg(flow))
    else:
        for tree in _trees(flow):
            console().print(tree)
    if flow.total == flow.counts.get(states.PENDING):
        say_error(f"nothing has been recorded of {task_id} yet (which is also said of an unknown id)")
    if not flow.complete:
        say_error(f"there are more than {limit} tasks; see --limit")
    if flow.failure is not None:
        return FAILED
    return OK if flow.finished else NO_RESULT


def _summary(flow: Workflow) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in flow.counts.items())
    return f"{flow.done} of {flow.total} done: {counts}"


def _trees(flow: Workflow) -> list[Any]:
    from rich.text import Text
    from rich.tree import Tree

    tree = Tree(Text(_summary(flow)))
    for line in flow.lines:
        _grow(tree, line)
    return [tree]


def _grow(tree: Any, line: Line) -> None:
    """Hang a line into a tree: what follows is a sister of what it follows, members and branches are daughters."""
    for position, node in enumerate(line):
        branch = tree.add(_label(node, "→ " if position else ""))
        for each in node.members:
            _grow(branch, each)
        for each in node.branches:
            _grow(branch.add("also") if node.is_group else branch, each)


def _label(node: Node, arrow: str) -> Any:
    from rich.text import Text

    text = Text(arrow)
    text.append(_title(node), style="bold")
    text.append(f"  {node.state}", style=_COLORS.get(node.state, "red" if node.finished else ""))
    if not node.is_group:
        text.append(f"  {node.id}", style="dim")
    if node.error is not None:
        text.append("  as above" if node.repeats else f"  {node.error!r:.200}", style="red")
    return text


def _title(node: Node) -> str:
    return f"group of {node.size}" if node.is_group else node.name or "?"


def _svg(flow: Workflow) -> str:
    import io

    from rich.console import Console

    picture = Console(record=True, file=io.StringIO(), width=120, force_terminal=True, markup=False, emoji=False)
    for tree in _trees(flow):
        picture.print(tree)
    return picture.export_svg(title=f"workflow {flow.id}")


def _mermaid(flow: Workflow) -> Iterator[str]:
    yield "flowchart TD"
    keys = {node.id: f"n{number}" for number, node in enumerate(flow.nodes())}
    for line in flow.lines:
        yield from _boxes(line, keys, "  ")
    for line in flow.lines:
        yield from _arrows(line, keys)
    for state, fill in _FILLS.items():
        having = ",".join(keys[node.id] for node in flow.tasks() if node.state == state)
        if having:
            yield f"  classDef {state.lower()} fill:{fill}"
            yield f"  class {having} {state.lower()}"


def _boxes(line: Line, keys: dict[str, str], indent: str) -> Iterator[str]:
    for node in line:
        label = f"{_title(node)}<br/>{node.state}".replace('"', "#quot;")
        if node.is_group and node.members:
            yield f'{indent}subgraph {keys[node.id]} ["{_title(node)}"]'
            for each in node.members:
                yield from _boxes(each, keys, indent + "  ")
            yield f"{indent}end"
        else:
            yield f'{indent}{keys[node.id]}["{label}"]'
        for each in node.branches:
            yield from _boxes(each, keys, indent)


def _arrows(line: Line, keys: dict[str, str]) -> Iterator[str]:
    for before, after in itertools.pairwise(line):
        yield f"  {keys[before.id]} --> {keys[after.id]}"
    for node in line:
        for each in node.branches:
            yield f"  {keys[node.id]} -.-> {keys[each[0].id]}"
        for each in (*node.members, *node.branches):
            yield from _arrows(each, keys)
