"""What `import dispatcher` promises: the public names, and a cheap import."""

import json
import subprocess
import sys

import pytest

import dispatcher

PUBLIC_NAMES = frozenset(
    {
        "AsyncResult",
        "Dispatcher",
        "GroupResult",
        "ResultSet",
        "Signature",
        "Task",
        "__version__",
        "chain",
        "chord",
        "chunks",
        "current_app",
        "current_task",
        "group",
        "maybe_signature",
        "shared_task",
        "signature",
        "uuid",
        "xmap",
        "xstarmap",
    }
)

# Loading one of these takes milliseconds a cold start should not pay, or binds the package to an extra.
NOT_LOADED = frozenset(
    {
        "asyncio",
        "aws_lambda_powertools",
        "boto3",
        "botocore",
        "click",
        "concurrent.futures",
        "multiprocessing",
        "pickle",
        "redis",
        "rich",
        "sqlite3",
        "yaml",
    }
)


def _loaded_by(statement: str) -> set[str]:
    """Return the modules that a fresh interpreter has loaded after `statement` and had not before."""
    program = (
        f"import sys, json; old = set(sys.modules); {statement}; print(json.dumps(sorted(set(sys.modules) - old)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(done.stdout))


def test_public_names_are_exact() -> None:
    """`__all__` holds the public names, each once, and nothing else."""
    assert len(dispatcher.__all__) == len(set(dispatcher.__all__))
    assert set(dispatcher.__all__) == PUBLIC_NAMES


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES))
def test_public_name_resolves(name: str) -> None:
    """Every public name can be had from the package and is listed by dir()."""
    assert getattr(dispatcher, name) is not None
    assert name in dir(dispatcher)


def test_unknown_name_is_an_attribute_error() -> None:
    """A name the package does not have raises AttributeError, as of any module."""
    with pytest.raises(AttributeError, match="no_such_name"):
        dispatcher.no_such_name  # noqa: B018


def test_star_import_gives_the_public_names() -> None:
    """`from dispatcher import *` binds exactly the public names."""
    namespace: dict[str, object] = {}
    exec("from dispatcher import *", namespace)
    assert set(namespace) - {"__builtins__"} == PUBLIC_NAMES


def test_import_is_cheap() -> None:
    """`import dispatcher` loads no driver, no event loop and none of the extras."""
    assert not _loaded_by("import dispatcher") & NOT_LOADED
