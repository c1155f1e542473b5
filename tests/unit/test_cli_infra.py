"""``dispatcher infra``: what it says of files and of options that exclude each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.test_cli import Cli, cli

__all__ = ["cli"]


@pytest.mark.parametrize("command", ["sam", "cdk"])
def test_file_that_cannot_be_written_is_named(cli: Cli, command: str) -> None:
    """One line with the file and the reason."""
    Path("taken").write_text("")
    said = cli("infra", command, "-o", "taken/app.yaml")
    assert said.code == 1
    assert said.err == "error: taken/app.yaml cannot be written: Not a directory\n"


def test_directory_for_a_template_is_named(cli: Cli) -> None:
    """One line with the path and the reason."""
    Path("folder").mkdir()
    said = cli("infra", "sam", "-o", "folder")
    assert (said.code, said.err) == (1, "error: folder cannot be read: Is a directory\n")


def test_check_compares_with_one_thing(cli: Cli) -> None:
    """Neither and both are different mistakes."""
    Path("template.yaml").write_text("")
    assert "name what to compare with" in cli("infra", "check").err
    said = cli("infra", "check", "--template", "template.yaml", "--stack", "shop")
    assert (said.code, said.err) == (2, "error: name one to compare with, --template FILE or --stack NAME, not both\n")


def test_template_without_bytecode_is_noted(cli: Cli) -> None:
    """Whoever gets a template whose functions start slowly hears how they start quickly, unless they do."""
    note = '`sam build` packs sources without bytecode; cold starts are three times as quick with infra = {"build": '
    said = cli("infra", "sam")
    assert said.code == 0
    assert note in said.err
    assert note not in cli("infra", "sam").err
    quick = cli.module("from dispatcher import Dispatcher\napp = Dispatcher(infra={'build': 'makefile'})\n")
    said = cli.bare("-A", quick, "infra", "sam", "-o", "quick.yaml")
    assert (said.code, said.err) == (0, "quick.yaml written\n")
