"""The operators that torch.nn lacks, as modules: values are positional, static parameters belong to the module.

Together with ``torch.nn`` they are the whole vocabulary of a ``Network``. A module's ``forward`` is its concrete meaning;
what it means for boxes and linear forms stands in ``rules/``. Constants that are tensors arrive as values.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


class _Function(nn.Module):
    """An operator without parameters: one call of a torch function."""

    function: Callable[..., Any]

    def forward(self, *xs: Tensor) -> Tensor:
        return type(self).function(*xs)


class Add(_Function):
    """``a + b``, alone or as one step of a sum of several ``operands``, which a runtime may take in another order."""

    function = staticmethod(torch.add)

    def __init__(self, operands: int = 2):
        super().__init__()
        self.operands = operands


class Sub(_Function):
    function = staticmethod(torch.sub)


class Mul(_Function):
    function = staticmethod(torch.mul)


class Div(_Function):
    function = staticmethod(torch.div)


class MatMul(_Function):
    function = staticmethod(torch.matmul)


class Product(_Function):
    """Mul of two values that both depend on the input: no longer affine, and so another operator than Mul."""

    function = staticmethod(torch.mul)


class Quotient(_Function):
    """Div by a value that depends on the input."""

    function = staticmethod(torch.div)


class GuardedQuotient(_Function):
    """Div by a norm that depends on the input; what has the norm zero is left as it is."""

    @staticmethod
    def function(x: Tensor, y: Tensor) -> Tensor:
        return x / torch.where(y == 0, 1, y)


class MatrixProduct(_Function):
    """MatMul of two values that both depend on the input, batch first."""

    function = staticmethod(torch.matmul)


class Pow(_Function):
    function = staticmethod(torch.pow)


class Min(_Function):
    function = staticmethod(torch.minimum)


class Max(_Function):
    function = staticmethod(torch.maximum)


class Where(nn.Module):
    """``x`` where the condition holds, else ``y``."""

    def forward(self, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return torch.where(condition.bool(), x, y)


class Equal(_Function):
    function = staticmethod(torch.eq)


class Greater(_Function):
    function = staticmethod(torch.gt)


class Less(_Function):
    function = staticmethod(torch.lt)


class GreaterOrEqual(_Function):
    function = staticmethod(torch.ge)


class LessOrEqual(_Function):
    function = staticmethod(torch.le)


class And(_Function):
    function = staticmethod(torch.logical_and)


class Or(_Function):
    function = staticmethod(torch.logical_or)


class Not(_Function):
    function = staticmethod(torch.logical_not)


class Neg(_Function):
    function = staticmethod(torch.neg)


class Abs(_Function):
    function = staticmethod(torch.abs)


class Sign(_Function):
    function = staticmethod(torch.sign)


class Floor(_Function):
    function = staticmethod(torch.floor)


class Ceil(_Function):
    function = staticmethod(torch.ceil)


class Round(_Function):
    function = staticmethod(torch.round)


class RoundToGrid(Round):
    """The Round of a QuantizeLinear: a runtime may evaluate what lies between two of them in whole numbers."""


class Exp(_Function):
    function = staticmethod(torch.exp)


class Log(_Function):
    function = staticmethod(torch.log)


class Sqrt(_Function):
    function = staticmethod(torch.sqrt)


class RootOfSquares(_Function):
    """The square root of a sum of squares: what rounding leaves of its box below zero is no value of it."""

    function = staticmethod(torch.sqrt)


class Reciprocal(_Function):
    function = staticmethod(torch.reciprocal)


class Sin(_Function):
    function = staticmethod(torch.sin)


class Cos(_Function):
    function = staticmethod(torch.cos)


class Atan(_Function):
    function = staticmethod(torch.atan)


class Erf(_Function):
    function = staticmethod(torch.erf)


class Clip(nn.Module):
    """``min(max(x, low), high)``; an absent end is infinite."""

    def __init__(self, low: float | None = None, high: float | None = None):
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        return x if self.low is None and self.high is None else torch.clamp(x, self.low, self.high)

    def extra_repr(self) -> str:
        return f"low={self.low}, high={self.high}"


class Cast(nn.Module):
    """Conversion to another element type."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        # Between float32 and float64 the walk's own precision wins: a Cast must not narrow a float64 bound.
        return x if self.keeps_precision and x.is_floating_point() else x.to(self.dtype)

    @property
    def keeps_precision(self) -> bool:
        """Whether the target is a type that walks are made in; half precision and integers round."""
        return self.dtype in (torch.float32, torch.float64)

    def extra_repr(self) -> str:
        return str(self.dtype)


