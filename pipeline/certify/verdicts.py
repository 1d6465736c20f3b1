"""What a certification is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pipeline.certify.attack import PGD
from pipeline.choices import Mode
from pipeline.core.threat import Ball
from pipeline.methods import ATTACKS, LONG_ATTACK, METHODS, domains_of, up_to
from pipeline.results import Looked, Samples


@runtime_checkable
class Images(Protocol):
    """Inputs by sample, float32: an array, or what makes one of the rows that it is asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Strategy:
    """How a data set is certified: whose arithmetic the proof is about, how far it goes, and what tries to break it."""

    arithmetic: Mode = "float32-any-order"
    attack: PGD | None = field(default_factory=PGD)
    device: str = "cpu"
    batch: int | None = None
    """Samples bounded at once; None chooses by the size of the network's values."""
    method: str = "auto"
    domains: int | None = None
    """Into how many parts branch and bound divides a sample's region at most; None for what the method usually does."""
    memory: int | None = None
    """Bytes that one batch may take, the float64 network included; None for a usual amount, or what one sample needs."""
    largest_eps: bool = False
    """Whether each sample's largest certified eps is looked for."""
    kernels: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """The measured (absolute, relative) float32 error of each activation kernel that the file runs."""

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods of bounding that may be tried, cheapest first."""
        return up_to(self.method)

    @property
    def most_domains(self) -> int | None:
        """``domains`` as a number; None where nothing is divided."""
        return (self.domains or domains_of(self.method)) if METHODS[self.methods[-1]].splits else None

    @property
    def long_attack(self) -> PGD | None:
        """The attack before the rungs that cost no less, where there are any."""
        dearest = METHODS[self.methods[-1]]
        return self.attack.longer if self.attack is not None and dearest.cost >= ATTACKS[LONG_ATTACK] else None


@dataclass(frozen=True, eq=False)
class Certification:
    """Verdicts of all samples in balls that ascend, and what verdicts do not say."""

    balls: tuple[Ball, ...]
    samples: Samples
    looked: tuple[Looked, ...]
    """By ball: who examined how many, how loose the layers are, what rounding cost."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Spent on each rung and eps."""
    cut: bool = False
    """Whether a budget left something out."""
    blind: int = 0
    """On how many samples that survived the attack it never saw a gradient."""
