"""Linear maps between flat values of one sample: ``x -> W x``, ``x -> |W| x`` and backwards ``A -> A W``, many rows at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Map:
    """``W``, (out, in), as ``product``, of values and weights: ``apply`` is ``W x``, ``size`` is ``|W| x``, ``pull`` is ``A W``.

    ``fan_in`` products make an entry, of which ``count`` are not of a zero, nor of a value that ``near`` is 0 for, not 1.
    """

    product: Callable[[Array, Array], Array]
    weight: Array
    pull: Callable[[Array], Array]
    fan_in: int = 1
    fan_out: int = 1

    def apply(self, x: Array) -> Array:
        return self.product(x, self.weight)

    def size(self, x: Array) -> Array:
        return self.product(x, np.abs(self.weight))

    def count(self, near: Array) -> Array:
        return self.product(near, 1.0 * (self.weight != 0))


def entrywise(scale: Array) -> Map:
    """``s x``."""
    return Map(np.multiply, scale, lambda a: a * scale)


def permutation(order: Array) -> Map:
    """``x[order]``, which copies and rounds nothing: no products."""
    return Map(lambda x, w: x[:, order], np.ones(1), lambda a: a[:, np.argsort(order)], 0, 0)


def matrix(weight: Array) -> Map:
    """A matrix, (in, out), on the last axis of a value."""

    def times(x: Array, w: Array) -> Array:
        return (x.reshape(-1, len(w)) @ w).reshape(len(x), -1)

    return Map(times, weight, lambda a: times(a, weight.T), *weight.shape)


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
    steps = list(zip(dilations, strides, (height, width), strict=True))

    def apply(x: Array, w: Array) -> Array:
        padded = np.pad(x.reshape(-1, ins, *shape[1:]), ((0, 0), (0, 0), (top, bottom), (left, right)))
        windows = sliding_window_view(padded, reach, axis=(2, 3))
        windows = windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
        return np.tensordot(windows, w, ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2).reshape(len(x), -1)

    def pull(a: Array) -> Array:
        over = a.reshape(-1, outs, height, width)
        padded = np.zeros((len(over), ins, *full))
        for i, j in np.ndindex(*kernel):
            spans = [slice(at * d, at * d + s * (n - 1) + 1, s) for at, (d, s, n) in zip((i, j), steps, strict=True)]
            padded[:, :, spans[0], spans[1]] += np.tensordot(over, weight[:, :, i, j], (1, 0)).transpose(0, 3, 1, 2)
        return padded[:, :, top : full[0] - bottom, left : full[1] - right].reshape(len(a), -1)

    fans = (int((weight != 0).sum(axes).max()) for axes in ((1, 2, 3), (0, 2, 3)))
    return Map(apply, weight, pull, *fans), (outs * (shape[0] // ins), height, width)
