"""Operators over the pixels of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn


class Resize(nn.Module):
    """ONNX Resize: a matrix (out, in) along each axis, stored as the nonzero entries of each row.

    ``exact`` says that no rounding is in the weights, so that every implementation has the same.
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
        """For each axis the entries that each entry of the result reads, (out, taps)."""
        return [self.get_buffer(f"index{i}") for i in range(len(self.axes))]

    @property
    def weights(self) -> list[Tensor]:
        return [self.get_buffer(f"weights{i}") for i in range(len(self.axes))]

    def forward(self, x: Tensor) -> Tensor:
        return self.weighted(x, self.weights)

    def weighted(self, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """The operator with other weights, such as the absolute values. Raises ValueError for another size of input."""
        for axis, size, index, weight in zip(self.axes, self.sizes, self.index, weights, strict=True):
            if x.shape[axis] != size:
                raise ValueError(f"a Resize was made for {size} entries along axis {axis}, and got {x.shape[axis]}")
            taps = x.index_select(axis, index.reshape(-1)).unflatten(axis, index.shape)
            x = (taps * weight.reshape(*index.shape, *[1] * (taps.dim() - axis - 2))).sum(axis + 1)
        return x

    def extra_repr(self) -> str:
        shapes = ", ".join(
            f"axis {a}: {s} -> {len(i)} by {i.shape[1]}"
            for a, s, i in zip(self.axes, self.sizes, self.index, strict=True)
        )
        return f"{shapes}{', exact' if self.exact else ''}"


class DepthToSpace(nn.Module):
    """ONNX DepthToSpace of (batch, channels, height, width): channels become blocks of ``b x b`` pixels.

    The position in the block is the slowest part of a channel's index (DCR), or the fastest with ``columns_first`` (CRD).
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
    """ONNX SpaceToDepth: blocks of ``b x b`` pixels become channels, the inverse of DepthToSpace (DCR)."""

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
