"""Converts a data set to inputs of a model, float32 in the shape of its input, and refuses data that do not fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Int64

from pipeline.data.dataset import Dataset
from pipeline.data.layout import Layout, arrange, order_of
from pipeline.data.usual import USUAL, flags, normalised_by
from pipeline.errors import Incomplete, InputRejected, UsageError

LARGEST = float(np.finfo(np.float32).max)
MOST_DEVIATIONS = 10
"""Values further from zero are not taken for normalised ones."""

__all__ = ["Fitted", "Layout", "Pixels", "fit"]


@dataclass(frozen=True, eq=False)
class Pixels:
    """Images as they are stored, converted when they are indexed: ``pixels[rows]`` is a contiguous float32 array.

    Bytes take a quarter of the memory of floats, and a data set is never held as floats as a whole.
    """

    stored: np.ndarray
    divisor: int = 1

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def shape(self) -> tuple[int, ...]:
        """Samples first."""
        return self.stored.shape

    def __getitem__(self, rows: Any) -> Float32[np.ndarray, "..."]:
        pixels = np.ascontiguousarray(self.stored[rows], np.float32)
        return pixels if self.divisor == 1 else pixels / np.float32(self.divisor)


@dataclass(frozen=True, eq=False)
class Fitted:
    """Inputs of a model and their classes; `notes` state every assumption of the conversion.

    `value_range` is the valid range of a pixel, in whose units eps is; `layout` the axis order of `images`.
    """

    images: Pixels
    labels: Int64[np.ndarray, " n"]
    value_range: tuple[float, float]
    layout: Literal["NCHW", "NHWC", "flat"]
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Int64[np.ndarray, " k"]) -> Fitted:
        """The samples of these rows."""
        return replace(self, images=replace(self.images, stored=self.images.stored[rows]), labels=self.labels[rows])


def fit(
    dataset: Dataset,
    rows: Int64[np.ndarray, " k"] | None = None,
    *,
    input_shape: tuple[int, ...],
    classes: int,
    layout: Layout | None = None,
    value_range: tuple[float, float] | None = None,
    label_offset: int = 0,
    as_stored: bool = False,
) -> Fitted:
    """The data set, or some of its rows, as inputs of shape `input_shape` (one sample, no batch axis), with labels from 0.

    All labels are checked, whichever rows are taken: whether data are accepted does not depend on the selection. 8-bit images
    become x/255 unless `value_range` says that the model takes them as they are. `layout` is the order of channels where a shape
    leaves it open. `label_offset` is added to every label. `as_stored` takes values as they are, and their smallest and largest
    value as the range unless `value_range` is given.

    Raises InputRejected for data that do not fit, UsageError for invalid settings, Incomplete for no samples.
    """
    if len(dataset) == 0:
        raise Incomplete(
            f"{dataset.uri!r} ({dataset.part}) holds no samples, so that nothing can be checked. Check the data."
        )
    if value_range is not None and not (max(map(abs, value_range)) <= LARGEST and value_range[0] < value_range[1]):
        raise UsageError(
            f"--range must be LOW,HIGH with LOW < HIGH, numbers that float32 holds; received {value_range}."
        )
    labels, label_notes = _labels(dataset, classes, label_offset)
    if rows is not None:
        dataset, labels = dataset.take(rows), labels[rows]
    images, layout_notes = arrange(dataset.images, input_shape, layout, uri=dataset.uri)
    _require_finite(images, dataset.uri)
    if as_stored and value_range is None:
        pixels, bounds, range_notes = _span(images)
    else:
        pixels, bounds, range_notes = _scale(images, value_range, dataset.uri, order_of(input_shape, layout))
    notes = (*dataset.notes, *layout_notes, *range_notes, *label_notes)
    return Fitted(pixels, labels, bounds, order_of(input_shape, layout), notes)


def _require_finite(images: np.ndarray, uri: str) -> None:
    if images.dtype != np.uint8 and not np.isfinite(images).all():
        bad = ~np.isfinite(images.reshape(len(images), -1)).all(axis=1)
        raise InputRejected(
            f"{uri!r}: values must be finite; {int(bad.sum())} of {len(bad)} samples hold NaN or infinity, "
            f"the first is sample {int(bad.argmax())}. Repair or remove them."
        )


def _span(images: np.ndarray) -> tuple[Pixels, tuple[float, float], tuple[str, ...]]:
    """Values as they are, and their smallest and largest value as the range."""
    low, high = float(images.min()), float(images.max())
    return Pixels(images), (low, high if low < high else low + 1), (f"values taken as they stand, {low:g} to {high:g}",)


def _scale(
    images: np.ndarray, value_range: tuple[float, float] | None, uri: str, order: str
) -> tuple[Pixels, tuple[float, float], tuple[str, ...]]:
    unit = (0.0, 1.0)
    low, high = float(images.min()), float(images.max())
    if images.dtype == np.uint8 and value_range in (None, unit):
        if high > 1:
            return Pixels(images, 255), unit, ("8-bit values scaled to [0, 1] by 1/255",)
        if value_range is None and high > 0:
            raise InputRejected(
                f"{uri!r}: 8-bit values of which none exceeds 1 may be binary, or images already divided by 255 and "
                "rounded. Say `--range 0,1` to take them as they stand."
            )
    pixels = Pixels(images)
    if value_range is not None:
        # A float32 file holds float32(0.1), not 0.1.
        start, end = value_range
        if low < min(start, float(np.float32(start))) or high > max(end, float(np.float32(end))):
            raise InputRejected(
                f"{uri!r}: values must lie in --range {start:g},{end:g}; found {low:g} to {high:g}. "
                "--range states the units of the data as they are stored."
            )
        return pixels, value_range, () if value_range == unit else (f"values taken as they stand, {low:g} to {high:g}",)
    if low < 0 or high > 1:
        raise InputRejected(
            f"{uri!r}: values lie in {low:g} to {high:g}, outside [0, 1], and eps is in units of the pixel range. "
            f"{_advice(images, low, high, order)}"
        )
    return pixels, unit, ()


def _advice(images: np.ndarray, low: float, high: float, order: str) -> str:
    """What to do about values outside [0, 1]: undo a normalisation, or state the range."""
    within = low >= -1 and high <= 1
    if low >= 0 or within or max(-low, high) > MOST_DEVIATIONS or (images[:8] == np.round(images[:8])).all():
        return (
            f"Say `--range LOW,HIGH` (such as `--range {_likely(low, high)}`), "
            + ("--scale std where each feature has a unit of its own, " if order == "flat" else "")
            + "or store images before normalisation and give --mean and --std."
        )
    axis = {"NCHW": 1, "NHWC": images.ndim - 1}.get(order)
    others = tuple(a for a in range(images.ndim) if a != axis)
    usual = normalised_by(*(np.atleast_1d(end(images, axis=others)) for end in (np.min, np.max)))
    normalisation = USUAL[usual or "ImageNet"]
    mean, std = (", ".join(f"{v:g}" for v in values) for values in normalisation)
    by = f"as by mean and deviation of {usual}" if usual else "by an unknown mean and deviation"
    assumed = "" if usual else ", if they are those of ImageNet"
    return (
        f"They are normalised already, it seems, {by}. Store pixels again, x * std + mean (mean {mean}, std {std}{assumed}), "
        f"and say what the deployment does to them: `{flags(normalisation)}`."
    )


def _likely(low: float, high: float) -> str:
    for guess in ((-1, 1), (0, 255), (-128, 127)):
        if guess[0] <= low and high <= guess[1]:
            return f"{guess[0]},{guess[1]}"
    return f"{np.floor(low):g},{np.ceil(high):g}"


def _labels(dataset: Dataset, classes: int, offset: int) -> tuple[np.ndarray, tuple[str, ...]]:
    labels = dataset.labels + offset
    low, high = int(labels.min()), int(labels.max())
    fault = f"{dataset.uri!r}: labels must lie in 0 to {classes - 1} ({classes} classes); found {low} to {high}"
    if low >= 1 and high == classes:
        raise InputRejected(f"{fault}. They look 1-based: `--label-offset {offset - 1}`.")
    if low == -1 and high < classes - 1:
        raise InputRejected(f"{fault}. They are shifted by one too many: `--label-offset {offset + 1}`.")
    if classes == 2 and set(np.unique(labels)) == {-1, 1}:
        raise InputRejected(f"{fault}. Store 0 in place of -1.")
    if low < 0 or high >= classes:
        raise InputRejected(f"{fault}. Take data of the model's own classes, or say `--label-offset`.")
    return labels, (f"{offset:+d} added to every label",) if offset else ()