class Reshape(nn.Module):
    """ONNX Reshape: ``0`` copies the input's dimension, one ``-1`` is inferred."""

    def __init__(self, shape: Sequence[int]):
        super().__init__()
        self.shape = tuple(int(d) for d in shape)

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape([x.shape[i] if d == 0 else d for i, d in enumerate(self.shape)])

    def extra_repr(self) -> str:
        return f"shape={self.shape}"


class Transpose(nn.Module):
    """Axes permuted: axis ``i`` of the result is axis ``perm[i]`` of the input."""

    def __init__(self, perm: Sequence[int]):
        super().__init__()
        self.perm = tuple(int(d) for d in perm)

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.perm)

    def extra_repr(self) -> str:
        return f"perm={self.perm}"


class Squeeze(nn.Module):
    def __init__(self, dims: Sequence[int]):
        super().__init__()
        self.dims = tuple(int(d) for d in dims)

    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze(self.dims)

    def extra_repr(self) -> str:
        return f"dims={self.dims}"


class Unsqueeze(nn.Module):
    """New axes of length one, at positions counted in the result (ONNX's order)."""

    def __init__(self, dims: Sequence[int]):
        super().__init__()
        self.dims = tuple(int(d) for d in dims)

    def forward(self, x: Tensor) -> Tensor:
        rank = x.dim() + len(self.dims)
        for d in sorted(d % rank for d in self.dims):
            x = x.unsqueeze(d)
        return x

    def extra_repr(self) -> str:
        return f"dims={self.dims}"


class Slice(nn.Module):
    """``x[start:end:step]`` along each of ``axes``; ends beyond the axis are clamped, negative steps reverse."""

    def __init__(self, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]):
        super().__init__()
        self.starts, self.ends = tuple(map(int, starts)), tuple(map(int, ends))
        self.axes, self.steps = tuple(map(int, axes)), tuple(map(int, steps))

    def forward(self, x: Tensor) -> Tensor:
        for start, end, axis, step in zip(self.starts, self.ends, self.axes, self.steps, strict=True):
            picked = range(x.shape[axis])[start:end:step]
            if step > 0:
                x = x.narrow(axis, picked.start, len(range(picked.start, picked.stop)))
                if step > 1:
                    x = x[(slice(None),) * (axis % x.dim()) + (slice(None, None, step),)]
            else:
                x = x.index_select(axis, torch.tensor(list(picked), dtype=torch.int64, device=x.device))
        return x

    def extra_repr(self) -> str:
        return f"starts={self.starts}, ends={self.ends}, axes={self.axes}, steps={self.steps}"


class Concat(nn.Module):
    """Values end to end along an axis; one with a batch of one (a constant token) stands beside every sample of the others."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, *xs: Tensor) -> Tensor:
        if self.dim % xs[0].dim() != 0:
            batch = max(x.shape[0] for x in xs)
            xs = tuple(x if x.shape[0] == batch else x.expand(batch, *x.shape[1:]) for x in xs)
        return torch.cat(xs, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Pad(nn.Module):
    """Padding in torch's order (last axis first): a constant, ``reflect``, ``replicate`` (ONNX: edge) or ``circular`` (wrap)."""

    def __init__(self, pads: Sequence[int], *, mode: str = "constant", value: float = 0.0):
        super().__init__()
        self.pads, self.mode, self.value = tuple(map(int, pads)), mode, float(value)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.pads, self.mode, self.value if self.mode == "constant" else None)

    def extra_repr(self) -> str:
        return f"pads={self.pads}, mode={self.mode}, value={self.value}"


