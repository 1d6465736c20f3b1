"""Data sets of torchvision by name, from a root folder; torchvision is imported only when one is read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.dataset import Dataset, make
from pipeline.errors import EnvironmentFailure, UsageError
from pipeline.system.regular_file import require_below

FOLDERS = {
    "MNIST": "MNIST",
    "FashionMNIST": "FashionMNIST",
    "CIFAR10": "cifar-10-batches-py",
    "SVHN": "",
    "GTSRB": "gtsrb",
}
"""The folder of each data set, below the root."""
NAMES = tuple(FOLDERS)
GTSRB_SIZE = 32


def default_root() -> Path:
    """The folder of downloads: $PIPELINE_DATA, else pipeline/ in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PIPELINE_DATA") or Path(cache) / "pipeline")


def read(name: str, part: str, *, root: Path, download: bool, uri: str) -> Dataset:
    """One part of a named data set. Raises UsageError where it is not on this disk and `download` is off, EnvironmentFailure
    where torchvision or the network is missing."""
    if name not in NAMES:
        raise UsageError(f"torchvision:{name} is not read here; known are {', '.join(NAMES)}.")
    try:
        from torchvision import datasets
    except ImportError as error:
        raise EnvironmentFailure(f"{uri!r} needs torchvision: {error}. Run `pip install torchvision`.") from error
    require_below(root / FOLDERS[name])
    which: dict[str, Any] = {"split": part} if name in ("SVHN", "GTSRB") else {"train": part == "train"}
    try:
        source = getattr(datasets, name)(str(root), download=download, **which)
    except (RuntimeError, OSError) as error:
        if download:
            raise EnvironmentFailure(f"{uri!r} was not downloaded to {str(root)!r}: {error}. Try again.") from error
        raise UsageError(
            f"{uri!r} is not in {str(root)!r}. "
            f"Fetch it with --download, or name its folder: torchvision:{name}?root=DIR."
        ) from error
    return _arrays(name, source, uri=uri, part=part)


def _arrays(name: str, source: Any, *, uri: str, part: str) -> Dataset:
    names = tuple(source.classes) if hasattr(source, "classes") else None
    notes: tuple[str, ...] = ()
    if name == "GTSRB":
        size = (GTSRB_SIZE, GTSRB_SIZE)
        pairs = [(np.asarray(image.convert("RGB").resize(size)), label) for image, label in source]
        images, labels = np.stack([image for image, _ in pairs]), np.array([label for _, label in pairs])
        notes = (f"GTSRB images resized to {GTSRB_SIZE}x{GTSRB_SIZE}",)
    elif name == "SVHN":
        images, labels = np.asarray(source.data), np.asarray(source.labels)
    else:
        images, labels = np.asarray(source.data), np.asarray(source.targets)
    return make(images, labels, uri=uri, part=part, class_names=names, notes=notes)
