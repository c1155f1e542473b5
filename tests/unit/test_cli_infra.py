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


MAKEFILE = Path("infra/sam/clitest/Makefile")


def test_template_comes_with_its_makefile(cli: Cli) -> None:
    """It is written beside the template, and is up to date from then on; --check misses it, and shows what is stale."""
    said = cli("infra", "sam", "-o", "deploy/template.yaml")
    beside = "deploy" / MAKEFILE
    missing = "deploy/requirements.txt is still to be written: serverless-dispatcher, and what the app imports"
    assert (said.code, said.err) == (0, f"deploy/template.yaml written\n{beside} written\n{missing}\n")
    Path("deploy/requirements.txt").write_text("serverless-dispatcher\n")
    assert cli("infra", "sam", "-o", "deploy/template.yaml").err == "deploy/template.yaml is up to date\n"
    assert cli("infra", "sam", "-o", "deploy/template.yaml", "--check").code == 0
    beside.unlink()
    said = cli("infra", "sam", "-o", "deploy/template.yaml", "--check")
    assert said.code == 1
    assert "+build-DefaultFunction build-MailFunction build-LostFunction:" in said.out.splitlines()
    assert f"{beside} is not up to date; run" in said.err
    assert not beside.exists()


def test_template_that_is_printed_names_the_makefile_that_it_needs(cli: Cli) -> None:
    """Nothing is written, and nobody hears of a missing Makefile from `sam build` first."""
    said = cli("infra", "sam", "-o", "-")
    assert f"built by {MAKEFILE}, which `infra sam -o FILE` writes beside FILE" in said.err
    assert not MAKEFILE.exists()


@pytest.mark.parametrize("build", ["makefile", "sam"])
def test_other_ways_to_build_write_no_makefile(cli: Cli, build: str) -> None:
    """A Makefile of somebody's, and the way of `sam build` itself, need none of ours."""
    name = cli.module(f"from dispatcher import Dispatcher\napp = Dispatcher('shop', infra={{'build': '{build}'}})\n")
    said = cli.bare("-A", name, "infra", "sam")
    assert (said.code, said.err) == (0, "template.yaml written\n")


def test_makefile_that_is_no_longer_used_is_named(cli: Cli) -> None:
    """It stays, as somebody's lines may be in it."""
    name = cli.module("from dispatcher import Dispatcher\napp = Dispatcher('clitest', infra={'build': 'sam'})\n")
    assert cli("infra", "sam").code == 0
    said = cli.bare("-A", name, "infra", "sam")
    assert (said.code, said.err) == (0, f"template.yaml renewed\nno longer used: {MAKEFILE}\n")
    MAKEFILE.write_text("all:\n")
    assert cli.bare("-A", name, "infra", "sam").err == "template.yaml is up to date\n"


def test_check_has_a_file_to_compare_with(cli: Cli) -> None:
    """A template that is printed is compared with nothing."""
    said = cli("infra", "sam", "--check", "-o", "-")
    assert (said.code, said.out) == (2, "")
    assert said.err == "error: --check compares with a file, and -o - prints; give one of them\n"


def test_makefile_of_somebody_is_left_alone(cli: Cli) -> None:
    """It is refused by its name, with the two ways out."""
    MAKEFILE.parent.mkdir(parents=True)
    MAKEFILE.write_text("all:\n")
    said = cli("infra", "sam")
    assert said.code == 1
    assert said.err.startswith(f"error: {MAKEFILE}: there is a Makefile that `dispatcher infra sam` has not written;")
    assert """move it to the directory '.', and set infra = {"build": "makefile"}""" in said.err
    assert MAKEFILE.read_text() == "all:\n"
    assert not Path("template.yaml").exists()


def test_check_finds_functions_that_no_makefile_builds(cli: Cli) -> None:
    """`infra check` names the Makefile that is missing, and the target that is."""
    assert cli("infra", "sam").code == 0
    assert cli("infra", "check", "--template", "template.yaml").code == 0
    text = MAKEFILE.read_text()
    MAKEFILE.write_text(text.replace("build-LostFunction", ""))
    said = cli("infra", "check", "--template", "template.yaml")
    assert said.code == 1
    assert said.out == (
        f"LostFunction (Metadata): BuildMethod is makefile, but {MAKEFILE} has no target build-LostFunction\n"
    )
    MAKEFILE.unlink()
    said = cli("infra", "check", "--template", "template.yaml")
    assert f"DefaultFunction (Metadata): BuildMethod is makefile, but there is no {MAKEFILE}\n" in said.out
