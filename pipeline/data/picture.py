"""Reads pictures of one size with 8 bits a channel; any other picture is refused by name."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.errors import InputRejected
from pipeline.limits import limits, raised
from pipeline.system.regular_file import open_regular

# Recognised by content, not by name: for some other formats Pillow runs a program, such as Ghostscript.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
BOMB = (Image.DecompressionBombWarning, Image.DecompressionBombError)
File = Path | bytes
"""The path of a picture, or the content of its file."""


def stack(files: Sequence[tuple[File, str]], *, of: str) -> np.ndarray:
    """Pictures, given with their names, as one uint8 array: (N, H, W) if all are grey, else (N, H, W, 3) RGB.

    Raises InputRejected for a damaged picture, or pictures of different sizes; ``of`` names the set in the message.
    """
    grey = all(_is_grey(file, name) for file, name in files)
    images = np.empty((0, 1, 1), np.uint8)
    for index, (file, name) in enumerate(files):
        pixels = _read(file, name, "L" if grey else "RGB")
        if index == 0:
            if len(files) * pixels.nbytes > limits().data_bytes:
                raise InputRejected(
                    f"{of!r}: {len(files)} images of {pixels.nbytes} bytes exceed {limits().data_bytes} bytes."
                    f" {raised('data_bytes')}"
                )
            images = np.empty((len(files), *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:]:
            raise InputRejected(
                f"Images must have one size; {files[0][1]!r} has {images.shape[1:3]} (height, width), "
                f"{name!r} has {pixels.shape[:2]}. Resize them to what the model takes."
            )
        images[index] = pixels
    return images


@contextmanager
def _open(file: File, name: str) -> Iterator[Image.Image]:
    with io.BytesIO(file) if isinstance(file, bytes) else open_regular(file) as stream:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(stream, formats=FORMATS)
        width, height = image.size
        if width * height > limits().pixels:
            raise InputRejected(
                f"A picture has at most {limits().pixels} pixels; {name!r} declares {width} x {height}. {raised('pixels')}"
            )
        yield image


def _is_grey(file: File, name: str) -> bool:
    try:
        with _open(file, name) as image:
            return image.mode in ("1", "L")
    except (OSError, ValueError, SyntaxError, *BOMB) as error:
        raise _damaged(name, error) from error


def _read(file: File, name: str, mode: str) -> np.ndarray:
    try:
        with _open(file, name) as image:
            if image.mode.startswith(("I", "F")):
                raise InputRejected(f"{name!r} has mode {image.mode}, not 8 bits a channel. Convert it to 8 bits.")
            return np.asarray(image.convert(mode))
    except (OSError, ValueError, SyntaxError, *BOMB) as error:
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> InputRejected:
    if isinstance(error, BOMB):
        return InputRejected(
            f"A picture has at most {limits().pixels} pixels; {name!r} declares more. {raised('pixels')}"
        )
    return InputRejected(f"{name!r} is not a readable image: {str(error)[:200]}. Repair it or take it out.")
