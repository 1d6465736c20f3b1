"""The data of a run: the source, the selection of samples, and their conversion to inputs of the model."""

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
    """The URI of the data. Raises UsageError (2), with a suggestion, where none is given."""
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
    """The samples, or those of ``rows``, as float32 pixels in the shape of the model's input.

    Raises InputRejected (3) for data that do not fit the model.
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
    """The test part of the data if the source has one, else all data."""
    return load_for(joined, uri, "test" if joined is not None or has_part(uri, "test") else None, settings)


def select_samples(n: int, settings: Settings) -> tuple[np.ndarray, int | None]:
    """The indices of the samples to certify, and the limit on their number, or None.

    A run without eps, which draws a curve, takes 200 samples unless told otherwise.
    """
    limit = settings.max_samples or (CURVE_SAMPLES if settings.curve else None)
    if limit is None or limit >= n:
        return np.arange(n), None
    return select(n, limit, settings.seed), limit
