"""``dispatcher infra cdk``: the CDK app that it writes for a start."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.unit.test_cli import Cli, cli

__all__ = ["cli"]


def test_an_app_is_written_once(cli: Cli) -> None:
    """It compiles, names the app and its module, and is never written over."""
    said = cli("infra", "cdk")
    assert said.code == 0
    assert "infra/app.py written; `npx aws-cdk@2 deploy" in said.err
    assert "requirements.txt is still to be written" in said.err
    text = Path("infra/app.py").read_text(encoding="utf-8")
    compile(text, "infra/app.py", "exec")
    assert f'app="{cli.name}",' in text
    assert 'code=Package(project=ROOT, requirements=ROOT / "requirements.txt"),' in text
    assert "resolve().parents[1]" in text
    again = cli("infra", "cdk")
    assert (again.code, again.err) == (2, again.err)
    assert "infra/app.py is there already, and yours" in again.err


def test_it_is_printed_for_a_stage(cli: Cli) -> None:
    """`-o -` prints, writes nothing, and a stage has its own stack."""
    said = cli("infra", "cdk", "--stage", "prod", "-o", "-")
    assert said.code == 0
    assert '"clitest-prod",' in said.out
    assert 'stage="prod",' in said.out
    assert not Path("infra").exists()


def test_the_paths_are_those_of_the_project(cli: Cli, tmp_path: Path) -> None:
    """Packages below a directory of sources, and an app deeper down, find each other."""
    package = tmp_path / "src" / "bakery"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from dispatcher import Dispatcher\napp = Dispatcher('b', set_as_current=False)\n"
    )
    sys.path.insert(0, str(tmp_path / "src"))
    assert cli.bare("-A", "bakery:app", "infra", "cdk", "-o", "deploy/cdk/app.py").code == 0
    text = Path("deploy/cdk/app.py").read_text(encoding="utf-8")
    assert "resolve().parents[2]" in text
    assert 'str(ROOT / "src")' in text
    assert 'Package(project=ROOT / "src",' in text


def test_what_is_outside_of_the_project_is_refused(cli: Cli, tmp_path: Path) -> None:
    """An app that no path from the project reaches, and a file elsewhere, are errors that say where to run this."""
    assert "is outside of" in cli("infra", "cdk", "-o", str(tmp_path.parent / "app.py")).err
    (tmp_path / "inside").mkdir()
    said = cli("--workdir", str(tmp_path / "inside"), "infra", "cdk")
    assert said.code == 2
    assert f"the app's {cli.name} is at" in said.err
