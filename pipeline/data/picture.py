"""Pictures as pixels: all of one size and 8 bits a channel, or a refusal that names the one which is not."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.errors import InputRejected

MAX_BYTES = 16 * 2**30
BOMB = (Image.DecompressionBombWarning, Image.DecompressionBombError)
File = Path | bytes
"""Where a picture lies, or what is in its file."""


def stack(files: Sequence[tuple[File, str]], *, of: str) -> np.ndarray:
    """Pictures with their names as one array, (N, H, W) if all are grey, else (N, H, W, 3) RGB, uint8.

    Raises InputRejected for a damaged picture, or pictures of several sizes; ``of`` names the set in the message.
    """
    grey = all(_is_grey(file, name) for file, name in files)
    images = np.empty((0, 1, 1), np.uint8)
    for index, (file, name) in enumerate(files):
        pixels = _read(file, name, "L" if grey else "RGB")
        if index == 0:
            if len(files) * pixels.nbytes > MAX_BYTES:
                raise InputRejected(f"{of!r}: {len(files)} images of {pixels.nbytes} bytes exceed {MAX_BYTES}.")
            images = np.empty((len(files), *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:]:
            raise InputRejected(
                f"Images must have one size; {files[0][1]!r} has {images.shape[1:3]} (height, width), "
                f"{name!r} has {pixels.shape[:2]}. Resize them to what the model takes."
            )
        images[index] = pixels
    return images


def _open(file: File) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)


def _is_grey(file: File, name: str) -> bool:
    try:
        with _open(file) as image:
            return image.mode in ("1", "L")
    except (OSError, ValueError, SyntaxError, *BOMB) as error:
        raise _damaged(name, error) from error


def _read(file: File, name: str, mode: str) -> np.ndarray:
    try:
        with _open(file) as image:
            if image.mode.startswith(("I", "F")):
                raise InputRejected(f"{name!r} has mode {image.mode}, not 8 bits a channel. Convert it to 8 bits.")
            return np.asarray(image.convert(mode))
    except (OSError, ValueError, SyntaxError, *BOMB) as error:
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> InputRejected:
    return InputRejected(f"{name!r} is not a readable image: {error}. Repair it or take it out.")
