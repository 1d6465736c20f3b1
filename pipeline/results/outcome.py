"""The outcome of a gate, with everything that decided it, so that a reader can decide it again."""

from __future__ import annotations

from typing import Literal

from pipeline.results.facts import Exact, Name, Sha256
from pipeline.results.rate import Frozen

Kind = Literal["fail-under", "max-regression", "require-parity", "require-improvement"]


class Baseline(Frozen):
    """The report that a gate on regression compared with, and the samples on which the two differ.

    `k` counts the samples that had the metric there; `lost` and `gained` those that have it on one side only. Of samples that
    a budget left undecided, `undecided_had` and `undecided_lacked` count those with and without it there. `p_value` is that
    of the exact two-sided test of McNemar, rounded up; it decides only where `significance` is given.
    """

    result_sha256: Sha256
    model_sha256: Sha256
    k: int
    lost: int
    gained: int
    undecided_had: int = 0
    undecided_lacked: int = 0
    p_value: str
    significance: Exact | None = None


class GateOutcome(Frozen):
    """A gate and the observed value; `passed` is None where a budget ran out before it was decided.

    `observed` is the rate, the lower end of its interval (`on`), the drop below a baseline, or the largest difference of outputs
    in units of the largest output. `k` of `n` count samples, or for a gate on parity the points with the same label.
    """

    id: Name
    kind: Kind = "fail-under"
    metric: Literal["natural", "attacked", "certified", "parity"]
    label: int | None = None
    eps: Exact | None = None
    on: Literal["value", "lower-ci"] = "value"
    comparator: Literal[">=", "<=", ">"] = ">="
    threshold: str
    observed: str
    k: int
    n: int
    baseline: Baseline | None = None
    passed: bool | None

    @property
    def summary(self) -> str:
        """The gate and the observed value, in a line."""
        of_class = f"class:{self.label}:" if self.label is not None else ""
        at = f"@{self.eps}" if self.eps else ""
        name = f"{of_class}{self.metric}{at}" + (", lower end" if self.on == "lower-ci" else "")
        if (b := self.baseline) is None:
            missed = {">=": "<", "<=": ">", ">": "<="}[self.comparator]
            relation = {True: self.comparator, False: missed, None: "undecided against"}[self.passed]
            return f"{name}  {self.observed} {relation} {self.threshold}"
        tested = f"p = {b.p_value}" + (f" against {b.significance}" if b.significance else "")
        return f"{name}  drop {self.observed}, allowed {self.threshold} ({b.lost} lost, {b.gained} gained, {tested})"
