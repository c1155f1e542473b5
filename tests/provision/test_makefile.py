"""The Makefile that builds the functions of a template: rules, what is somebody else's, and what no rule makes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dispatcher import Dispatcher
from dispatcher.provision import Plan, makefile, plan, sam
from dispatcher.provision.marks import HandEdited
from dispatcher.provision.reading import parse
from dispatcher.provision.resources import template

IMAGE = "111122223333.dkr.ecr.eu-west-1.amazonaws.com/film/cut:1"
LAYER = "arn:aws:lambda:eu-west-1:111122223333:layer:fonts:3"


def planned(stage: str | None = None, **infra: Any) -> Plan:
    """Return the plan of an app with two queues."""
    app = Dispatcher("shop", set_as_current=False, task_queues=["default", "video"], infra=infra)
    return plan(app, spec="shop.tasks:app", stage=stage)


def rendered(of: Plan, existing: str | None = None, *, force: bool = False) -> str:
    """Return the text of the Makefile, which is written."""
    text = makefile.render(of, template(of), existing, force=force)
    assert text is not None
    return text


def test_a_rule_is_of_one_kind_of_package() -> None:
    """Functions of another architecture have a rule of their own; with layers nothing is said of what is missing."""
    text = rendered(planned(code="my src", queues={"video": {"architecture": "x86_64", "layers": [LAYER]}}))
    assert "\nbuild-DefaultFunction build-LostFunction:\n" in text
    assert """--project 'my src' --app shop.tasks:app \\\n\t\t--runtime python3.13 --architecture arm64 """ in text
    assert "\nbuild-VideoFunction:\n" in text
    assert "--project 'my src' \\\n\t\t--runtime python3.13 --architecture x86_64 " in text


def test_directories_are_quoted_for_make_and_for_the_shell() -> None:
    """A dollar is make's, unless it stands twice."""
    assert "--project 'a$$b' --app" in rendered(planned(code="a$b"))


def test_line_endings_stay() -> None:
    """A Makefile with those of Windows is up to date, and what is renewed in it has them too."""
    text = rendered(planned()).replace("\n", "\r\n")
    assert rendered(planned(), text) == text
    other = rendered(planned(runtime="python3.12"), text)
    assert "python3.12" in other
    assert other.count("\n") == other.count("\r\n")


def test_python_without_dispatcher_is_named(tmp_path: Path) -> None:
    """The build ends before it makes anything, and says how another Python is named."""
    (tmp_path / "Makefile").write_text(rendered(planned()))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    python.chmod(0o755)
    variables = {**os.environ, "PYTHON": str(python), "ARTIFACTS_DIR": str(tmp_path / "built")}
    done = subprocess.run(
        ["make", "build-DefaultFunction"], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert f"{python} lacks serverless-dispatcher; name one that has it, and pip: PYTHON=" in done.stderr
    assert not (tmp_path / "built").exists()


def test_functions_name_the_directory_of_their_makefile() -> None:
    """Each app and stage has its own, so that templates beside each other do not share one."""
    for stage, name in ((None, "shop"), ("prod", "shop-prod")):
        made = planned(stage, stages={"prod": {}})
        assert makefile.folder(made).as_posix() == f"infra/sam/{name}"
        function = parse(sam.render(made))["Resources"]["VideoFunction"]
        assert function["Metadata"] == {
            "BuildMethod": "makefile",
            "ProjectRootDirectory": f"infra/sam/{name}/",
            "WorkingDirectory": ".",
        }


@pytest.mark.parametrize("infra", [{"build": "sam"}, {"build": "makefile"}, {"image": IMAGE}])
def test_functions_that_are_built_otherwise_need_none(infra: dict[str, Any]) -> None:
    """There is no Makefile of ours, and the template names none."""
    made = planned(**infra)
    assert makefile.render(made, template(made)) is None
    assert "ProjectRootDirectory" not in sam.render(made)


def test_lines_of_somebody_survive() -> None:
    """What stands outside the marks stays; an edit between them is refused, and lost by force."""
    text = "# ours\n" + rendered(planned()).replace("PACKAGING ?=", "PACKAGING ?= --service sns")
    other = rendered(planned(runtime="python3.12"), text)
    assert other.startswith("# ours\n")
    assert "PACKAGING ?= --service sns" in other
    assert "--runtime python3.12" in other
    edited = other.replace("python3.12", "python3.11")
    with pytest.raises(HandEdited, match=r"^lines \d+ to \d+: somebody changed .* --force"):
        rendered(planned(), edited)
    assert rendered(planned(runtime="python3.12"), edited, force=True) == other


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("build-Own:\n\techo\n", False),
        ("x build-Own : y\n", False),
        ("build-%:\n", False),
        ("build-Other \\\n  build-Own:\n", False),
        ("include rules.mk\n", False),
        ("$(TARGETS):\n", False),
        ("build-Other:\n\techo build-Own:\n# build-Own:\n", True),
        ("NAME := build-Own\n", True),
    ],
)
def test_targets_are_found_in_a_makefile(tmp_path: Path, text: str, missing: bool) -> None:
    """By name, by pattern, or where nobody can tell; what is said in recipes and comments is none."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "Makefile").write_text(text)
    given = {"Resources": {"Own": {"Metadata": {"BuildMethod": "makefile"}, "Properties": {"CodeUri": "code/"}}}}
    assert bool(list(makefile.unbuildable(given, tmp_path))) == missing


def test_makefile_is_looked_for_where_sam_build_does(tmp_path: Path) -> None:
    """The metadata's directories win over the code's, and `ContextPath` over the other."""
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "Makefile").write_text("build-Own:\n")
    for metadata, missing in (
        ({"ContextPath": "rules"}, False),
        ({"ProjectRootDirectory": "rules"}, False),
        ({"ContextPath": "rules", "ProjectRootDirectory": "code"}, False),
        ({"ContextPath": "code", "ProjectRootDirectory": "rules"}, True),
        ({}, True),
    ):
        function = {"Metadata": {"BuildMethod": "makefile", **metadata}, "Properties": {"CodeUri": "code"}}
        assert bool(list(makefile.unbuildable({"Resources": {"Own": function}}, tmp_path))) == missing
