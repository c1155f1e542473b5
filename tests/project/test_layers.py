"""The layers of the package hold, and the check that says so can fail."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.project import layers
from tests.project.imports import PACKAGE, load_modules

Check = Callable[[dict[str, str]], list[str]]


def test_package_keeps_its_layers() -> None:
    """Imports point down without cycles; third parties and the environment stay where they belong."""
    found = layers.violations(load_modules(PACKAGE))
    assert not found, "\n" + "\n".join(found)


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Return a function that writes a package from {path: source} and returns the violations in it."""

    def run(sources: dict[str, str]) -> list[str]:
        for name, source in {"__init__.py": "", **sources}.items():
            path = tmp_path / "dispatcher" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
        return layers.violations(load_modules(tmp_path / "dispatcher"))

    return run


def test_downward_imports_pass(check: Check) -> None:
    """A module may import from lower layers, from its own, and its adapter's library."""
    assert not check(
        {
            "states.py": "",
            "retry.py": "import random\nfrom dispatcher import states",
            "brokers/__init__.py": "",
            "brokers/base.py": "from dispatcher.retry import x",
            "brokers/redis.py": "import redis\nfrom dispatcher.brokers.base import Broker",
        }
    )


@pytest.mark.parametrize(
    "source",
    [
        "from dispatcher.app import Dispatcher",
        "from dispatcher import app",
        "import dispatcher.app as a",
        "from . import app",
        "from .app import Dispatcher",
        "def f():\n    import dispatcher.app",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from dispatcher.app import Dispatcher",
        "import importlib\nimportlib.import_module('dispatcher.app')",
    ],
)
def test_upward_import_is_found(check: Check, source: str) -> None:
    """An import of a higher layer is reported in every way it can be written."""
    found = check({"app.py": "", "retry.py": source})
    assert len(found) == 1
    assert found[0].startswith("dispatcher.retry:")
    assert "layer 1 must not import layer 8" in found[0]


def test_longest_entry_decides(check: Check) -> None:
    """A port inside a package has the port's layer, not the package's."""
    found = check({"brokers/__init__.py": "", "brokers/base.py": "import dispatcher.result", "result.py": ""})
    assert len(found) == 1
    assert "imports dispatcher.result: layer 3 must not import layer 4" in found[0]


def test_cycle_is_found(check: Check) -> None:
    """Modules of one layer that import each other are reported, functions included."""
    found = check({"config.py": "def f():\n    import dispatcher.retry", "retry.py": "import dispatcher.config"})
    assert found == ["import cycle: dispatcher.config, dispatcher.retry"]


def test_import_of_the_root_is_found(check: Check) -> None:
    """A module that imports a public name from the root is told to go to the source."""
    assert "the root only re-exports" in check({"retry.py": "from dispatcher import Task"})[0]


def test_strangers_are_found(check: Check) -> None:
    """The Lambda side must not reach into the local side, though both share a layer."""
    found = check({"lambda_runtime/__init__.py": "import dispatcher.consumer", "consumer/__init__.py": ""})
    assert "meet in the executor only" in found[0]


def test_third_party_outside_its_adapter_is_found(check: Check) -> None:
    """A driver imported outside its adapter is reported with the places where it belongs."""
    assert check({"task.py": "def f():\n    from botocore.config import Config"}) == [
        f"dispatcher.task:2: imports botocore, which belongs in {' or '.join(layers.AWS_ADAPTERS)} only"
    ]


def test_undeclared_third_party_is_found(check: Check) -> None:
    """A library nobody declared is reported."""
    assert "which RESTRICTED" in check({"task.py": "import numpy"})[0]


@pytest.mark.parametrize(
    "source", ["import os\nx = os.environ['A']", "import os\nos.getenv('A')", "from os import environ"]
)
def test_environment_read_is_found(check: Check, source: str) -> None:
    """Reading the environment outside the configuration is reported."""
    assert "touches the environment" in check({"task.py": source})[0]
    assert not check({"task.py": "", "config.py": source})


def test_unknown_module_is_found(check: Check) -> None:
    """A module without a layer is reported."""
    assert "no layer" in check({"mystery.py": ""})[0]
