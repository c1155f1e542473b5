"""Finding modules of tasks: by package, by Django's settings, by dotted name."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple


def load(path: str) -> Any:
    """Return the object that a dotted name means."""
    module, _, name = path.replace(":", ".").rpartition(".")
    return getattr(importlib.import_module(module), name)


class Autodiscovery(NamedTuple):
    """What one call of ``autodiscover_tasks`` asked for; packages are found when it runs."""

    packages: Any
    related_name: str | None

    def run(self) -> None:
        """Import the related module of each package; one that does not exist is passed over."""
        names = self.packages() if callable(self.packages) else self.packages
        if names is None:
            from dispatcher.app import django  # only where it is asked for

            names = django.installed_apps()
        for package in [names] if isinstance(names, str) else names:
            import_related(package, self.related_name)


def import_related(package: str, related: str | None) -> None:
    """Import the related module of a package; one that does not exist is passed over."""
    name = f"{package}.{related}" if related else package
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Passed over is a package without the module; a missing import inside the module is the user's error.
        if error.name != name:
            raise
        importlib.import_module(package)
