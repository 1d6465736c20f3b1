"""Image folders: one folder a class, or `train/` and `test/` of such.

Classes are numbered by the sorted names of their folders, as torchvision's ImageFolder does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.data import picture
from pipeline.data.dataset import Dataset, make
from pipeline.errors import InputRejected, UsageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".pbm", ".tif", ".tiff", ".webp"})
PARTS = ("train", "test")
PART_FOLDERS = frozenset({*PARTS, "val", "valid", "validation"})


def parts(root: Path) -> tuple[str, ...]:
    """The parts, `train` and `test`, that a folder has. Raises UsageError if there is no such folder."""
    if root.exists() and not root.is_dir():
        raise InputRejected(f"Images lie in a folder of folders; {str(root)!r} is something else. Name one: dir:PATH.")
    if not root.is_dir():
        raise UsageError(f"No folder {str(root)!r}. Name an existing folder: dir:PATH.")
    names = {folder.name for folder in _subfolders(root)}
    # Among pictures of vehicles, a folder `train` is a class.
    return tuple(part for part in PARTS if part in names) if names <= PART_FOLDERS else ()


def read(root: Path, *, uri: str, part: str) -> Dataset:
    """All images below the class folders of `root`, (N, H, W) grey or (N, H, W, 3) RGB, uint8.

    Raises InputRejected for a damaged image, or images of several sizes; the message names the file.
    """
    classes = _subfolders(root)
    if not classes:
        raise InputRejected(f"{str(root)!r} has no class folders. Put the images of each class into one of its own.")
    files = [(file, k) for k, folder in enumerate(classes) for file in sorted(folder.iterdir()) if not file.is_dir()]
    pictures = [(file, label) for file, label in files if file.suffix.lower() in SUFFIXES]
    notes = _notes([folder.name for folder in classes], len(files) - len(pictures))
    images = picture.stack([(file, file.name) for file, _ in pictures], of=str(root))
    labels = np.array([label for _, label in pictures], np.int64)
    return make(images, labels, uri=uri, part=part, class_names=tuple(c.name for c in classes), notes=notes)


def _subfolders(root: Path) -> list[Path]:
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _notes(names: list[str], skipped: int) -> tuple[str, ...]:
    notes = []
    if skipped:
        notes.append(f"{skipped} files that are not images were left out")
    if all(name.isdecimal() for name in names) and names != sorted(names, key=int):
        notes.append(f"class folders are numbered by name, not by value: {names[:4]} are classes 0, 1, 2, 3")
    return tuple(notes)
