"""The samples of a run: where they come from, which of them are taken, and as what a model gets them."""

from __future__ import annotations

import math

import numpy as np

from pipeline.commands.several_inputs import load_for
from pipeline.commands.subject import Subject
from pipeline.core.joined import Joined
from pipeline.data import Dataset, Fitted, fit, has_part, select
from pipeline.errors import UsageError
from pipeline.settings import CURVE_SAMPLES, Settings


def need_data(subject: Subject, settings: Settings) -> str:
    """The data URI. Raises UsageError (2) offering the likely one."""
    if settings.data is not None:
        return settings.data
    likely = {
        (784, 10): "torchvision:MNIST",
        (3072, 10): "torchvision:CIFAR10",
        (3072, 43): "torchvision:GTSRB",
        (64, 10): "digits",
    }.get((math.prod(subject.sample_shape), subject.classes), "npz:test.npz")
    size = "x".join(map(str, subject.sample_shape))
    raise UsageError(
        f"--data is missing, and neither pipeline.toml nor the file says it; the input is {size} with {subject.classes} "
        f"classes: `--data {likely}`?"
    )


def to_inputs(dataset: Dataset, subject: Subject, settings: Settings, rows: np.ndarray | None = None) -> Fitted:
    """The samples, or some of them, as float32 pixels in the shape of the model's input.

    Raises InputRejected (3) for what does not fit.
    """
    return fit(
        dataset,
        rows,
        input_shape=subject.sample_shape,
        classes=subject.classes,
        layout=settings.layout,
        value_range=settings.range if subject.joined is None else None,
        label_offset=settings.label_offset,
        as_stored=settings.by_feature or subject.joined is not None,
    )


def test_part(uri: str, settings: Settings, joined: Joined | None) -> Dataset:
    """The test part where the source has one, else all of it."""
    return load_for(joined, uri, "test" if joined is not None or has_part(uri, "test") else None, settings)


def chosen(n: int, settings: Settings) -> tuple[np.ndarray, int | None]:
    """Which samples are certified, and the limit that was applied: for the curve of a run without eps, 200 by seed."""
    limit = settings.max_samples or (CURVE_SAMPLES if settings.curve else None)
    if limit is None or limit >= n:
        return np.arange(n), None
    return select(n, limit, settings.seed), limit
