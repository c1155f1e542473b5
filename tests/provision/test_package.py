"""Packages for functions: modules, and wheels for the function's platform."""

import zipfile
from pathlib import Path

import pytest

from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.provision.package import Package


def wheel(folder: Path, tag: str) -> Path:
    """A wheel of the distribution `yeast` with one module."""
    path = folder / f"yeast-1.0-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("yeast.py", "")
        archive.writestr("yeast-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: yeast\nVersion: 1.0\n")
        archive.writestr("yeast-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr("yeast-1.0.dist-info/RECORD", "")
    return path


def test_modules_and_wheels_of_the_platform_are_put_together(tmp_path: Path) -> None:
    """Wheels are those of the function's machine and Python, not of this one; caches stay behind."""
    source = tmp_path / "bakery"
    (source / "__pycache__").mkdir(parents=True)
    (source / "__init__.py").write_text("")
    (source / "__pycache__" / "__init__.cpython-311.pyc").write_text("")
    (tmp_path / "single.py").write_text("")
    wheel(tmp_path, "cp313-cp313-manylinux_2_28_aarch64")
    (tmp_path / "requirements.txt").write_text(f"--no-index\n--find-links {tmp_path}\nyeast\n")
    package = Package([source, tmp_path / "single.py"], tmp_path / "requirements.txt")
    into = tmp_path / "built"
    package.build(into, runtime="python3.13", architecture="arm64")
    found = {path.relative_to(into).as_posix() for path in into.rglob("*.py*")}
    assert found == {"bakery/__init__.py", "single.py", "yeast.py"}
    with pytest.raises(ImproperlyConfigured, match=r"for python3.13 on x86_64 cannot be fetched:\n.*yeast"):
        package.build(tmp_path / "other", runtime="python3.13", architecture="x86_64")


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """The error names the path."""
    with pytest.raises(ImproperlyConfigured, match="'no/such' does not exist"):
        Package(["no/such"]).build(tmp_path, runtime="python3.13", architecture="arm64")
