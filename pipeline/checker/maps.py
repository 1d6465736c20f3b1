"""Linear maps between flat values of one sample: ``x -> W x``, ``x -> |W| x`` and backwards ``A -> A W``, many rows at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Map:
    """``W``, (out, in): ``apply`` is ``W x``, ``size`` is ``|W| x``, ``pull`` is ``A W``; and products that an entry sums."""

    apply: Callable[[Array], Array]
    size: Callable[[Array], Array]
    pull: Callable[[Array], Array]
    fan_in: int = 1
    fan_out: int = 1


def entrywise(scale: Array) -> Map:
    """``s x``."""
    return Map(lambda x: x * scale, lambda x: x * np.abs(scale), lambda a: a * scale)


def permutation(order: Array) -> Map:
    """``x[order]``, which copies and rounds nothing: no products."""
    return Map(lambda x: x[:, order], lambda x: x[:, order], lambda a: a[:, np.argsort(order)], 0, 0)


def matrix(weight: Array) -> Map:
    """A matrix, (in, out), on the last axis of a value."""

    def times(x: Array, w: Array) -> Array:
        return (x.reshape(-1, len(w)) @ w).reshape(len(x), -1)

    positive, back = np.abs(weight), np.ascontiguousarray(weight.T)
    return Map(lambda x: times(x, weight), lambda x: times(x, positive), lambda a: times(a, back), *weight.shape)


def convolution(
    weight: Array, shape: Sequence[int], pads: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[Map, tuple[int, int, int]]:
    """A convolution in two dimensions of a value (channels, height, width), and the shape of what it makes.

    ``weight``: (out, in, kernel, kernel); pads: top, left, bottom, right. With one channel in, each channel of the value goes
    through it by itself.
    """
    top, left, bottom, right = pads
    outs, ins, *kernel = weight.shape
    full = (shape[1] + top + bottom, shape[2] + left + right)
    reach = [dilations[i] * (kernel[i] - 1) + 1 for i in (0, 1)]
    height, width = ((full[i] - reach[i]) // strides[i] + 1 for i in (0, 1))

    def apply(x: Array, w: Array) -> Array:
        padded = np.pad(x.reshape(-1, ins, *shape[1:]), ((0, 0), (0, 0), (top, bottom), (left, right)))
        seen = sliding_window_view(padded, reach, axis=(2, 3))
        seen = seen[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
        return np.tensordot(seen, w, ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2).reshape(len(x), -1)

    def pull(a: Array) -> Array:
        over = a.reshape(-1, outs, height, width)
        padded = np.zeros((len(over), ins, *full))
        for i, j in np.ndindex(*kernel):
            spans = [
                slice(at * d, at * d + s * (n - 1) + 1, s)
                for at, d, s, n in zip((i, j), dilations, strides, (height, width), strict=True)
            ]
            padded[:, :, spans[0], spans[1]] += np.tensordot(over, weight[:, :, i, j], (1, 0)).transpose(0, 3, 1, 2)
        return padded[:, :, top : full[0] - bottom, left : full[1] - right].reshape(len(a), -1)

    nonzero, positive = weight != 0, np.abs(weight)
    fans = int(nonzero.sum((1, 2, 3)).max()), int(nonzero.sum((0, 2, 3)).max())
    made = outs * (shape[0] // ins), height, width
    return Map(lambda x: apply(x, weight), lambda x: apply(x, positive), pull, *fans), made
