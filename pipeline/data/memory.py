"""Data that are already in memory: arrays, or a PyTorch Dataset."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import numpy as np

from pipeline.data.dataset import IN_MEMORY, Dataset, make
from pipeline.errors import InputRejected, UsageError
from pipeline.limits import limits, raised


def from_memory(data: Any) -> Dataset:
    """A Dataset made of a pair of arrays (images, labels), or of an indexable object whose samples are such pairs.

    Images are pixels as they would be stored: 8 bits or floats in the valid range, before any normalisation. Tensors and
    everything that numpy converts count as arrays. Raises UsageError (2) for other objects, InputRejected (3) where the arrays
    are not images and labels.
    """
    if isinstance(data, tuple | list) and len(data) == 2:
        images, labels = (_array(part) for part in data)
    elif isinstance(data, Sized) and hasattr(data, "__getitem__"):
        images, labels = _stacked(data)
    else:
        raise UsageError(
            "data are a URI such as 'npz:test.npz', a pair (images, labels) of arrays, or a Dataset of PyTorch; received "
            f"{type(data).__name__}."
        )
    return make(images, labels, uri=IN_MEMORY)


def _array(part: Any) -> np.ndarray:
    return part.detach().cpu().numpy() if hasattr(part, "detach") else np.asarray(part)


def _stacked(data: Any) -> tuple[np.ndarray, np.ndarray]:
    """The stacked samples of a Dataset, each read once; a random transformation in it would make runs differ."""
    images: list[np.ndarray] = []
    labels: list[int] = []
    total_bytes = 0
    for i in range(len(data)):
        sample = data[i]
        if not isinstance(sample, tuple | list) or len(sample) != 2:
            raise InputRejected(
                f"A sample of a Dataset is a pair (image, label); sample {i} is {type(sample).__name__}. Give a pair of arrays."
            )
        image = _array(sample[0])
        if images and image.shape != images[0].shape:
            raise InputRejected(
                f"Images have one shape; sample {i} has {list(image.shape)}, the first {list(images[0].shape)}. Resize them all."
            )
        total_bytes += image.nbytes
        if total_bytes > limits().data_bytes:
            raise InputRejected(
                f"Data take at most {limits().data_bytes} bytes; these take more. {raised('data_bytes')}"
            )
        images.append(image)
        labels.append(int(sample[1]))
    return (np.stack(images) if images else np.zeros((0, 1), np.float32)), np.array(labels, np.int64)
