"""The UCI optical digits that come with the package: 1797 images of 8 x 8, in [0, 1] (see digits.txt)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.data import npz
from pipeline.data.dataset import Dataset, make

FILE = Path(__file__).with_name("digits.npz")


def read(part: str | None) -> Dataset:
    """Images (N, 1, 8, 8) float32 with values v/16, exact; `part` None joins both."""
    parts = (part,) if part else ("train", "test")
    images = np.concatenate([npz.read(FILE, f"x_{name}") for name in parts])
    labels = np.concatenate([npz.read(FILE, f"y_{name}") for name in parts])
    pixels = images[:, None].astype(np.float32) / np.float32(16)
    return make(pixels, labels, uri="digits", part=part or "all", class_names=tuple("0123456789"))
