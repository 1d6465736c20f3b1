"""Normalisation over groups of channels, and by the root of the mean square."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pipeline.rules.normalisation import NormRule, or_default
from pipeline.rules.rule import Example, rule


@rule(nn.GroupNorm)
class GroupNormRule(NormRule[nn.GroupNorm]):
    """Over the channels of each group and their places (Wu and He, arXiv 1803.08494, eq. 1 and 7)."""

    def grouped(self, op: nn.GroupNorm, x: Tensor) -> Tensor:
        return x.reshape(len(x), op.num_groups, -1)

    def affine(self, op: nn.GroupNorm, x: Tensor) -> tuple[Tensor, Tensor]:
        """One number a channel, repeated for its places."""
        channels = op.num_channels // op.num_groups
        places = x.shape[-1] // channels
        return self._repeat(op, op.weight, 1.0, x, places), self._repeat(op, op.bias, 0.0, x, places)

    def _repeat(self, op: nn.GroupNorm, value: Tensor | None, default: float, x: Tensor, places: int) -> Tensor:
        channels = or_default(value, default, x, op.num_groups, -1)
        return channels if value is None else channels.repeat_interleave(places, dim=-1)

    def examples(self) -> Iterator[Example]:
        yield Example(nn.GroupNorm(2, 8), ((2, 8, 3, 2),))
        yield Example(nn.GroupNorm(3, 3), ((2, 3, 5),))
        yield Example(nn.GroupNorm(1, 4, affine=False), ((2, 4, 3),))


@rule(nn.RMSNorm)
class RMSNormRule(NormRule[nn.RMSNorm]):
    """``w x / sqrt(mean x^2 + eps)`` over the last axes (Zhang and Sennrich, arXiv 1910.07467, eq. 4)."""

    centred = False

    def eps(self, op: nn.RMSNorm) -> float:
        return op.eps or 0.0

    def grouped(self, op: nn.RMSNorm, x: Tensor) -> Tensor:
        return x.reshape(len(x), -1, torch.Size(op.normalized_shape).numel())

    def affine(self, op: nn.RMSNorm, x: Tensor) -> tuple[Tensor, Tensor]:
        return or_default(op.weight, 1.0, x, 1, -1), or_default(None, 0.0, x)

    def examples(self) -> Iterator[Example]:
        yield Example(nn.RMSNorm(8, eps=1e-5), ((2, 3, 8),))
        yield Example(nn.RMSNorm((4, 3), eps=1e-2), ((2, 4, 3),))
