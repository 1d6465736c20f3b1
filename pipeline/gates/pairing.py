"""Two reports compared sample by sample: in which facts they differ, and which samples gained or lost a property."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool

from pipeline.gates.exact import sign_test
from pipeline.results.facts import Data, Method, Preprocessing
from pipeline.results.samples import Samples, Verdict
from pipeline.results.threat import Threat

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

    def differences(self, other: Setup) -> dict[str, str]:
        """The facts that differ, by name, each as "this against that"."""
        pairs: Mapping[str, tuple[object, object]] = {
            "data": (f"SHA-256 {self.data.sha256[:12]}", f"SHA-256 {other.data.sha256[:12]}"),
            "samples": (_excerpt(self.index), _excerpt(other.index)),
            "labels": (_excerpt(self.label), _excerpt(other.label)),
            "threat": (_threat_text(self.threat), _threat_text(other.threat)),
            "preprocessing": (_preprocessing_text(self.preprocessing), _preprocessing_text(other.preprocessing)),
            "arithmetic": (self.method.arithmetic, other.method.arithmetic),
            "proof": (self._proof, other._proof),
            "attack": (_attack_text(self.method), _attack_text(other.method)),
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
    """Samples in which two columns differ: ``lost`` is true in the first alone, ``gained`` in the second alone."""

    lost: Bool[np.ndarray, " n"]
    gained: Bool[np.ndarray, " n"]

    @classmethod
    def between(cls, had: Bool[np.ndarray, " n"], has: Bool[np.ndarray, " n"]) -> Flips:
        """The changes from column ``had`` to column ``has`` of the same samples."""
        return cls(had & ~has, has & ~had)

    @property
    def p_value(self) -> Fraction:
        """The p-value of McNemar's exact test on these changes."""
        return sign_test(int(self.lost.sum()), int(self.gained.sum()))


def counted_by(samples: Samples, metric: Metric, row: int) -> Bool[np.ndarray, " n"] | None:
    """Which samples a metric counts at one eps; None for `attacked` where there was no attack."""
    correct = samples.predicted == samples.label
    if metric == "certified":
        return samples.verdict[row] == Verdict.CERTIFIED
    if metric == "natural":
        return correct
    return None if samples.survived is None else correct & samples.survived[row]


def row_of(eps: Fraction, written: tuple[str, ...]) -> int | None:
    """The index of ``eps`` in ``written``, compared as numbers; None where it is not there."""
    return next((row for row, text in enumerate(written) if Fraction(text) == eps), None)


def _threat_text(threat: Threat) -> str:
    if threat.features is not None:
        radii = threat.features.model_dump_json(include={"radii", "low", "high"})
        return f"radii by feature, digest {hashlib.sha256(radii.encode()).hexdigest()[:12]}"
    return f"{threat.norm} in [{threat.range[0]:g}, {threat.range[1]:g}]{'' if threat.clip else ', not clipped'}"


def _preprocessing_text(preprocessing: Preprocessing) -> str:
    mean, std = (None if v is None else list(v) for v in (preprocessing.mean, preprocessing.std))
    return f"range {list(preprocessing.range)}, mean {mean}, std {std}, layout {preprocessing.layout}"


def _attack_text(method: Method) -> str:
    attack = method.attack
    if attack is None:
        return "none"
    return f"{attack.name} of {attack.steps} steps, {attack.restarts} starts, seed {attack.seed}"


def _excerpt(values: np.ndarray) -> str:
    return f"{len(values)} ({', '.join(map(str, values[:5]))}{', ...' if len(values) > 5 else ''})"
