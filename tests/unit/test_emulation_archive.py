"""Deployment archives for functions hold what they are given."""

import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from tests.emulation.archive import archive


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