class Expand(nn.Module):
    """Broadcast to a shape; ``1`` and ``-1`` keep the input's dimension (ONNX's two-way broadcast)."""

    def __init__(self, shape: Sequence[int]):
        super().__init__()
        self.shape = tuple(map(int, shape))

    def forward(self, x: Tensor) -> Tensor:
        rank = max(x.dim(), len(self.shape))
        have = (1,) * (rank - x.dim()) + tuple(x.shape)
        want = (1,) * (rank - len(self.shape)) + self.shape
        return x.expand([h if w in (1, -1) else w for h, w in zip(have, want, strict=True)])

    def extra_repr(self) -> str:
        return f"shape={self.shape}"


class Tile(nn.Module):
    def __init__(self, repeats: Sequence[int]):
        super().__init__()
        self.repeats = tuple(map(int, repeats))

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat(self.repeats)


class Gather(nn.Module):
    """ONNX Gather: entries of ``axis`` picked by constant indices of any rank."""

    indices: Tensor

    def __init__(self, indices: Tensor, axis: int):
        super().__init__()
        self.axis = axis
        self.register_buffer("indices", indices.to(torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        axis = self.axis % x.dim()
        index = torch.where(self.indices < 0, self.indices + x.shape[axis], self.indices)
        picked = x.index_select(axis, index.reshape(-1))
        return picked.reshape([*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])

    def extra_repr(self) -> str:
        return f"axis={self.axis}, indices={tuple(self.indices.shape)}"


class _Reduce(nn.Module):
    def __init__(self, dims: Sequence[int], *, keepdim: bool):
        super().__init__()
        self.dims, self.keepdim = tuple(map(int, dims)), bool(keepdim)

    def extra_repr(self) -> str:
        return f"dims={self.dims}, keepdim={self.keepdim}"


class ReduceSum(_Reduce):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(self.dims, keepdim=self.keepdim)


class ReduceMean(_Reduce):
    """The mean over axes; GlobalAveragePool is the mean over all spatial ones."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.dims, keepdim=self.keepdim)


class ReduceMax(_Reduce):
    """The maximum over axes; GlobalMaxPool is the maximum over all spatial ones."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax(self.dims, keepdim=self.keepdim)


class ReduceMin(_Reduce):
    def forward(self, x: Tensor) -> Tensor:
        return x.amin(self.dims, keepdim=self.keepdim)


class ArgMax(nn.Module):
    def __init__(self, dim: int, *, keepdim: bool):
        super().__init__()
        self.dim, self.keepdim = dim, keepdim

    def forward(self, x: Tensor) -> Tensor:
        return x.argmax(self.dim, keepdim=self.keepdim)


class Resize(nn.Module):
    """ONNX Resize: along each axis a matrix (out, in), kept as the few entries that an entry of the result reads.

    ``exact`` says that every implementation has these weights, because no rounding made them.
    """

    def __init__(self, matrices: Mapping[int, Tensor], *, exact: bool = False):
        super().__init__()
        self.axes, self.exact = tuple(matrices), exact
        self.sizes = tuple(int(m.shape[1]) for m in matrices.values())
        for i, matrix in enumerate(matrices.values()):
            taps = max(1, int((matrix != 0).sum(1).max()))
            index = matrix.abs().topk(taps, dim=1).indices.sort(1).values
            self.register_buffer(f"index{i}", index)
            self.register_buffer(f"weights{i}", matrix.gather(1, index))

    @property
    def index(self) -> list[Tensor]:
        """By axis: which entries each entry of the result reads, (out, taps)."""
        return [self.get_buffer(f"index{i}") for i in range(len(self.axes))]

    @property
    def weights(self) -> list[Tensor]:
        return [self.get_buffer(f"weights{i}") for i in range(len(self.axes))]

    def forward(self, x: Tensor) -> Tensor:
        return self.weighted(x, self.weights)

    def weighted(self, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """The same reading with other weights, such as their absolute values."""
        for axis, size, index, weight in zip(self.axes, self.sizes, self.index, weights, strict=True):
            if x.shape[axis] != size:
                raise ValueError(f"a Resize was made for {size} entries along axis {axis}, and got {x.shape[axis]}")
            read = x.index_select(axis, index.reshape(-1)).unflatten(axis, index.shape)
            x = (read * weight.reshape(*index.shape, *[1] * (read.dim() - axis - 2))).sum(axis + 1)
        return x

    def extra_repr(self) -> str:
        shapes = ", ".join(
            f"axis {a}: {s} -> {len(i)} by {i.shape[1]}"
            for a, s, i in zip(self.axes, self.sizes, self.index, strict=True)
        )
        return f"{shapes}{', exact' if self.exact else ''}"


class DepthToSpace(nn.Module):
    """ONNX DepthToSpace: channels become blocks of ``b x b`` places (batch, channels, height, width).

    Of the index of a channel the place in the block is the slowest part (DCR), or the fastest with ``columns_first`` (CRD).
    """

    def __init__(self, blocksize: int, *, columns_first: bool = False):
        super().__init__()
        self.blocksize, self.columns_first = int(blocksize), columns_first

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        b = self.blocksize
        if self.columns_first:
            blocks = x.reshape(n, c // (b * b), b, b, h, w).permute(0, 1, 4, 2, 5, 3)
        else:
            blocks = x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
        return blocks.reshape(n, c // (b * b), h * b, w * b)

    def extra_repr(self) -> str:
        return f"blocksize={self.blocksize}, mode={'CRD' if self.columns_first else 'DCR'}"


class SpaceToDepth(nn.Module):
    """ONNX SpaceToDepth: blocks of ``b x b`` places become channels, the place in the block the slowest part of their index."""

    def __init__(self, blocksize: int):
        super().__init__()
        self.blocksize = int(blocksize)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        b = self.blocksize
        blocks = x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
        return blocks.reshape(n, c * b * b, h // b, w // b)

    def extra_repr(self) -> str:
        return f"blocksize={self.blocksize}"


class WholeKernel(nn.Module):
    """The identity behind operators that a runtime computes in one kernel of its own, ``operator`` by name.

    In real arithmetic they are that kernel; what its float32 evaluation errs by is not the sum of what theirs do.
    """

    def __init__(self, operator: str):
        super().__init__()
        self.operator = operator

    def forward(self, x: Tensor) -> Tensor:
        return x

    def extra_repr(self) -> str:
        return self.operator


class AffineBN(nn.Module):
    """A layer and the BatchNorm after it as one operator: ``s (W x + b - mean) + beta``, ``s = gamma / sqrt(var + eps)``."""

    affine: Layer
    bn: BatchNorm

    def __init__(self, affine: Layer, bn: BatchNorm):
        super().__init__()
        self.affine, self.bn = affine, bn

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.affine(x))

    def fold(self) -> Layer:
        """The affine layer alone that computes the same function in eval mode; it gains a bias where it had none.

        ``W' = s W``, ``b' = s (b - mean) + beta`` (Jacob et al., Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference, CVPR 2018, eq. 14), computed in float64.
        """
        affine, bn = copy.deepcopy(self.affine), self.bn
        assert bn.running_mean is not None
        assert bn.running_var is not None
        weight = affine.weight.detach()
        scale = (bn.weight.double() / torch.sqrt(bn.running_var.double() + bn.eps)).detach()
        bias = torch.zeros_like(scale) if affine.bias is None else affine.bias.detach().double()
        shift = scale * (bias - bn.running_mean.double()) + bn.bias.detach().double()
        rows = scale.reshape(-1, *[1] * (weight.dim() - 1))
        affine.weight = nn.Parameter((weight.double() * rows).to(weight.dtype))
        affine.bias = nn.Parameter(shift.to(weight.dtype))
        return affine
