"""Every example runs by the one command that its first lines give, and prints what it is meant to."""

import re
import sys
from pathlib import Path

import pytest

from tests.e2e import commands

EXAMPLES = commands.ROOT / "examples"

#: What each example prints, as a pattern.
PRINTS = {
    "asyncio_service": r"^20 answers, the last: \{'word': 'word19', 'length': 6, 'shout': 'WORD19'\}$",
    "quickstart": r"^order 42: charged 9\.90$",
    "retries": r"^two lost connections: fetched at attempt 3\n"
    r"a refused one: ConnectionRefusedError\('nobody listens there'\)\n"
    r"more than max_retries: ConnectionResetError\('lost at attempt 5'\)\n"
    r"a service that is busy twice: posted after 2 retries\n"
    r"busy for too long: MaxRetriesExceededError\n"
    r"too much to draw in time: 1000 points$",
    "run_celery_migration": r"^add: SUCCESS 5\n"
    r"synchronise: SUCCESS 'account 7 synchronised after 1 retries'\n"
    r"send_newsletter: SUCCESS 'sent to ada@example\.com from queue mail'\n"
    r"export: SUCCESS \{'rows': True, 'complete': False\}\n"
    r"close_account: FAILURE LookupError\('there is no account 8'\)\n"
    r"add by name: SUCCESS 50$",
    "shop": r'"linked": "SUCCESS int 13"',
}


def test_every_example_is_run() -> None:
    """No example is left out of this test."""
    assert {path.stem for path in EXAMPLES.glob("*.py")} == PRINTS.keys()


@pytest.mark.parametrize("name", sorted(PRINTS))
def test_example_runs(name: str, tmp_path: Path) -> None:
    """`python examples/<name>.py` ends well and prints its results."""
    done = commands.run(tmp_path, program=(sys.executable, str(EXAMPLES / f"{name}.py")))
    assert done.returncode == 0, done.stderr
    assert re.search(PRINTS[name], done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize("name", sorted(PRINTS))
def test_example_says_how_to_run_it(name: str) -> None:
    """The first lines of an example give the command that runs it."""
    assert f"python examples/{name}.py" in (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")


def test_migrated_code_differs_in_its_imports_only() -> None:
    """With Celery's imports put back, the migrated package names nothing of this one."""
    for path in sorted((EXAMPLES / "celery_migration").glob("*.py")):
        code = path.read_text(encoding="utf-8").partition('"""\n')[2]
        rest = [line for line in code.splitlines() if not line.startswith(("from dispatcher", "import dispatcher"))]
        assert "dispatcher" not in "\n".join(rest).lower(), path.name
