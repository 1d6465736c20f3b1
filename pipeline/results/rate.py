"""A proportion with its counts and its exact confidence interval, as decimal strings."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from pydantic import BaseModel, ConfigDict, model_validator

from pipeline.errors import Contradiction, Incomplete
from pipeline.results.text import clean

PLACES = 4
ALPHA = 0.05
DECIMAL = re.compile(r"[01]\.[0-9]{4}")


def law(holds: bool, violation: str) -> None:
    """Raise Contradiction (5) for a result that breaks a law of its schema."""
    if not holds:
        raise Contradiction(
            f"A result breaks a law of its schema: {violation}. This is a fault of the program; report it."
        )


class Frozen(BaseModel):
    """A part of the result: immutable, without unknown fields, without NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Rate(Frozen):
    """k of n, its value, and the two-sided 95 % interval of Clopper and Pearson (Biometrika 26, 1934).

    The value is rounded down and the interval outwards, so that no shown number claims more than k/n.
    """

    k: int
    n: int
    value: str
    ci95: tuple[str, str]

    @model_validator(mode="after")
    def _consistent(self) -> Rate:
        if not 0 <= self.k <= self.n or self.value != decimal(Fraction(self.k, max(self.n, 1))):
            received = clean(f"{self.k}/{self.n} = {self.value}", 80)
            raise Contradiction(f"A rate must be k of n with its own value; received {received}.")
        if not all(DECIMAL.fullmatch(end) for end in self.ci95) or not self.ci95[0] <= self.value <= self.ci95[1]:
            raise Contradiction(f"An interval must hold its rate, {self.value}; received {str(self.ci95)[:80]}.")
        return self

    @property
    def exact(self) -> Fraction:
        """k/n."""
        return Fraction(self.k, self.n)

    @classmethod
    def of(cls, k: int, n: int) -> Rate:
        """The rate k/n. Raises Incomplete for n = 0."""
        if n == 0:
            raise Incomplete("A rate over no samples says nothing: nothing was checked. Name data that hold samples.")
        low, high = clopper_pearson(k, n)
        ends = (decimal(Fraction(low)), decimal(Fraction(high), up=True))
        return cls(k=k, n=n, value=decimal(Fraction(k, n)), ci95=ends)


def clopper_pearson(k: int, n: int) -> tuple[float, float]:
    """The exact interval: quantiles alpha/2 of Beta(k, n - k + 1) and 1 - alpha/2 of Beta(k + 1, n - k)."""
    from scipy.special import betaincinv

    low = float(betaincinv(k, n - k + 1, ALPHA / 2)) if k > 0 else 0.0
    high = float(betaincinv(k + 1, n - k, 1 - ALPHA / 2)) if k < n else 1.0
    return low, high


def betainc(a: int, b: int, x: float) -> float:
    """The regularised incomplete beta function ``I_x(a, b)``."""
    # On first use: importing scipy.special takes as long as the rest of a command that needs no tensors.
    from scipy.special import betainc

    return float(betainc(a, b, x))


def decimal(value: Fraction, *, up: bool = False) -> str:
    """A number in [0, 1] with four places, rounded down (or up)."""
    scaled = value * 10**PLACES
    digits = math.ceil(scaled) if up else math.floor(scaled)
    return f"{digits // 10**PLACES}.{digits % 10**PLACES:0{PLACES}d}"
