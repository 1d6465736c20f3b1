"""Sums, means and extremes over axes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


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
