"""What float32 may lose of a sum of products in any order, by what its partial sums may reach rather than by all magnitudes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.core.floating_point import SLACK, U32, U64, gamma


@dataclass(frozen=True)
class PartialSums:
    """Of ``y = sum_i w_i x_i + b``, per output: ``most`` products are not always zero, and any of them, ``b`` with them or not,
    add up to ``reach`` at most in absolute value."""

    most: Tensor | int
    reach: Tensor

    @classmethod
    def of(cls, image: Tensor, spread: Tensor, offset: Tensor | float, most: Tensor | int, terms: int) -> PartialSums:
        """``image = W (p - n) + b``, ``spread = |W| (p + n)`` and ``offset = |b|``, computed in float64; inputs in ``[-n, p]``.

        The positive terms of a sum are at most ``P = W+ p + W- n + b+`` together, the negative ones ``N = W+ n + W- p + b-``,
        and a sum of some of both lies between ``-N`` and ``P``: ``reach = max(P, N) = (P + N + |P - N|) / 2``, where
        ``P + N = spread + offset`` and ``P - N = image``. Each of the two errs by at most ``gamma(k + 4, w) (P + N)``.
        """
        both = spread + offset
        return cls(most, (both * (1 + 8 * gamma(terms + 4, U64)) + image.abs()) * (0.5 + 4 * U64))

    def lost(self, total: Tensor, roundings: int) -> Tensor:
        """An upper bound of ``|fl(y) - y|`` but for flushing to zero: ``u (1 + gamma(n, u)) (m reach + (1 + s) total)``.

        ``total = |W| m + |b|``, ``n`` the ``roundings`` that a term passes through at most, ``m`` of ``most``, ``s`` of SLACK.

        Proof. An execution is a tree. Its leaves are ``w_i x_i`` and ``b``. Each node computes ``(1 + d) z``, ``|d| <= u``, where
        ``z`` is the exact sum of what its two children computed, or what its one child computed times a factor (the product
        itself, alpha, the scale of a BatchNorm). Multiply all that is computed by the exact factors that are yet to come: then
        leaves are the terms ``t`` of ``y``, ``z`` of one child is what that child computed, and sums stay sums. From the root
        downwards, ``fl(y) = z + d z``, and ``z`` is the sum of what the children computed, of which the same is true:
        ``fl(y)`` is the sum of all ``t`` and of ``d z`` over all nodes, so ``|fl(y) - y| <= u sum |z|``.

        Each ``z`` is a sum of some terms, each times a number between zero and ``(1 + u)^n``: ``|z|`` is at most ``(1 + u)^n``
        times ``max(P, N)``, and times the magnitudes of its terms. Where one of two children is exactly zero, ``d = 0``. So nodes
        of two children number one less than the leaves that are not zero: these are ``m``, ``b``, and what else is added into
        the same sum, a residual or the constants of a BatchNorm. The first bound is taken for ``m`` of them. The second is taken
        for the rest and for nodes of one child, of which no term meets more than ``1 + s`` together. A fused
        multiply-add leaves a node of one child out. What is flushed to zero adds its own magnitude, and at most as much to each
        ``z`` above it, hence ``1 + n u (1 + u)^n < 2`` times that: ``U`` of ``core/outward.py`` has this factor.
        """
        bound = self.reach * self.most + total * (1 + SLACK)
        return bound * (U32 * (1 + gamma(roundings, U32)) * (1 + 16 * U64))


def may_differ_from_zero(magnitude: Tensor) -> Tensor:
    """1 where a box holds anything but zero, as a neuron that is never active does not; else 0."""
    return (magnitude != 0).to(magnitude)  # NaN and infinity too


def signed_reach(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """``p - n`` and ``p + n`` of ``[-n, p]``, the box with zero in it."""
    p, n = upper.clamp_min(0), (-lower).clamp_min(0)
    return p - n, torch.add(p, n)
