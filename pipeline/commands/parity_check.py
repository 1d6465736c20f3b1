"""Compares the import of a file with ONNX Runtime on the data of a run: at samples, in their boxes and in the whole range."""

from __future__ import annotations

import secrets

import numpy as np
import torch

from pipeline.certify import random_points
from pipeline.commands.subject import Subject
from pipeline.core.feature_box import FeatureBox
from pipeline.core.threat import Ball
from pipeline.data import Fitted
from pipeline.distributed.group import ProcessGroup
from pipeline.onnx.parity import MeasuredParity
from pipeline.settings import Settings

RANGE_SAMPLES = 1024
"""Where each feature has its own range, random points lie between the values of this many samples."""
PARITY_SAMPLES, PARITY_BOXES = 16, 2
"""Parity is measured at this many samples, and at random points in the boxes of this many."""


def seed_of(settings: Settings, group: ProcessGroup) -> int:
    """``--parity-seed``, else a random seed, the same in all processes."""
    return group.all_gather(secrets.randbits(32) if settings.parity_seed is None else settings.parity_seed)[0]


def measure_parity(subject: Subject, fitted: Fitted, ball: Ball, seed: int) -> MeasuredParity:
    """Parity at samples, at random points in the boxes of some, and in the whole range. Raises InputRejected (3) if it fails."""
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(fitted.images[np.sort(rng.permutation(len(fitted.images))[:PARITY_BOXES])])
    points = [point.numpy() for point in random_points(x, ball, rng)]
    points.append(_points_in_range(fitted, ball, x.numpy(), rng))
    return subject.parity_at(fitted.images[:PARITY_SAMPLES], np.concatenate(points))


def _points_in_range(fitted: Fitted, ball: Ball, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random points of the whole range, like ``x``; where features have ranges of their own, between the values of samples.

    Features of radius 0 keep their values in ``x``.
    """
    if not isinstance(ball, FeatureBox):
        low, high = fitted.value_range
        return (low + (high - low) * rng.random(x.shape)).astype(np.float32)
    some = fitted.images[:RANGE_SAMPLES]
    points = some.min(0) + (some.max(0) - some.min(0)) * rng.random(x.shape)
    return np.where(ball.features.radius > 0, points, x).astype(np.float32)
