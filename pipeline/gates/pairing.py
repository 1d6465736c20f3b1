"""Two reports on the same samples: whether they are, in which facts they differ, and which samples changed sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool

from pipeline.gates.exact import sign_test
from pipeline.results.facts import Data, Method, Preprocessing, Threat
from pipeline.results.samples import Samples, Verdict

Metric = Literal["natural", "attacked", "certified"]
METRICS: tuple[Metric, ...] = get_args(Metric)


@dataclass(frozen=True, eq=False)
class Setup:
    """What two reports must share for their samples to be comparable one by one."""

    data: Data
    threat: Threat
    preprocessing: Preprocessing
    method: Method
    index: np.ndarray
    label: np.ndarray

    def differing(self, other: Setup) -> dict[str, str]:
        """The facts that are not the same in both, by name, each as "this against that"."""
        pairs: Mapping[str, tuple[object, object]] = {
            "data": (f"SHA-256 {self.data.sha256[:12]}", f"SHA-256 {other.data.sha256[:12]}"),
            "samples": (_some(self.index), _some(other.index)),
            "labels": (_some(self.label), _some(other.label)),
            "threat": (_threat(self.threat), _threat(other.threat)),
            "preprocessing": (_prepared(self.preprocessing), _prepared(other.preprocessing)),
            "arithmetic": (self.method.arithmetic, other.method.arithmetic),
            "proof": (self._proof, other._proof),
            "attack": (_attack(self.method), _attack(other.method)),
        }
        same = {
            "data": self.data.sha256 == other.data.sha256,
            "samples": np.array_equal(self.index, other.index),
            "labels": np.array_equal(self.label, other.label),
        }
        return {name: f"{a} against {b}" for name, (a, b) in pairs.items() if not same.get(name, a == b)}

    @property
    def _proof(self) -> str:
        return self.method.requested or ", ".join(self.method.bounds)


@dataclass(frozen=True, eq=False)
class Flips:
    """Where two columns differ: had and no longer, lacked and now has. One entry a sample, in the order of both."""

    lost: Bool[np.ndarray, " n"]
    gained: Bool[np.ndarray, " n"]

    @classmethod
    def between(cls, had: Bool[np.ndarray, " n"], has: Bool[np.ndarray, " n"]) -> Flips:
        """From one column to another of the same samples."""
        return cls(had & ~has, has & ~had)

    @property
    def p_value(self) -> Fraction:
        """Of McNemar's exact test."""
        return sign_test(int(self.lost.sum()), int(self.gained.sum()))


def having(samples: Samples, metric: Metric, row: int) -> Bool[np.ndarray, " n"] | None:
    """Which samples a metric counts at one eps; None for `attacked` where there was no attack."""
    correct = samples.predicted == samples.label
    if metric == "certified":
        return samples.verdict[row] == Verdict.CERTIFIED
    if metric == "natural":
        return correct
    return None if samples.survived is None else correct & samples.survived[row]


def row_of(eps: Fraction, written: tuple[str, ...]) -> int | None:
    """Which of several eps it is, as numbers; None where it is none."""
    return next((row for row, text in enumerate(written) if Fraction(text) == eps), None)


def _threat(threat: Threat) -> str:
    return f"{threat.norm} in [{threat.range[0]:g}, {threat.range[1]:g}]{'' if threat.clip else ', not clipped'}"


def _prepared(how: Preprocessing) -> str:
    mean, std = (None if v is None else list(v) for v in (how.mean, how.std))
    return f"range {list(how.range)}, mean {mean}, std {std}, layout {how.layout}"


def _attack(method: Method) -> str:
    attack = method.attack
    if attack is None:
        return "none"
    return f"{attack.name} of {attack.steps} steps, {attack.restarts} starts, seed {attack.seed}"


def _some(values: np.ndarray) -> str:
    return f"{len(values)} ({', '.join(map(str, values[:5]))}{', ...' if len(values) > 5 else ''})"
