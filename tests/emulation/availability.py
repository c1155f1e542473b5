"""What a test does when a server that it needs is not there: skip at home, fail where `CI=true`."""

import os
import shutil
from typing import NoReturn

import pytest


def unavailable(reason: str) -> NoReturn:
    """Skip the running test with a visible reason; in CI, where nothing may be missing, fail it."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"CI must provide everything: {reason}", pytrace=False)
    pytest.skip(reason)


def require_executable(*names: str) -> str:
    """The path of the first of `names` that is installed; without one, the running test ends as `unavailable`."""
    for name in names:
        path = shutil.which(name)
        if path is not None:
            return path
    unavailable(f"{' or '.join(names)} is not installed")
