"""Environments for the emulator and the runtime client are made once, by one process, and completely."""

import subprocess
import sys
from pathlib import Path

import pytest

from dispatcher.local import environments
from dispatcher.local.environments import EnvironmentUnavailable
from tests.emulation.environments import ROOT

MAKE = """
import sys
from pathlib import Path
from dispatcher.local import environments
print(environments.python_of(Path(sys.argv[1]), Path(sys.argv[2])))
"""


@pytest.fixture
def requirements(tmp_path: Path) -> Path:
    """A requirement file that installs nothing."""
    file = tmp_path / "requirements-toy.txt"
    file.write_text("# nothing\n")
    return file


def test_racing_processes_make_one_environment(requirements: Path, tmp_path: Path) -> None:
    """Processes that need the same environment at once get one, in place of what an interrupted attempt left."""
    directory = tmp_path / "made"
    home = environments.home_of(directory, requirements)
    home.mkdir(parents=True)
    (home / "leftover").touch()
    command = [sys.executable, "-c", MAKE, str(directory), str(requirements)]
    racing = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate()[0].strip() for process in racing]
    assert answers == [str(home / "bin" / "python")] * 2
    assert subprocess.run([answers[0], "-c", "pass"], check=True).returncode == 0
    assert environments.site_packages(Path(answers[0])).is_dir()
    assert not (home / "leftover").exists()
    assert (directory / ".gitignore").read_text() == "*\n"
    made = (home / "complete").stat().st_mtime_ns
    assert environments.python_of(directory, requirements) == home / "bin" / "python"
    assert (home / "complete").stat().st_mtime_ns == made


def test_failure_is_reported_with_the_words_of_pip(requirements: Path, tmp_path: Path) -> None:
    """An environment that cannot be made says why and is not taken for complete."""
    requirements.write_text("./no-such-directory-here\n")
    with pytest.raises(EnvironmentUnavailable, match="no-such-directory-here"):
        environments.python_of(tmp_path, requirements)
    assert not (environments.home_of(tmp_path, requirements) / "complete").exists()


def test_nothing_is_installed_where_that_is_refused(requirements: Path, tmp_path: Path) -> None:
    """Without leave to install, a missing environment is an error that says where it would be."""
    with pytest.raises(EnvironmentUnavailable, match="toy is not installed"):
        environments.python_of(tmp_path / "made", requirements, install=False)
    assert not (tmp_path / "made").exists()


def test_comments_make_no_other_environment(requirements: Path, tmp_path: Path) -> None:
    """Only what is installed decides which environment it is."""
    before = environments.home_of(tmp_path, requirements)
    requirements.write_text("# other words\n\n")
    assert environments.home_of(tmp_path, requirements) == before
    requirements.write_text("six==1.17.0\n")
    assert environments.home_of(tmp_path, requirements) != before
