"""The pages under docs/: their examples run, their links lead somewhere, and they say what the code says."""

import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

import dispatcher
import dispatcher.canvas
from dispatcher import AsyncResult, Dispatcher, Task, call_options, exceptions, signals
from dispatcher.app import foreign
from dispatcher.cli import absent, root
from dispatcher.exceptions import UnsupportedOption
from dispatcher.request import Context
from dispatcher.task_options import Absent
from tests.project.conftest import Servers
from tests.project.imports import REPOSITORY
from tests.project.pages import PYTHON, SHELL, Block, Session, blocks_of, pages

DOCS = REPOSITORY / "docs"


def _row_names(page: Path, heading: str) -> list[str]:
    """Return the names in the first column of the tables under a heading, or between two texts."""
    text = page.read_text(encoding="utf-8")
    assert heading in text, f"{page.name} has no {heading!r}"
    section = text[text.index(heading) :]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert table, f"{page.name} has no table after {heading!r}"
    rows = table[0].splitlines()[2:]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


#: Pages of reference show fragments, which begin where these files leave off.
_BEGUN = """\
import sys
sys.path.insert(0, "")
from dispatcher import *
from dispatcher import Dispatcher
app = Dispatcher("shop")
"""
_FRAGMENTS: dict[str, dict[str, str]] = {
    "aws.md": {},
    "cli.md": {},
    "configuration.md": {
        "shop/celeryconfig.py": "task_track_started = True",
        "django/conf.py": "class settings: CELERY_TASK_ALWAYS_EAGER = True",
    },
    "lambda.md": {},
    "redis.md": {},
    "wire-format.md": {},
    "workers.md": {},
}


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_examples_run(page: Path, tmp_path: Path, servers: Servers) -> None:
    """Every block of a page runs in order and prints what the page says it prints."""
    with Session(tmp_path, servers) as session:
        if page.name in _FRAGMENTS:
            for name, text in _FRAGMENTS[page.name].items():
                session.run(Block(page, 1, "python", text, {"file": name}))
            session.run(Block(page, 1, "python", _BEGUN, {}))
        for block in blocks_of(page):
            session.run(block)


def test_calling_page_has_every_option() -> None:
    """docs/calling.md explains each option of apply_async, and no other."""
    known = {*call_options._PLAIN, *call_options._HANDLED}
    assert sorted(_row_names(DOCS / "calling.md", "## Options of `apply_async`")) == sorted(known)


def test_calling_page_has_every_refusal() -> None:
    """docs/calling.md lists each refused option with the reason of the code."""
    text = (DOCS / "calling.md").read_text(encoding="utf-8")
    missing = [
        option for option, reason in call_options.REFUSED_OPTIONS.items() if f"| `{option}` | {reason} |\n" not in text
    ]
    assert missing == []
    assert sorted(_row_names(DOCS / "calling.md", "refused with an")) == sorted(call_options.REFUSED_OPTIONS)


MIGRATING = DOCS / "migrating-from-celery.md"
_CODE = re.compile(r"`([A-Za-z_]+)`")


def _section(heading: str) -> str:
    text = MIGRATING.read_text(encoding="utf-8")
    return re.split(r"\n#{2,3} ", text.split(f"\n### {heading}\n", 1)[1])[0]


def _verdicts(heading: str) -> dict[str, str]:
    """Return what a table says of each name: works, differs, refused, not yet."""
    rows = [row.split("|")[1:3] for row in _section(heading).splitlines() if row.startswith("| `")]
    return {name: verdict.strip() for names, verdict in rows for name in _CODE.findall(names)}


@pytest.mark.parametrize(
    ("heading", "thing"),
    [
        ("Attributes and methods of `Task`", Task),
        ("The app", Dispatcher("docs", broker="memory://", set_as_current=False)),
        ("Results", AsyncResult("docs", app=Dispatcher("docs", broker="memory://", set_as_current=False))),
    ],
    ids=["task", "app", "result"],
)
def test_names_are_there_or_not_as_the_guide_says(heading: str, thing: object) -> None:
    """What works or differs exists; what is said to be absent is."""
    for name, verdict in _verdicts(heading).items():
        there = name in dir(thing) and not isinstance(inspect.getattr_static(thing, name), Absent)
        if verdict in ("works", "differs"):
            assert there, f"{heading}: the guide says {name} {verdict}, and it is not there"
        elif verdict == "not yet":
            assert not hasattr(thing, name), f"{heading}: the guide says {name} is not there yet, and it is"
            assert heading != "The app" or name in foreign.NOT_YET, f"the error of app.{name} names no alternative"
        else:
            assert verdict == "refused", f"{heading}: unknown verdict {verdict!r} of {name}"


def test_refused_task_options_are_refused() -> None:
    """An option of a task that the guide calls refused stops the app with an error that names it."""
    refused = [name for name, verdict in _verdicts("Attributes and methods of `Task`").items() if verdict == "refused"]
    assert "exchange" in refused
    for name in set(refused) - {"send_event"}:
        app = Dispatcher("docs", broker="memory://", set_as_current=False)
        options: dict[str, Any] = {name: "x"}
        app.task(**options)(print)
        with pytest.raises(UnsupportedOption, match=name):
            app.finalize()


