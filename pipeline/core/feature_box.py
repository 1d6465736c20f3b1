"""Boxes with a radius for each feature, as tabular data have them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from pipeline.core.threat import Extent, LinfBall

FARTHEST = 1000.0
"""The largest eps that is looked for where no valid range ends a box."""


@dataclass(frozen=True, eq=False)
class FeatureRadii:
    """By entry of a sample: how far eps = 1 moves it, 0 if it stays as it is, and its valid range, infinite without one."""

    radius: Float64[np.ndarray, "*features"]
    low: Float64[np.ndarray, "*features"]
    high: Float64[np.ndarray, "*features"]


@dataclass(frozen=True, eq=False, kw_only=True)
class FeatureBox(LinfBall):
    """Feature ``i`` within ``eps`` times its own radius ``r_i``, and within its own range."""

    features: FeatureRadii

    def radius_of(self, entry: int) -> Fraction:
        return self.eps * Fraction(float(self.features.radius.flat[entry]))

    def extent(self, x: Float[Tensor, " batch *features"]) -> Extent:
        by_feature = (float(self.eps) * self.features.radius, self.features.low, self.features.high)
        return Extent(*(torch.from_numpy(np.asarray(values)).to(x.device) for values in by_feature))

    def whole(self, entries: int) -> float:
        moves = self.features.radius > 0
        width = (self.features.high - self.features.low)[moves] / self.features.radius[moves]
        return min(float(width.max(initial=0.0)), FARTHEST)
