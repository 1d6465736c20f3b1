"""Constants of float32 and float64, the bound of a sum's rounding, products of a fixed order; and what nothing bounds.

Notation: ``u = 2^-24``, ``w = 2^-53``, ``gamma(n, u) = n u / (1 - n u)`` (Higham, Accuracy and Stability of Numerical Algorithms,
Lemma 3.1), ``tiny = 2^-126``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.errors import InputRejected

U32, U64 = 2.0**-24, 2.0**-53
TINY32, TINY64 = 2.0**-126, 2.0**-960
FLOAT32_MAX = 3.4028234663852886e38
LARGEST_KERNEL = 2.0**126
GROUP = 64
"""How many rows of coefficients one matrix product takes together."""
SLACK = 12
"""Roundings, beyond those of the sum of products, that a runtime may add to one affine output: alpha, beta, a folded BatchNorm,
Mul or Add (six), a reciprocal square root of two ulp, a residual added into the accumulator."""
JOINED = 4
"""How many numbers around one matrix product a runtime may make its factor: each costs at most two roundings, of the slack."""


def gamma(n: int, unit: float) -> float:
    """``n u / (1 - n u)``, rounded up. Raises InputRejected (3) where ``n u > 1/8``."""
    if n * unit > 0.125:
        raise InputRejected(
            f"an operator sums {n} terms, and rounding is bounded only below {int(0.125 / unit)}; "
            "use `--arithmetic real`, or split the layer."
        )
    return n * unit / (1 - n * unit) * (1 + 8 * U64)


def dot(coeff: Tensor, value: Tensor) -> Tensor:
    """``<A, y>`` over the features: (rows, batch, *features) with (batch or 1, *features) gives (rows, batch).

    In groups of ``GROUP`` rows: libraries choose an order of summation by the number of rows, and results must not depend on how
    many rows fit into memory.
    """
    rows, batch = coeff.shape[:2]
    value = value.expand(coeff.shape[1:]).reshape(batch, 1, -1)
    # The vector on the left: on a CPU eight times as fast as on the right, and as einsum.
    parts = [
        torch.bmm(value, part.reshape(len(part), batch, -1).permute(1, 2, 0)).squeeze(1).T
        for part in coeff.split(GROUP)
    ]
    return parts[0] if rows <= GROUP else torch.cat(parts)


def unmeasured(*operators: str, on: str = "this build of ONNX Runtime and these instructions") -> InputRejected:
    """The refusal of kernels whose float32 error nobody knows ``on`` the build that runs."""
    return InputRejected(
        f"the float32 error of {', '.join(operators)} is bounded by no standard, and not known for {on}, so `--arithmetic "
        f"float32-any-order` cannot certify it; measure it once by `pipeline doctor --measure-kernels {' '.join(operators)}` "
        "(minutes of CPU each), or use `--arithmetic real`."
    )


def unbounded(*operators: str) -> InputRejected:
    """The refusal of operators that each runtime evaluates in its own way, so that nothing bounds their float32 error."""
    return InputRejected(
        f"the float32 error of {', '.join(operators)} is bounded by no standard, and runtimes evaluate it each in its own "
        "way, so `--arithmetic float32-any-order` cannot certify it; use `--arithmetic real`."
    )