def test_request_has_what_the_guide_lists() -> None:
    """Every attribute of self.request that the guide lists can be read."""
    names = _CODE.findall(_section("Attributes of `self.request`"))
    assert len(names) > 30
    for name in names:
        getattr(Context(None), name)


def test_exceptions_are_those_of_the_guide() -> None:
    """Every exception that the guide lists exists."""
    names = [name for name in _CODE.findall(_section("Exceptions")) if name != "dispatcher"]
    assert [name for name in names if not hasattr(exceptions, name)] == []


def test_unsent_signals_are_those_of_the_guide() -> None:
    """The guide lists exactly the signals that no module sends."""
    sent = set()
    for path in (REPOSITORY / "dispatcher").rglob("*.py"):
        sent |= set(re.findall(r"\b([a-z_]+)\.(?:send|announce)\b", path.read_text(encoding="utf-8")))
    known = {name for name, value in vars(signals).items() if isinstance(value, signals.Signal)}
    assert sorted(_CODE.findall(_section("Signals"))) == sorted(known - sent)


def test_names_of_canvas_are_as_the_guide_says() -> None:
    """What the guide says works can be imported from the package or is there on signatures."""
    names = [name for name in _CODE.findall(_section("Canvas").partition("\n|")[0]) if name.isidentifier()]
    missing = [name for name in names if not hasattr(dispatcher, name) and not hasattr(dispatcher.canvas, name)]
    assert names
    assert not missing


@pytest.mark.parametrize("table", ["COMMANDS", "IGNORED", "REFUSED"])
def test_command_line_is_as_the_guide_says(table: str) -> None:
    """The guide has each absent command, each ignored and each refused option with the reason of the code."""
    entries = getattr(absent, table)
    if table == "COMMANDS":
        rows = [f"| `{name}` | {reason} |" for name, reason in entries.items()]
    else:
        rows = [f"| {', '.join(f'`{flag}`' for flag in flags)} | {reason} |" for flags, _, reason in entries]
    section = _section("The command line").splitlines()
    assert [row for row in rows if row not in section] == []


def test_links_lead_somewhere() -> None:
    """Every relative link of a page names a file that exists, and a heading in it."""
    broken = []
    for page in pages():
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if "://" in target or target.startswith("mailto:"):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            if not file.exists() or (anchor and anchor not in _anchors(file)):
                broken.append(f"{page.relative_to(REPOSITORY)}: {target}")
    assert broken == []


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ +(.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_tests_that_pages_name_exist() -> None:
    """A test or file of tests that a page names is there."""
    missing = []
    for page in pages():
        for path, _, name in re.findall(r"`(tests/[\w./]+)(::(\w+))?`", page.read_text(encoding="utf-8")):
            file = REPOSITORY / path
            if not file.exists() or (name and f"def {name}(" not in file.read_text(encoding="utf-8")):
                missing.append(f"{page.name}: {path}::{name}")
    assert missing == []


def _prose() -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in pages())


@pytest.mark.parametrize("name", [name for name in dispatcher.__all__ if name != "__version__"])
def test_public_names_are_documented(name: str) -> None:
    """Every public name of the package occurs in the pages."""
    assert re.search(rf"\b{name}\b", _prose())


def test_commands_are_documented() -> None:
    """Every command of the command line has its place in docs/cli.md or a page of its own."""
    text = "".join((DOCS / name).read_text(encoding="utf-8") for name in ("cli.md", "workers.md", "dead-letters.md"))
    assert [name for name in root.cli.commands if not re.search(rf"`dispatcher[^`\n]* {name}\b|`{name}\b", text)] == []


def test_what_is_not_run_says_why() -> None:
    """Blocks of Python or shell that are not run carry the reason, and are few beside those that run."""
    blocks = [block for page in pages() for block in blocks_of(page) if block.language in PYTHON | SHELL]
    left_out = [block for block in blocks if not block.runnable]
    assert all(block.marks["not run"] for block in left_out)
    assert len(left_out) <= len(blocks) // 3, [str(block) for block in left_out]


def test_changelog_has_the_next_release() -> None:
    """The changelog opens with what is not released yet, and says what was added."""
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[(Unreleased|\d+\.\d+\.\d+)\]", text, re.MULTILINE)
    assert "### Added" in text


def test_error_tree_is_that_of_the_code() -> None:
    """docs/errors.md shows the tree that the module of exceptions draws."""
    drawn = (exceptions.__doc__ or "").split("::\n", 1)[1].split("\n\nNames and")[0]
    tree = next(block for block in blocks_of(DOCS / "errors.md") if block.language == "text")
    assert tree.text.strip() == textwrap.dedent(drawn).strip()


def test_pages_speak_of_no_machine() -> None:
    """Pages name no directory of the machine they were written on."""
    machine = re.compile(r"(?<![\w.])/(?:work|root|home|tmp)/\w")
    assert [str(page) for page in pages() if machine.search(page.read_text(encoding="utf-8"))] == []


def test_index_lists_every_page() -> None:
    """docs/README.md has a line for each page beside it."""
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in DOCS.glob("*.md") if page.name != "README.md" and f"({page.name})" not in index] == []
