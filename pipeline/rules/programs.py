"""Operators whose float32 kernel is a program of a few steps: what these may err by together.

``n`` numbers are summed in any order, and every step but the exponential is one IEEE operation, with or without FMA, results
below the smallest normal number flushed to zero or not. ``u = 2^-24``, ``tiny = 2^-126``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.core.floating_point import FLOAT32_MAX, LARGEST_KERNEL, TINY32, U32, gamma
from pipeline.core.interval import Interval
from pipeline.core.outward import Outward
from pipeline.core.rounding import Rounding

EXPONENTIAL = "Softmax"
"""What the exponential inside a Softmax is called where its error was measured."""
SOFTMAX = (
    "Softmax and LogSoftmax subtract the greatest entry of a row, take the exponentials that were measured, add them up in any "
    "order, and multiply by the reciprocal of the sum or divide by it; LogSoftmax subtracts its logarithm, right to 4 ulp."
)
NORMALISATION = (
    "Normalisation adds up in any order, takes the variance as the mean square less the squared mean or as the mean of squared "
    "deviations, and scales deviations, or entries and mean apart, by IEEE divisions, products and square roots."
)
_STEPS = 16
"""More roundings than any of the programs has behind its sums."""


def softmax_error(x: Interval, size: Tensor, rounding: Rounding) -> Tensor | float:
    """What a Softmax along the last axis may err by, where its entries are at most ``size``.

    With ``T_j = x_j - max x`` the kernel has ``e_j = exp(T_j) (1 + d)``, ``|d| <= eta + u |T_j|``, or errs by ``lost`` where
    that is next to nothing; ``s = sum e_j (1 + g)``, ``g <= gamma(n, u)``; and ``e_j / s`` rounds twice. With ``q`` the real
    Softmax, ``sum q_j |T_j| = H(q) - log sum exp(T_j) <= log n``, so that ``s`` errs by ``rho`` (``_sum``), relatively; and
    ``q_j |T_j| <= 1/e``, since the real sum is at least one. Hence ``size (f (1 + eta) - 1) + f (0.37 u (1 + eta) + lost)``
    with ``f = (1 + u)^2 / (1 - rho)``. Raises InputRejected where the exponential was not measured.
    """
    if not isinstance(rounding, Outward) or not rounding.deployed:
        return 0.0
    rho, eta, lost = _sum(x.center.shape[-1], rounding)
    if rho >= 0.5:
        return torch.full_like(size, torch.inf)
    f = (1 + U32) ** 2 / (1 - rho) * (1 + 2.0**-40)
    error = size * (f * (1 + eta) - 1) + f * (0.4 * U32 * (1 + eta) + lost)
    return _within_range(x, error)


def log_softmax_error(x: Interval, size: Tensor, rounding: Rounding) -> Tensor | float:
    """The same of a LogSoftmax ``T_j - log s``: two differences and the logarithm round, and ``log s`` errs with ``s``.

    ``|y_j| = |T_j| + log sum exp(T)``, so that all roundings are relative to ``size``.
    """
    if not isinstance(rounding, Outward) or not rounding.deployed:
        return 0.0
    rho, _, _ = _sum(x.center.shape[-1], rounding)
    if rho >= 0.5:
        return torch.full_like(size, torch.inf)
    return _within_range(x, size * (12 * U32) - 1.001 * math.log1p(-rho) + 8 * TINY32)


def _sum(n: int, rounding: Outward) -> tuple[float, float, float]:
    """By how much the sum of exponentials errs, each of them relatively, and each absolutely: ``rho``, ``eta``, ``lost``.

    ``T_j`` is a rounded difference: ``exp`` of it errs by ``u |T_j|``, or by less than 2^-148 below -104, where both are less.
    """
    absolute, eta = rounding.measured(EXPONENTIAL)
    lost, summed = absolute + 2.0**-120, gamma(n + _STEPS, U32)
    each = eta + 1.01 * U32 * (math.log(n) + 1) * (1 + eta)
    return ((1 + each) * (1 + summed) - 1 + n * lost * (1 + summed)) * (1 + 2.0**-40), eta, lost


def _within_range(x: Interval, error: Tensor) -> Tensor:
    """Infinite in rows with an entry so large that a difference may leave the range of float32."""
    return torch.where(x.magnitude.amax(-1, keepdim=True) < LARGEST_KERNEL, error, torch.inf)


def normalisation_error(
    x: Interval,
    spread: Tensor,
    size: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float,
    centred: bool,
    rounding: Rounding,
) -> Tensor | float:
    """What ``w (x - mean) / sqrt(var + eps) + b`` along the last axis may err by.

    ``spread`` is at most ``var + eps`` and ``size`` at least ``|x - mean| / sqrt(var + eps)``. With ``A = mean |x|`` and
    ``Q = mean x^2`` the variance, by either formula, errs by ``D = gamma(2n + 16, u) (Q + A^2) + 4 u eps``, since
    ``|mean| <= A`` and ``A^2 <= Q``; a deviation, or what stands for it where entry and mean are scaled apart, by
    ``e = gamma(n + 16, u) (A + |x|)``. With ``f = (1 + 16u) / sqrt(1 - D/spread)``, which is where the root may lie beside
    the real one: ``|w| (size (f - 1) + e f / sqrt(spread)) + 16 u (|w| size + |b|)``. Infinite where ``D`` is half of
    ``spread`` or more (the mean is large beside the deviations), or where squares may overflow.
    """
    if not isinstance(rounding, Outward) or not rounding.deployed:
        return 0.0
    n, m = x.center.shape[-1], x.magnitude
    mean = m.mean(-1, keepdim=True) if centred else torch.zeros_like(spread)
    square = (m * m).mean(-1, keepdim=True)
    off = gamma(2 * n + _STEPS, U32) * (square + mean * mean) + 4 * U32 * eps + 64 * TINY32 * (1 + mean)
    share = off / (spread * (1 - 2.0**-40)) * (1 + 2.0**-40)
    f = (1 + _STEPS * U32) / (1 - share.clamp(max=0.5)).sqrt()
    moved = gamma(n + _STEPS, U32) * (mean + m)
    error = weight.abs() * (size * (f - 1) + moved * f / spread.sqrt()) + _STEPS * U32 * (
        weight.abs() * size + bias.abs()
    )
    error = error * (1 + 2.0**-30) + _STEPS * TINY32 * (1 + weight.abs() + size)
    sound = (share < 0.5) & (m.amax(-1, keepdim=True) ** 2 * (4 * n) < FLOAT32_MAX)
    return torch.where(sound, error, torch.inf)
