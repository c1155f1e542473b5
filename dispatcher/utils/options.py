"""Checking the options of an adapter."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from dispatcher.exceptions import ImproperlyConfigured


def check_options(owner: str, options: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse options the owner does not know, naming the nearest one it does."""
    names = sorted(known)
    for name in options:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(names) or 'none'}"
            raise ImproperlyConfigured(f"{owner} has no option {name!r}; {hint}")


def seconds_option(owner: str, options: Mapping[str, Any], name: str, default: float) -> float:
    """Return an option that is a positive number of seconds."""
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ImproperlyConfigured(
            f"the option {name!r} of {owner} must be a positive number of seconds, not {value!r}"
        )
    return float(value)
