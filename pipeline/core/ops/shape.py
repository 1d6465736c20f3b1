"""Operators that move, select or repeat entries, without arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
            indices = range(x.shape[axis])[start:end:step]
            if step > 0:
                x = x.narrow(axis, indices.start, len(range(indices.start, indices.stop)))
                if step > 1:
                    x = x[(slice(None),) * (axis % x.dim()) + (slice(None, None, step),)]
            else:
                x = x.index_select(axis, torch.tensor(list(indices), dtype=torch.int64, device=x.device))
        return x

    def extra_repr(self) -> str:
        return f"starts={self.starts}, ends={self.ends}, axes={self.axes}, steps={self.steps}"


class Concat(nn.Module):
    """Values end to end along an axis; one with a batch of one (a constant token) is repeated for every sample."""

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
        old = (1,) * (rank - x.dim()) + tuple(x.shape)
        new = (1,) * (rank - len(self.shape)) + self.shape
        return x.expand([o if n in (1, -1) else n for o, n in zip(old, new, strict=True)])

    def extra_repr(self) -> str:
        return f"shape={self.shape}"


class Tile(nn.Module):
    def __init__(self, repeats: Sequence[int]):
        super().__init__()
        self.repeats = tuple(map(int, repeats))

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat(self.repeats)


class Gather(nn.Module):
    """ONNX Gather: entries along ``axis`` at constant indices of any rank."""

    indices: Tensor

    def __init__(self, indices: Tensor, axis: int):
        super().__init__()
        self.axis = axis
        self.register_buffer("indices", indices.to(torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        axis = self.axis % x.dim()
        index = torch.where(self.indices < 0, self.indices + x.shape[axis], self.indices)
        entries = x.index_select(axis, index.reshape(-1))
        return entries.reshape([*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])

    def extra_repr(self) -> str:
        return f"axis={self.axis}, indices={tuple(self.indices.shape)}"


class Take(nn.Module):
    """ONNX Gather at indices that are computed: entries of ``x`` along ``axis``, as rows of an embedding."""

    def __init__(self, axis: int):
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor, indices: Tensor) -> Tensor:
        return Gather(indices, self.axis)(x)


class OneHot(nn.Module):
    """ONNX OneHot: ``on`` at the index along a new ``axis`` of ``depth`` entries, ``off`` elsewhere.

    Negative indices count from the end; beyond ``-depth`` and ``depth - 1`` all entries are ``off``.
    """

    values: Tensor

    def __init__(self, depth: int, values: Tensor, axis: int):
        super().__init__()
        self.depth, self.axis = depth, axis
        self.register_buffer("values", values)

    def forward(self, indices: Tensor) -> Tensor:
        axis = self.axis % (indices.dim() + 1)
        classes = torch.arange(self.depth, device=indices.device).reshape(-1, *[1] * (indices.dim() - axis))
        index = torch.where(indices < 0, indices + self.depth, indices)
        off, on = self.values
        return torch.where(index.unsqueeze(axis) == classes, on, off)

    def extra_repr(self) -> str:
        return f"depth={self.depth}, axis={self.axis}"
