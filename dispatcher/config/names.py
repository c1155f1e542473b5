"""Names of settings: which key a spelling means, and what a misspelt one may have meant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dispatcher.config.celery_keys import OLD_NAMES, OPTIONS
from dispatcher.exceptions import ImproperlyConfigured

#: From this similarity on, an unknown name in a module counts as a misspelt setting; below, as something else.
SURELY_MEANT: Final = 0.85
_MAYBE_MEANT: Final = 0.7


def canonical(name: str) -> str | None:
    """Return the key that a lower-case or old upper-case name means, or `None`."""
    return name if name in OPTIONS else OLD_NAMES.get(name)


def nearest(name: str, candidates: Iterable[str], least: float = _MAYBE_MEANT) -> str | None:
    """Return the candidate most like a name, if it is at least this similar (0 to 1)."""
    import difflib

    found = difflib.get_close_matches(name, list(candidates), n=1, cutoff=least)
    return found[0] if found else None


def unknown(name: str, candidates: Iterable[str] | None = None) -> ImproperlyConfigured:
    """Return the error for a name that is no setting, with the nearest one that is."""
    if candidates is None:
        candidates = OLD_NAMES if name.isupper() else OPTIONS
    match = nearest(name, candidates)
    hint = f"did you mean {match!r}?" if match else "`python -m dispatcher.config` lists all settings"
    return ImproperlyConfigured(f"unknown setting {name!r}: {hint}")
