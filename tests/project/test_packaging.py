"""What is built from this tree is what a user should get."""

import re
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from tests.project.imports import REPOSITORY

PINNED = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a wheel built from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=60)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    """Return the wheel's METADATA."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def test_wheel_holds_the_package_only(wheel: Path) -> None:
    """Nothing but `dispatcher` and its metadata is in the wheel, the type marker included."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"dispatcher"}
    assert "dispatcher/py.typed" in names


def test_core_needs_msgpack_only(metadata: Message) -> None:
    """Without extras the distribution depends on msgpack and nothing else."""
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert [re.split(r"[<>=~! ]", line)[0] for line in required] == ["msgpack"]


def test_metadata_names_the_distribution(metadata: Message) -> None:
    """The distribution has its own name and the package's version."""
    assert metadata["Name"] == "serverless-dispatcher"
    namespace: dict[str, str] = {}
    exec((REPOSITORY / "dispatcher" / "_version.py").read_text(encoding="utf-8"), namespace)
    assert metadata["Version"] == namespace["__version__"]


@pytest.mark.parametrize("name", sorted(path.name for path in (REPOSITORY / "requirements").glob("*.txt")))
def test_requirements_are_pinned(name: str) -> None:
    """Every requirements file gives one exact version a line and names no index."""
    lines = (REPOSITORY / "requirements" / name).read_text(encoding="utf-8").splitlines()
    loose = [line for line in lines if line and not line.startswith("#") and not PINNED.fullmatch(line)]
    assert not loose


def test_dev_tools_are_pinned() -> None:
    """Every package that the dev extra names itself has a pinned version."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (REPOSITORY / "requirements" / "dev.txt").read_text(encoding="utf-8").splitlines()
    }
    wanted = {re.split(r"[\[<>=]", line)[0].lower() for line in project["optional-dependencies"]["dev"]}
    assert wanted - {project["name"]} <= pinned
