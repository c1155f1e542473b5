"""Medians, ratios and how sure of a ratio one may be."""

from __future__ import annotations

import random
from statistics import median
from typing import Final, Literal

Better = Literal["higher", "lower"]

_RESAMPLES: Final = 4000
_CONFIDENCE: Final = 0.95


def ratio(ours: list[float], theirs: list[float]) -> float:
    """Return the ratio of the medians."""
    return median(ours) / median(theirs)


def ratio_bound(ours: list[float], theirs: list[float], *, better: Better) -> float:
    """Return the unfavourable 95 % bound of the ratio of the medians: lower where more is better, else upper.

    Percentile bootstrap over rounds; both lists hold one value a round, in the same order, and stay paired. With one
    round it is the ratio itself.
    """
    rounds = list(zip(ours, theirs, strict=True))
    generator = random.Random(0)
    ratios = sorted(_resampled_ratio(generator.choices(rounds, k=len(rounds))) for _ in range(_RESAMPLES))
    share = 1 - _CONFIDENCE if better == "higher" else _CONFIDENCE
    return ratios[min(int(share * _RESAMPLES), _RESAMPLES - 1)]


def median_interval(values: list[float]) -> tuple[float, float]:
    """Return the 95 % interval of the median: percentile bootstrap over rounds, the value itself with one round."""
    generator = random.Random(0)
    medians = sorted(median(generator.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    tail = int((1 - _CONFIDENCE) / 2 * _RESAMPLES)
    return medians[tail], medians[-1 - tail]


def _resampled_ratio(rounds: list[tuple[float, float]]) -> float:
    return ratio([our for our, _ in rounds], [their for _, their in rounds])
