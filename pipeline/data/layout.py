"""The order of axes: rearranges stored samples into the shape of a model's input where that is unambiguous."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from pipeline.errors import InputRejected, UsageError

Layout = Literal["NCHW", "NHWC"]
FEW = (1, 3, 4)
"""Sizes of an axis that is taken for that of channels."""


def order_of(shape: tuple[int, ...], layout: Layout | None = None) -> Literal["NCHW", "NHWC", "flat"]:
    """The order of axes of a sample by its shape: an axis of few channels is first or last; ``layout`` where that is open."""
    if len(shape) < 3:
        return "flat"
    if (shape[0] in FEW) == (shape[-1] in FEW):
        return layout or "NCHW"
    return "NHWC" if shape[-1] in FEW else "NCHW"


def channel_axis(shape: tuple[int, ...], count: int, layout: Layout | None) -> int:
    """The axis of one sample along which ``count`` means stand: the first or the last of an image.

    ``layout`` decides where the shape leaves it open, as in a channels-last image of three rows; the caller refuses an axis of
    another size. Raises UsageError where the shape leaves it open and ``layout`` is None.
    """
    last = len(shape) - 1
    if count == 1 or len(shape) != 3:
        return last if layout == "NHWC" else 0
    by_layout = None if layout is None else last if layout == "NHWC" else 0
    few = [axis for axis in (0, last) if shape[axis] in FEW]
    fitting = [axis for axis in (0, last) if shape[axis] == count]
    if len(few) == 1 and (few == fitting or by_layout not in fitting):
        return few[0]
    if by_layout is not None:
        return by_layout
    if len(fitting) == 1 and not few:
        return fitting[0]
    raise UsageError(
        f"--mean and --std give one number a channel; received {count} for the model's input {shape}, whose channels may come "
        "first or last. Say --layout NCHW if they come first, --layout NHWC if they come last."
    )


def arrange(
    images: np.ndarray, input_shape: tuple[int, ...], layout: Layout | None, *, uri: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Images (N, *stored) rearranged to (N, *input_shape), with a note on what was done.

    `layout` is the order of the data, or, where one side is flat, the order in which that side lists the pixels.
    Raises InputRejected where the shapes do not fit, or fit in two ways and `layout` does not say which.
    """
    stored, n = images.shape[1:], len(images)
    if stored == input_shape:
        return images, ()
    rearranged = _move_channels(images, input_shape, layout)
    if rearranged is not None:
        return rearranged
    if math.prod(stored) != math.prod(input_shape):
        raise InputRejected(
            f"{uri!r}: samples of shape {stored} do not fill the model's input of shape {input_shape}"
            f"{_size_hint(stored, input_shape)}. Resize or convert the data."
        )
    if _squeezed(stored) == _squeezed(input_shape):
        return images.reshape(n, *input_shape), (f"samples of shape {stored} taken as {input_shape}",)
    image, flat = (stored, input_shape) if len(_squeezed(input_shape)) <= 1 else (input_shape, stored)
    if len(_squeezed(flat)) > 1 or len(image) > 3:
        raise InputRejected(
            f"{uri!r}: samples of shape {stored} fit the model's input of shape {input_shape} in several ways. "
            "Store them in the model's own shape; --layout NCHW or NHWC helps for images of three axes."
        )
    if len(_squeezed(image)) <= 2:
        return images.reshape(n, *input_shape), (f"samples of shape {stored} taken as {input_shape}, row by row",)
    if layout is None:
        raise InputRejected(
            f"{uri!r}: samples of shape {stored} and the model's input of shape {input_shape} leave the order of "
            "channels open. Say `--layout NCHW` if the flat side lists channel by channel, `--layout NHWC` if pixel by "
            "pixel."
        )
    return _through_flat(images, input_shape, image, layout)


def _move_channels(
    images: np.ndarray, input_shape: tuple[int, ...], layout: Layout | None
) -> tuple[np.ndarray, tuple[str, ...]] | None:
    if images.ndim != 4:
        return None
    first, second, third = images.shape[1:]
    if (third, first, second) == input_shape and layout != "NCHW":
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), ("NHWC data turned into the model's NCHW",)
    if (second, third, first) == input_shape and layout != "NHWC":
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1)), ("NCHW data turned into the model's NHWC",)
    return None


def _through_flat(
    images: np.ndarray, input_shape: tuple[int, ...], image: tuple[int, ...], layout: Layout
) -> tuple[np.ndarray, tuple[str, ...]]:
    n, order = len(images), order_of(image)
    note = (f"samples of shape {images.shape[1:]} taken as {input_shape}, the flat side in {layout} order",)
    if order == layout:
        return images.reshape(n, *input_shape), note
    to_last, to_first = (0, 2, 3, 1), (0, 3, 1, 2)
    if image == images.shape[1:]:
        return images.transpose(to_last if layout == "NHWC" else to_first).reshape(n, *input_shape), note
    flat_order = (image[1], image[2], image[0]) if layout == "NHWC" else (image[2], image[0], image[1])
    unflattened = images.reshape(n, *flat_order).transpose(to_first if layout == "NHWC" else to_last)
    return np.ascontiguousarray(unflattened), note


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _size_hint(stored: tuple[int, ...], input_shape: tuple[int, ...]) -> str:
    many, needed = math.prod(stored), math.prod(input_shape)
    if needed == 3 * many:
        return ": grey data for a model of colour images"
    if many == 3 * needed:
        return ": colour data for a model of grey images"
    return f": {many} values for {needed}"
