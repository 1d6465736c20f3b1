"""What published results attain, so that a first figure can be judged: certified training of CNN-7, the L-infinity norm.

Shi et al. 2021: their README (shizhouxing/Fast-Certified-Robust-Training) and, like De Palma et al. 2024 (MTL-IBP, verified
by branch and bound), the comparison kept in ADA-research/CTRAIN, papers/rethinking_evaluation_paradigms/eval/plot.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

IBP, MTL_IBP = "IBP (Shi et al. 2021)", "MTL-IBP (De Palma et al. 2024)"


@dataclass(frozen=True)
class Published:
    """Accuracies in per cent of one method on one data set at one eps."""

    data: str
    shape: tuple[int, ...]
    eps: Fraction
    method: str
    natural: float
    certified: float


MNIST, CIFAR10, TINY = (1, 28, 28), (3, 32, 32), (3, 64, 64)
TABLE = (
    Published("MNIST", MNIST, Fraction(3, 10), IBP, 97.67, 93.10),
    Published("MNIST", MNIST, Fraction(3, 10), MTL_IBP, 98.80, 93.62),
    Published("CIFAR-10", CIFAR10, Fraction(2, 255), IBP, 66.84, 52.85),
    Published("CIFAR-10", CIFAR10, Fraction(2, 255), MTL_IBP, 80.11, 63.24),
    Published("CIFAR-10", CIFAR10, Fraction(8, 255), IBP, 48.94, 34.97),
    Published("CIFAR-10", CIFAR10, Fraction(8, 255), MTL_IBP, 53.35, 35.44),
    Published("TinyImageNet", TINY, Fraction(1, 255), IBP, 25.92, 17.87),
    Published("TinyImageNet", TINY, Fraction(1, 255), MTL_IBP, 37.56, 26.09),
)


def quoted(shape: tuple[int | str | None, ...], eps: Fraction) -> str | None:
    """A sentence on the results nearest to this eps, at most a factor of two away, for inputs of this shape where it can."""
    near = [row for row in TABLE if row.eps / 2 <= eps <= row.eps * 2]
    near = [row for row in near if row.shape == tuple(shape)] or near
    if not near:
        return None
    best = min(near, key=lambda row: max(row.eps / eps, eps / row.eps))
    rows = [row for row in near if (row.data, row.eps) == (best.data, best.eps)]
    figures = ", ".join(f"{row.method} {row.certified:.2f} % ({row.natural:.2f} % natural)" for row in rows)
    return f"Published for CNN-7 on {best.data} at ε = {best.eps}: {figures}."
