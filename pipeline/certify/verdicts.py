"""What a certification is asked, and what it answers: settings and outcomes, sample by sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pipeline.certify.attack import PGD
from pipeline.choices import METHODS, Choice, Method, Mode
from pipeline.core.threat import Ball

DECIDERS = ("nothing", "prediction", "pgd", "ibp", "crown-ibp", "long pgd", "crown", "alpha-crown")
"""What may settle a sample, in the order in which it is tried; the codes of ``decided_by``."""


@runtime_checkable
class Images(Protocol):
    """Inputs by sample, float32: an array, or what makes one of the rows that it is asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> np.ndarray: ...


class Verdict(IntEnum):
    """What is known of one sample at one eps."""

    CERTIFIED = 0
    FALSIFIED = 1
    MISCLASSIFIED = 2
    UNKNOWN = 3


@dataclass(frozen=True)
class Strategy:
    """How a data set is certified: whose arithmetic the proof is about, how far it goes, and what tries to break it."""

    arithmetic: Mode = "float32-any-order"
    attack: PGD | None = field(default_factory=PGD)
    device: str = "cpu"
    batch: int | None = None
    """Samples bounded at once; None chooses by the size of the network's values."""
    method: Choice = "auto"
    memory: int | None = None
    """Bytes that one batch may take, the float64 network included; None for a usual amount, or what one sample needs."""
    largest_eps: bool = False
    """Whether each sample's largest certified eps is looked for."""
    kernels: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """The measured (absolute, relative) float32 error of each activation kernel that the file runs."""

    @property
    def methods(self) -> tuple[Method, ...]:
        """The methods of bounding that may be tried, cheapest first."""
        return METHODS if self.method == "auto" else METHODS[: METHODS.index(self.method) + 1]

    @property
    def long_attack(self) -> PGD | None:
        """The attack before the expensive rungs, where there are any."""
        return self.attack.longer if self.attack is not None and "crown" in self.methods else None


@dataclass(frozen=True)
class Layer:
    """The signs of one nonlinearity's inputs by IBP (fractions of its units), and the mean radius of their boxes.

    ``looseness`` is that radius as a multiple of the range that values at a few vertices of the input boxes span.
    """

    name: str
    kind: str
    unstable: float
    active: float
    inactive: float
    mean_radius: float | None
    looseness: float | None = None


@dataclass(frozen=True)
class RoundingCost:
    """What the mode of arithmetic cost at the rung of IBP: margins lost to float32, and certificates."""

    largest: float
    certified: int
    certified_in_real: int


@dataclass(frozen=True, eq=False)
class Level:
    """The outcome at one eps, by sample: the verdict, and the best margin that was proved (NaN where none was asked)."""

    ball: Ball
    verdicts: np.ndarray
    margins: np.ndarray
    survived: np.ndarray | None
    """Whether no counterexample is known; None without an attack. Misclassified samples did not survive."""
    decided_by: np.ndarray
    """Codes into DECIDERS."""
    undecided: np.ndarray
    """Unknown samples that a budget kept some rung from examining."""
    examined: dict[str, int]
    """How many samples each rung looked at."""
    layers: tuple[Layer, ...] = ()
    rounding: RoundingCost | None = None


@dataclass(frozen=True, eq=False)
class Counterexamples:
    """One for each falsified sample, at the smallest eps where one was found: inside the real ball, and confirmed."""

    rows: np.ndarray
    level: np.ndarray
    images: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True, eq=False)
class Certification:
    """All levels, with the deployed file's own predictions."""

    predicted: np.ndarray
    levels: tuple[Level, ...]
    counterexamples: Counterexamples
    largest_eps: np.ndarray | None = None
    """By sample, in units of the range: certified itself; NaN where misclassified, 0 where nothing was proved."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Spent on each rung and eps."""
    cut: bool = False
    """Whether a budget left something out."""
    blind: int = 0
    """On how many samples that survived the attack it never saw a gradient."""
