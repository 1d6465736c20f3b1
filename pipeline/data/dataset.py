"""A data set as its source stores it: images, labels, where they come from, and a digest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from pipeline.errors import Incomplete, InputRejected, UsageError

Images = UInt8[np.ndarray, " n *sample"] | Float32[np.ndarray, " n *sample"]
EXACT_IN_FLOAT32 = 2**24
LARGEST_LABEL = 2**31
IN_MEMORY = "memory"
"""The URI of data that were given as arrays."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels of one part of a source, unscaled and in the source's own order of axes."""

    images: Images
    labels: Int64[np.ndarray, " n"]
    uri: str
    part: str = "all"
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    feature_names: tuple[str, ...] | None = None
    """The names of a sample's entries, if the source has them."""

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over shapes, dtypes and values of images and labels, the same on every machine."""
        sha = hashlib.sha256()
        for array in (self.images, self.labels):
            little_endian = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            sha.update(f"{little_endian.dtype.str}{list(array.shape)}".encode())
            sha.update(little_endian.reshape(-1).view(np.uint8).data)
        return sha.hexdigest()

    def take(self, indices: Int64[np.ndarray, " k"], *, part: str | None = None) -> Dataset:
        """The samples at `indices`, in that order, under the same URI; all samples are not copied."""
        if np.array_equal(indices, np.arange(len(self))):
            return replace(self, part=part or self.part)
        return replace(self, images=self.images[indices], labels=self.labels[indices], part=part or self.part)


def make(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    uri: str,
    part: str = "all",
    class_names: tuple[str, ...] | None = None,
    notes: tuple[str, ...] = (),
    feature_names: tuple[str, ...] | None = None,
) -> Dataset:
    """A Dataset of raw arrays, converted to uint8 or float32 images and int64 labels without a change of their values.

    Raises InputRejected for arrays of different lengths, or of types that cannot be images or labels.
    """
    images, image_notes = _plain_images(np.asarray(images), uri)
    labels, label_notes = _plain_labels(np.asarray(labels), uri)
    if images.ndim < 2 or labels.ndim != 1 or len(images) != len(labels):
        raise InputRejected(
            f"{uri!r}: images and labels must have one row each per sample; found images of shape {images.shape} "
            f"and labels of shape {labels.shape}. Store them as (N, ...) and (N,)."
        )
    return Dataset(images, labels, uri, part, class_names, (*notes, *image_notes, *label_notes), feature_names)


def hold_out(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """(rest, held-out): a fraction of the samples, drawn by seed, is held out; both are in the source's order.

    Raises UsageError for a fraction outside (0, 1), Incomplete where either side would be empty.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"The fraction to hold out must lie between 0 and 1; received {fraction}.")
    n, count = len(dataset), round(len(dataset) * fraction)
    if count == 0 or count == n:
        raise Incomplete(f"{dataset.uri!r} has {n} samples: too few to hold out {fraction:.0%}. Name --test-data URI.")
    order = np.random.default_rng([seed, n]).permutation(n)
    return dataset.take(np.sort(order[count:]), part="rest"), dataset.take(np.sort(order[:count]), part="held-out")


def select(n_total: int, max_samples: int | None, seed: int) -> Int64[np.ndarray, " k"]:
    """At most `max_samples` of `n_total` indices, drawn by seed without replacement, ascending; all of them for None.

    Raises UsageError for a number below one.
    """
    if max_samples is not None and max_samples < 1:
        raise UsageError(f"--max-samples must be at least 1; received {max_samples}. Leave it out to take all.")
    if max_samples is None or max_samples >= n_total:
        return np.arange(n_total, dtype=np.int64)
    return np.sort(np.random.default_rng(seed).choice(n_total, max_samples, replace=False)).astype(np.int64)


def _plain_images(images: np.ndarray, uri: str) -> tuple[np.ndarray, tuple[str, ...]]:
    kind, dtype = images.dtype.kind, images.dtype
    if dtype == np.uint8:
        return images, ()
    if kind == "f":
        with np.errstate(over="ignore"):
            return images.astype(np.float32), (f"images rounded from {dtype} to float32",) if dtype.itemsize > 4 else ()
    if kind == "b":
        return images.astype(np.float32), ("images of booleans taken as 0 and 1",)
    if kind not in "iu":
        raise InputRejected(f"{uri!r}: images must be numbers; found dtype {dtype}. Store uint8 or float32.")
    low, high = (int(images.min()), int(images.max())) if images.size else (0, 0)
    if low >= 0 and high <= 255:
        return images.astype(np.uint8), (f"images of {dtype} hold {low}..{high}: taken as uint8",)
    if max(-low, high) > EXACT_IN_FLOAT32:
        raise InputRejected(
            f"{uri!r}: images of {dtype} hold {low}..{high}, which float32 cannot represent exactly. Store float32."
        )
    return images.astype(np.float32), (f"images of {dtype} taken as float32",)


def _plain_labels(labels: np.ndarray, uri: str) -> tuple[np.ndarray, tuple[str, ...]]:
    notes: tuple[str, ...] = ()
    if labels.dtype.kind not in "biuf":
        raise InputRejected(f"{uri!r}: labels must be class numbers; found dtype {labels.dtype}. Store integers.")
    if labels.ndim == 2 and labels.shape[1] > 1:
        if not (np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()):
            raise InputRejected(
                f"{uri!r}: labels of shape {labels.shape} are neither class numbers nor one-hot rows. "
                "Store one class number per sample."
            )
        labels, notes = labels.argmax(axis=1), (f"one-hot labels of {labels.shape[1]} columns taken by their one",)
    elif labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels.reshape(len(labels))
    if labels.dtype.kind == "f" and not (np.isfinite(labels).all() and (labels == np.round(labels)).all()):
        raise InputRejected(f"{uri!r}: labels of {labels.dtype} are not whole numbers. Store class numbers.")
    if labels.size and not (labels.min() >= -LARGEST_LABEL and labels.max() <= LARGEST_LABEL):
        raise InputRejected(f"{uri!r}: labels hold {labels.min()} to {labels.max()}; they are class numbers from 0.")
    return labels.astype(np.int64), notes
