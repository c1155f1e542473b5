"""Environments for the emulator are made once, by one process, and completely."""

import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from tests.emulation import environments
from tests.emulation.archive import archive

MAKE = """
import sys
from pathlib import Path
from tests.emulation import environments
environments._REQUIREMENTS = Path(sys.argv[1])
print(environments._python("toy"))
"""


@pytest.fixture
def requirements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A requirement file that installs nothing, in a directory of its own."""
    monkeypatch.setenv(environments.DIRECTORY_VARIABLE, str(tmp_path / "made"))
    monkeypatch.setattr(environments, "_REQUIREMENTS", tmp_path)
    file = tmp_path / "requirements-toy.txt"
    file.write_text("# nothing\n")
    return file


def test_racing_processes_make_one_environment(requirements: Path, tmp_path: Path) -> None:
    """Processes that need the same environment at once get one, in place of what an interrupted attempt left."""
    home = environments._home("toy")
    home.mkdir(parents=True)
    (home / "leftover").touch()
    command = [sys.executable, "-c", MAKE, str(requirements.parent)]
    racing = [subprocess.Popen(command, cwd=environments.ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate()[0].strip() for process in racing]
    assert answers == [str(home / "bin" / "python")] * 2
    assert subprocess.run([answers[0], "-c", "pass"], check=True).returncode == 0
    assert not (home / "leftover").exists()
    assert (tmp_path / "made" / ".gitignore").read_text() == "*\n"
    made = (home / "complete").stat().st_mtime_ns
    assert environments._python("toy") == home / "bin" / "python"
    assert (home / "complete").stat().st_mtime_ns == made


def test_failure_is_reported_with_the_words_of_pip(requirements: Path) -> None:
    """An environment that cannot be made says why and is not taken for complete."""
    requirements.write_text("./no-such-directory-here\n")
    with pytest.raises(environments.EnvironmentUnavailable, match="no-such-directory-here"):
        environments._python("toy")
    assert not (environments._home("toy") / "complete").exists()


def test_archive_holds_packages_and_files_under_their_own_names(tmp_path: Path) -> None:
    """A directory becomes a package, a file a module; caches stay out; equal input gives equal bytes."""
    (tmp_path / "package" / "__pycache__").mkdir(parents=True)
    (tmp_path / "package" / "__pycache__" / "x.pyc").touch()
    (tmp_path / "package" / "__init__.py").write_text("x = 1\n")
    (tmp_path / "module.py").write_text("y = 2\n")
    sources = [tmp_path / "package", tmp_path / "module.py"]
    made = archive(sources)
    assert made == archive(sources)
    with zipfile.ZipFile(BytesIO(made)) as content:
        assert sorted(content.namelist()) == ["module.py", "package/__init__.py"]
        assert content.read("module.py") == b"y = 2\n"


def test_archive_of_something_missing_is_refused(tmp_path: Path) -> None:
    """A source that does not exist is named."""
    with pytest.raises(FileNotFoundError, match="nowhere"):
        archive([tmp_path / "nowhere"])
