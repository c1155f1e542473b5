"""``docs/configuration.md`` is what the table of options says."""

import subprocess
import sys
from pathlib import Path

from dispatcher.config import OPTIONS
from dispatcher.config.reference import markdown

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_page_is_up_to_date() -> None:
    """The page in the repository is the one the code generates."""
    assert PAGE.read_text(encoding="utf-8") == markdown(), "run: python -m dispatcher.config > docs/configuration.md"


def test_command_prints_the_page() -> None:
    """``python -m dispatcher.config`` prints the page."""
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-m", "dispatcher.config"],
        cwd=PAGE.parents[1], capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.decode() == markdown()


def test_every_key_is_on_the_page() -> None:
    """No setting is left out, whatever becomes of it."""
    page = markdown()
    assert [name for name in OPTIONS if f"`{name}`" not in page] == []
