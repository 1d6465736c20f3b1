"""Layers with weights: Linear, Conv and ConvTranspose."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import grad as conv

from pipeline.core.interval import Interval
from pipeline.core.partial_sums import may_differ_from_zero
from pipeline.rules.affine_rule import Affine
from pipeline.rules.relax import Origin, Window
from pipeline.rules.rule import Example, Value, rule
from pipeline.rules.weights import absolute, nonzeros

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d


@rule(nn.Linear)
class LinearRule(Affine[nn.Linear]):
    """``y = W x + b`` over the last axis."""

    def radius(self, op: nn.Linear, *xs: Value) -> Tensor:
        (x,) = xs
        assert isinstance(x, Interval)
        return F.linear(x.radius, absolute(op.weight))

    def terms(self, op: nn.Linear, *xs: Value) -> int:
        return nonzeros(op.weight)

    def active(self, op: nn.Linear, *xs: Value) -> Tensor:
        (x,) = xs
        assert isinstance(x, Interval)
        return may_differ_from_zero(x.magnitude).sum(-1, keepdim=True)

    def fan_out(self, op: nn.Linear, *xs: Value) -> int:
        return op.out_features

    def offset(self, op: nn.Linear, *xs: Value) -> Tensor | float:
        return 0.0 if op.bias is None else op.bias.abs()

    def carries(self, op: nn.Linear, carried: int, *xs: Value) -> int:
        return op.in_features

    def constant(self, op: nn.Linear, *xs: Value) -> Tensor | None:
        (x,) = xs
        assert isinstance(x, Interval)
        return None if op.bias is None else op.bias.reshape([1] * (x.center.dim() - 1) + [-1])

    def transpose(self, op: nn.Linear, coeff: Tensor, *xs: Value) -> tuple[Tensor | None, ...]:
        return (coeff @ op.weight,)

    def examples(self) -> Iterator[Example]:
        yield Example(nn.Linear(12, 9), ((4, 12),))
        yield Example(nn.Linear(12, 9, bias=False), ((2, 3, 12),))


@rule(nn.Conv1d, nn.Conv2d, nn.Conv3d)
class ConvRule(Affine[Conv]):
    """Cross-correlation with any stride, padding, dilation and groups."""

    def radius(self, op: Conv, *xs: Value) -> Tensor:
        (x,) = xs
        assert isinstance(x, Interval)
        return correlate(op, x.radius, absolute(op.weight), None)

    def terms(self, op: Conv, *xs: Value) -> int:
        return nonzeros(op.weight)

    def active(self, op: Conv, *xs: Value) -> Tensor:
        """By one filter of ones a group; zero weights count."""
        (x,) = xs
        assert isinstance(x, Interval)
        ones = torch.ones_like(op.weight[: op.groups])
        count = correlate(op, may_differ_from_zero(x.magnitude), ones, None)
        return count.repeat_interleave(op.out_channels // op.groups, 1)

    def fan_out(self, op: Conv, *xs: Value) -> int:
        return op.out_channels // op.groups * math.prod(op.kernel_size)

    def offset(self, op: Conv, *xs: Value) -> Tensor | float:
        return 0.0 if op.bias is None else op.bias.abs().reshape(-1, *[1] * len(op.kernel_size))

    def carries(self, op: Conv, carried: int, *xs: Value) -> int:
        return op.in_channels // op.groups * math.prod(op.kernel_size)

    def constant(self, op: Conv, *xs: Value) -> Tensor | None:
        return None if op.bias is None else op.bias.reshape(1, -1, *[1] * len(op.kernel_size))

    def transpose(self, op: Conv, coeff: Tensor, *xs: Value) -> tuple[Tensor | None, ...]:
        """The transposed convolution; a vmapped vector-Jacobian product is 1.2 to 1.8 times slower."""
        (x,) = xs
        assert isinstance(x, Interval)
        if not _plain(op):
            return super().transpose(op, coeff, *xs)
        sizes = zip(coeff.shape[3:], op.stride, _padding(op), op.dilation, op.kernel_size, strict=True)
        reached = [(n - 1) * s - 2 * p + d * (k - 1) + 1 for n, s, p, d, k in sizes]
        beyond = [n - r for n, r in zip(x.center.shape[2:], reached, strict=True)]
        return (_transposed(op, coeff, _padding(op), beyond),)

    def window(self, op: Conv, *xs: Value) -> Window | None:
        """An output has a small receptive field: ``n`` in a row read ``(n - 1) stride + dilation (k - 1) + 1`` inputs."""
        (x,) = xs
        assert isinstance(x, Interval)
        size = x.center.shape[2:]

        def pulled(coeff: Tensor, origin: Origin) -> list[tuple[Tensor | None, Origin]]:
            wide = _transposed(op, coeff, (0,) * len(size), (0,) * len(size))
            starts = [o * s - p for o, s, p in zip(origin, op.stride, _padding(op), strict=True)]
            for i, (start, n) in enumerate(zip(starts, size, strict=True)):
                first, last = max(0, -start), min(wide.shape[3 + i], n - start)
                wide = wide.narrow(3 + i, first, last - first)
            return [(wide, tuple(max(0, start) for start in starts))]

        # Where the padding is less than the kernel, every output reads some input, and no window is empty.
        if not _plain(op):
            return None
        reach = zip(_padding(op), op.dilation, op.kernel_size, strict=True)
        return pulled if all(p <= d * (k - 1) for p, d, k in reach) else None

    def examples(self) -> Iterator[Example]:
        yield Example(nn.Conv1d(4, 8, 3, padding=1), ((2, 4, 9),))
        yield Example(nn.Conv2d(4, 8, 3, stride=2, padding=1), ((3, 4, 7, 6),))
        yield Example(nn.Conv2d(4, 8, (3, 2), dilation=(1, 2), groups=2, bias=False), ((2, 4, 6, 7),))
        yield Example(nn.Conv3d(2, 8, 2, padding=1), ((2, 2, 4, 3, 3),))


ConvTranspose = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


@rule(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
class ConvTransposeRule(Affine[ConvTranspose]):
    """The transpose of a convolution in its input; its own transpose is that convolution."""

    def radius(self, op: ConvTranspose, *xs: Value) -> Tensor:
        (x,) = xs
        assert isinstance(x, Interval)
        apply: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(op.kernel_size) - 1]
        return apply(
            x.radius, absolute(op.weight), None, op.stride, op.padding, op.output_padding, op.groups, op.dilation
        )

    def terms(self, op: ConvTranspose, *xs: Value) -> int:
        return nonzeros(op.weight, lambda used: used.unflatten(0, (op.groups, -1)).flatten(3).sum((1, 3)))

    def fan_out(self, op: ConvTranspose, *xs: Value) -> int:
        return op.out_channels // op.groups * math.prod(op.kernel_size)

    def offset(self, op: ConvTranspose, *xs: Value) -> Tensor | float:
        return 0.0 if op.bias is None else op.bias.abs().reshape(-1, *[1] * len(op.kernel_size))

    def carries(self, op: ConvTranspose, carried: int, *xs: Value) -> int:
        return op.in_channels // op.groups * math.prod(op.kernel_size)

    def constant(self, op: ConvTranspose, *xs: Value) -> Tensor | None:
        return None if op.bias is None else op.bias.reshape(1, -1, *[1] * len(op.kernel_size))

    def transpose(self, op: ConvTranspose, coeff: Tensor, *xs: Value) -> tuple[Tensor | None, ...]:
        (x,) = xs
        assert isinstance(x, Interval)
        back: Any = (F.conv1d, F.conv2d, F.conv3d)[len(op.kernel_size) - 1]
        pulled = back(coeff.flatten(0, 1), op.weight, None, op.stride, op.padding, op.dilation, op.groups)
        for axis, n in enumerate(x.center.shape[2:], start=2):
            pulled = pulled.narrow(axis, 0, n)  # output padding may make it larger
        return (pulled.unflatten(0, coeff.shape[:2]),)

    def examples(self) -> Iterator[Example]:
        yield Example(nn.ConvTranspose1d(4, 8, 3, padding=1), ((2, 4, 6),))
        yield Example(nn.ConvTranspose2d(4, 8, 3, stride=2, padding=1, output_padding=(1, 0)), ((2, 4, 4, 3),))
        yield Example(
            nn.ConvTranspose2d(4, 8, (3, 2), dilation=(2, 3), output_padding=(1, 2), groups=2), ((2, 4, 3, 4),)
        )
        yield Example(nn.ConvTranspose3d(2, 8, 2, stride=2, bias=False), ((2, 2, 3, 2, 2),))


def _plain(op: Conv) -> bool:
    return op.padding_mode == "zeros" and not isinstance(op.padding, str)


def _padding(op: Conv) -> tuple[int, ...]:
    assert not isinstance(op.padding, str)
    return op.padding


def _transposed(op: Conv, coeff: Tensor, padding: Sequence[int], beyond: Sequence[int]) -> Tensor:
    """The transposed convolution of every row; ``beyond``: how many inputs lie past the last that any output reads."""
    rows, weight, rank = coeff.flatten(0, 1), op.weight, len(op.kernel_size)
    if rows.dtype == torch.float64 and rows.device.type == "cpu":
        # The same product by the transpose of im2col: twice as fast where oneDNN has no kernel.
        sizes = zip(coeff.shape[3:], op.stride, padding, op.dilation, op.kernel_size, beyond, strict=True)
        size = [(n - 1) * s - 2 * p + d * (k - 1) + 1 + more for n, s, p, d, k, more in sizes]
        by_input: Any = (conv.conv1d_input, conv.conv2d_input, conv.conv3d_input)[rank - 1]
        shape = (len(rows), op.in_channels, *size)
        pulled = by_input(shape, weight, rows, op.stride, tuple(padding), op.dilation, op.groups)
    else:
        back: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
        pulled = back(rows, weight, None, op.stride, tuple(padding), tuple(beyond), op.groups, op.dilation)
    return pulled.unflatten(0, coeff.shape[:2])


def correlate(op: Conv, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution ``op`` with other weights, and its own padding, stride, dilation and groups."""
    return op._conv_forward(x, weight, bias)


def fan_in(op: nn.Module) -> int | None:
    """How many products one output of a Linear or Conv layer sums; None for any other operator."""
    if isinstance(op, nn.Linear):
        return op.in_features
    if isinstance(op, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return math.prod(torch.Size(op.weight.shape)[1:])
    return None
