"""Image folders: one folder a class, or `train/` and `test/` of such.

Classes are numbered by the sorted names of their folders, as torchvision's ImageFolder does.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.dataset import Dataset, make
from pipeline.errors import InputRejected, UsageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".pbm", ".tif", ".tiff", ".webp"})
PARTS = ("train", "test")
PART_FOLDERS = frozenset({*PARTS, "val", "valid", "validation"})
MAX_BYTES = 16 * 2**30
BOMB = (Image.DecompressionBombWarning, Image.DecompressionBombError)


def parts(root: Path) -> tuple[str, ...]:
    """Which of `train` and `test` the folder has. Raises UsageError if there is no such folder."""
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
    files = [(file, k) for k, folder in enumerate(classes) for file in sorted(folder.iterdir()) if file.is_file()]
    known = [(file, label) for file, label in files if file.suffix.lower() in SUFFIXES]
    notes = _notes([folder.name for folder in classes], len(files) - len(known))
    grey = all(_is_grey(file) for file, _ in known)
    first: np.ndarray | None = None
    images = np.empty((0, 1, 1), np.uint8)
    for index, (file, _) in enumerate(known):
        pixels = _read_image(file, "L" if grey else "RGB")
        if first is None:
            first = pixels
            if len(known) * first.nbytes > MAX_BYTES:
                raise InputRejected(f"{str(root)!r}: {len(known)} images of {first.nbytes} bytes exceed {MAX_BYTES}.")
            images = np.empty((len(known), *first.shape), np.uint8)
        if pixels.shape != first.shape:
            raise InputRejected(
                f"Images must have one size; {known[0][0].name!r} has {first.shape[:2]} (height, width), "
                f"{file.name!r} has {pixels.shape[:2]}. Resize them to what the model takes."
            )
        images[index] = pixels
    labels = np.array([label for _, label in known], np.int64)
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


def _open(file: Path) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(file)


def _is_grey(file: Path) -> bool:
    try:
        with _open(file) as image:
            return image.mode in ("1", "L")
    except (OSError, ValueError, SyntaxError, *BOMB) as error:
        raise _damaged(file, error) from error


def _read_image(file: Path, mode: str) -> np.ndarray:
    try:
        with _open(file) as image:
            if image.mode.startswith(("I", "F")):
                raise InputRejected(f"{file.name!r} has mode {image.mode}, not 8 bits a channel. Convert it to 8 bits.")
            return np.asarray(image.convert(mode))
    except (OSError, ValueError, SyntaxError, *BOMB) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> InputRejected:
    return InputRejected(f"{file.name!r} is not a readable image: {error}. Repair it or take it out of the folder.")
