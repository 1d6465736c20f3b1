"""The settings of a certification, and its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pipeline.certify.attack import PGD
from pipeline.choices import Mode
from pipeline.core.threat import Ball
from pipeline.methods import ATTACKS, LONG_ATTACK, METHODS, domains_of, up_to
from pipeline.results import LevelDetails, Samples


@runtime_checkable
class Images(Protocol):
    """Float32 inputs by sample: an array, or an object that makes arrays of the rows it is indexed by."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Strategy:
    """How a data set is certified: the arithmetic that proofs hold for, the methods, and the attack."""

    arithmetic: Mode = "float32-any-order"
    attack: PGD | None = field(default_factory=PGD)
    device: str = "cpu"
    batch: int | None = None
    """Samples bounded at once; None chooses by memory."""
    method: str = "auto"
    domains: int | None = None
    """The most domains into which branch and bound divides a sample's region; None for the method's default."""
    memory: int | None = None
    """Bytes for one batch, the float64 network included; None takes a usual amount, or what one sample needs."""
    largest_eps: bool = False
    """Whether each sample's largest certified eps is searched for."""
    kernels: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """The measured (absolute, relative) float32 error of each activation kernel that the file runs."""

    @property
    def methods(self) -> tuple[str, ...]:
        """The bounding methods that may be tried, cheapest first."""
        return up_to(self.method)

    @property
    def most_domains(self) -> int | None:
        """``domains`` as a number; None where no method divides regions."""
        return (self.domains or domains_of(self.method)) if METHODS[self.methods[-1]].splits else None

    @property
    def long_attack(self) -> PGD | None:
        """The attack that precedes the rungs of at least its cost; None without such rungs, or without attack."""
        dearest = METHODS[self.methods[-1]]
        return self.attack.longer if self.attack is not None and dearest.cost >= ATTACKS[LONG_ATTACK] else None


@dataclass(frozen=True, eq=False)
class Certification:
    """Verdicts of all samples in balls of ascending eps, and how they came about."""

    balls: tuple[Ball, ...]
    samples: Samples
    details: tuple[LevelDetails, ...]
    """By ball: how many samples each rung examined, the looseness of layers, the cost of rounding."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds spent on each rung and eps."""
    incomplete: bool = False
    """Whether a budget left units out."""
    blind: int = 0
    """How many samples survived an attack that saw no gradient on them."""
