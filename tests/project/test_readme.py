"""The README's first screen, and every command and example in it."""

from pathlib import Path

import pytest

from benchmarks import summary
from benchmarks.record import RESULTS, stored
from tests.project.conftest import Servers
from tests.project.imports import REPOSITORY
from tests.project.pages import PYTHON, SHELL, Session, blocks_of

README = REPOSITORY / "README.md"
FIRST_SCREEN = 45
#: Blocks that a test cannot run: `make demo` and `make test` (the gate runs them), `pip install`, the deployment.
NOT_RUN = 3


def test_examples_run(tmp_path: Path, servers: Servers) -> None:
    """Every block of the README runs in order and prints what it says it prints."""
    with Session(tmp_path, servers) as session:
        for block in blocks_of(README):
            session.run(block)


def test_what_is_not_run_is_counted() -> None:
    """Blocks that are not run carry the reason and are as many as this test says; most blocks run."""
    blocks = blocks_of(README)
    left_out = [block for block in blocks if "not run" in block.marks]
    assert all(block.marks["not run"] for block in left_out)
    assert len(left_out) == NOT_RUN, [str(block) for block in left_out]
    assert sum(block.runnable for block in blocks) >= 2 * NOT_RUN


def test_every_block_names_its_language() -> None:
    """A block is Python, shell, or data that says what it is: nothing escapes the test by an empty fence."""
    known = PYTHON | SHELL | {"text", "yaml", "json", "toml"}
    assert [str(block) for block in blocks_of(README) if block.language not in known] == []


def test_first_screen_shows_the_point() -> None:
    """The first screen has an example of at most 15 lines of code and the two commands."""
    top = README.read_text(encoding="utf-8").splitlines()[:FIRST_SCREEN]
    assert any(line.startswith("make demo") for line in top)
    assert any(line.startswith("make test") for line in top)
    example = next(block for block in blocks_of(README) if block.language in PYTHON)
    code = [line for line in example.text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(code) <= 15
    assert example.line < FIRST_SCREEN


def test_figures_are_those_kept() -> None:
    """The section on speed is what `python -m benchmarks --report` writes there from the kept results."""
    assert summary.render(stored(RESULTS)) in README.read_text(encoding="utf-8")


@pytest.mark.parametrize("word", ["make demo", "make test", "serverless-dispatcher", "docs/guarantees.md"])
def test_readme_says_where_things_are(word: str) -> None:
    """The README names the commands, the distribution and the page of promises."""
    assert word in README.read_text(encoding="utf-8")
