"""Exact numbers rounded to floating point, each function in one stated direction."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np

_CACHE = 1 << 16


@lru_cache(_CACHE)
def below64(value: Fraction) -> float:
    """The largest float64 at most ``value``."""
    near = float(value)
    return near if Fraction(near) <= value else math.nextafter(near, -math.inf)


def above64(value: Fraction) -> float:
    """The smallest float64 at least ``value``."""
    return -below64(-value)


@lru_cache(_CACHE)
def nearest32(value: Fraction) -> float:
    """The float32 that an exact number becomes on its way into a model: round to nearest, ties to even."""
    near = np.float32(float(value))  # rounded twice: at worst the neighbour of the right one
    around = (near, np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf)))
    return min(map(float, around), key=lambda f: (abs(Fraction(f) - value), int(np.float32(f).view(np.uint32)) & 1))


@lru_cache(_CACHE)
def below32(value: Fraction) -> float:
    """The largest float32 at most ``value``."""
    near = nearest32(value)
    return near if Fraction(near) <= value else float(np.nextafter(np.float32(near), np.float32(-np.inf)))


def above32(value: Fraction) -> float:
    """The smallest float32 at least ``value``."""
    return -below32(-value)
