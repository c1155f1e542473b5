"""Options of adapters are checked by name and value."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dispatcher.exceptions import ImproperlyConfigured
from dispatcher.utils.options import check_options, seconds_option


def test_known_options_pass() -> None:
    """No error, whether options are given or not."""
    check_options("the broker", {"timeout": 1}, ["timeout", "size"])
    check_options("the broker", {}, [])


def test_a_typo_names_the_nearest_option() -> None:
    """The error names the owner, the option and what was probably meant."""
    with pytest.raises(ImproperlyConfigured, match="the broker has no option 'timeuot'; did you mean 'timeout'"):
        check_options("the broker", {"timeuot": 1}, ["timeout", "size"])


def test_an_unknown_option_lists_the_known_ones() -> None:
    """Where nothing is near, the error lists what there is."""
    with pytest.raises(ImproperlyConfigured, match="it knows size, timeout"):
        check_options("the broker", {"fanout": 1}, ["timeout", "size"])
    with pytest.raises(ImproperlyConfigured, match="it knows none"):
        check_options("the broker", {"fanout": 1}, [])


def test_seconds_are_given_or_default() -> None:
    """Whole numbers become floats."""
    assert seconds_option("the broker", {}, "timeout", 3.0) == 3.0
    assert seconds_option("the broker", {"timeout": 5}, "timeout", 3.0) == 5.0


@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, "5", None, True])
def test_other_values_are_no_seconds(value: Any) -> None:
    """The error names the option and the value."""
    with pytest.raises(ImproperlyConfigured, match="'timeout' of the broker"):
        seconds_option("the broker", {"timeout": value}, "timeout", 3.0)
