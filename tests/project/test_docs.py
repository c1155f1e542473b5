"""The pages under docs/: their examples run, their links lead somewhere, and they say what the code says."""

import re
from pathlib import Path

import pytest

import dispatcher
from dispatcher import sending
from tests.project.conftest import Servers
from tests.project.imports import REPOSITORY
from tests.project.pages import PYTHON, SHELL, Session, blocks_of, pages

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


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_examples_run(page: Path, tmp_path: Path, servers: Servers) -> None:
    """Every block of a page runs in order and prints what the page says it prints."""
    with Session(tmp_path, servers) as session:
        for block in blocks_of(page):
            session.run(block)


def test_calling_page_has_every_option() -> None:
    """docs/calling.md explains each option of apply_async, and no other."""
    known = {*sending._PLAIN, *sending._HANDLED}
    assert sorted(_row_names(DOCS / "calling.md", "## Options of `apply_async`")) == sorted(known)


def test_calling_page_has_every_refusal() -> None:
    """docs/calling.md lists each refused option with the reason of the code."""
    text = (DOCS / "calling.md").read_text(encoding="utf-8")
    missing = [
        option for option, reason in sending.REFUSED_OPTIONS.items() if f"| `{option}` | {reason} |\n" not in text
    ]
    assert missing == []
    assert sorted(_row_names(DOCS / "calling.md", "refused with an")) == sorted(sending.REFUSED_OPTIONS)
