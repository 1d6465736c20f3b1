"""The one result type, schema version 1, and the laws that every result obeys.

`result` is deterministic and carries its SHA-256; `run` is volatile. A result that breaks a law cannot be built:
the counts of a level add up, certified <= attacked <= natural, certified falls as eps grows, classes sum to the whole.
"""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from pipeline.errors import Contradiction
from pipeline.report.canonical import digest
from pipeline.report.facts import Caution, Data, Method, Model, Name, Parity, Preprocessing, Sha256, Threat, Tool
from pipeline.report.rate import Frozen, Rate

Kind = Literal["certification", "retraining"]


class Verdicts(Frozen):
    """How many samples got each verdict."""

    certified: int
    falsified: int
    misclassified: int
    unknown: int


class Histogram(Frozen):
    """Counts between consecutive edges; values beyond the ends are counted in the outermost bins."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class Margin(Frozen):
    """The lower bounds of the smallest margin `min over j of y_label - y_j`, over all samples where finite.

    `near_zero` counts the certified samples whose bound lies below `near_zero_below`.
    """

    p05: float
    p50: float
    p95: float
    near_zero: int
    near_zero_below: float
    not_finite: int
    histogram: Histogram


class Layer(Frozen):
    """The states of one nonlinearity's units over the samples (fractions), and the mean radius of its input."""

    name: Name
    kind: str
    unstable: float
    active: float
    inactive: float
    mean_radius: float | None = None


class Rung(Frozen):
    """One rung of the ladder at one eps: how many samples it examined, how many it decided, how many are certified by then.

    What follows from another eps counts as decided and is not examined: `decided` may exceed `examined`.
    """

    name: str
    examined: int
    decided: int
    certified: int


class RoundingCost(Frozen):
    """What float32 cost the bounds of IBP: the largest loss of a margin, and certificates with it and without it."""

    largest: float
    certified: int
    certified_in_real: int


class LargestEps(Frozen):
    """Each sample's largest eps that was itself certified, on a grid of step `tolerance`: quantiles over the correct samples.

    A sample for which nothing was proved counts as 0.
    """

    tolerance: str
    p05: float
    p25: float
    p50: float
    p75: float
    p95: float
    mean: float


class Level(Frozen):
    """One eps: an exact fraction in units of the pixel range, and what it leaves of the accuracy.

    `attacked` counts the samples for which no counterexample was found, None where none was looked for;
    `undecided` those of the unknown that a budget left unexamined: `certified` is then a lower bound.
    """

    eps: str
    eps_float: float
    natural: Rate
    attacked: Rate | None
    certified: Rate
    verdicts: Verdicts
    undecided: int = 0
    margin: Margin | None = None
    layers: tuple[Layer, ...] = ()
    rungs: tuple[Rung, ...] = ()
    rounding: RoundingCost | None = None

    @property
    def exact(self) -> Fraction:
        """eps as it is."""
        return Fraction(self.eps)

    @model_validator(mode="after")
    def _laws(self) -> Level:
        v, n = self.verdicts, self.natural.n
        where = f"At eps = {self.eps}"
        _law(self.eps_float == float(self.exact), f"{where}: eps_float is {self.eps_float}")
        _law(v.certified + v.falsified + v.misclassified + v.unknown == n, f"{where}: verdicts {v} of {n} samples")
        _law(
            self.natural.k == n - v.misclassified, f"{where}: {self.natural.k} correct, {v.misclassified} misclassified"
        )
        _law((self.certified.k, self.certified.n) == (v.certified, n), f"{where}: certified {self.certified} for {v}")
        _law(0 <= self.undecided <= v.unknown, f"{where}: {self.undecided} undecided of {v.unknown} unknown")
        if self.attacked is not None:
            survived = self.natural.k - v.falsified
            _law((self.attacked.k, self.attacked.n) == (survived, n), f"{where}: attacked {self.attacked} for {v}")
        return self


class ClassRow(Frozen):
    """The counts of one class at one eps."""

    label: int
    eps: str
    n: int
    natural: int
    attacked: int | None
    certified: int
    undecided: int = 0

    @model_validator(mode="after")
    def _laws(self) -> ClassRow:
        middle = self.natural if self.attacked is None else self.attacked
        _law(0 <= self.certified <= middle <= self.natural <= self.n, f"class {self.label} at eps = {self.eps}: {self}")
        return self


class SamplesFile(Frozen):
    """The file of verdicts per sample."""

    file: Name
    sha256: Sha256
    columns: tuple[str, ...]


class GateOutcome(Frozen):
    """A gate and what was observed; `passed` is None where a budget ran out before it was decided."""

    id: Name
    metric: Literal["natural", "attacked", "certified"]
    label: int | None = None
    eps: str | None = None
    comparator: Literal[">="] = ">="
    threshold: str
    observed: str
    k: int
    n: int
    passed: bool | None


def _finite_or_null(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | int | str | None, BeforeValidator(_finite_or_null)]


class Accuracies(Frozen):
    """Natural, attacked and certified accuracy of a model at one eps."""

    eps: str
    natural: Rate
    attacked: Rate | None
    certified: Rate


class Training(Frozen):
    """How the model was retrained: every setting, one record of numbers per epoch, and what it was worth."""

    recipe: dict[str, JsonValue]
    curves: tuple[dict[str, Number], ...] = ()
    before: Accuracies | None = None
    after: Accuracies | None = None
    parent_sha256: Sha256 | None = None
    notes: tuple[Name, ...] = ()


class Result(Frozen):
    """Everything that was found, deterministic on the same machine, versions, device and chunk size.

    `partial` says that a budget left samples undecided: certified accuracies are then lower bounds.
    """

    tool: Tool
    model: Model
    preprocessing: Preprocessing
    data: Data
    threat: Threat
    method: Method
    parity: Parity | None = None
    levels: tuple[Level, ...]
    per_class: tuple[ClassRow, ...] = ()
    samples: SamplesFile | None = None
    counterexamples: SamplesFile | None = None
    largest_eps: LargestEps | None = None
    gates: tuple[GateOutcome, ...] = ()
    warnings: tuple[Caution, ...] = ()
    verdict: Literal["pass", "fail", "incomplete"]
    training: Training | None = None
    partial: bool = False

    @model_validator(mode="after")
    def _laws(self) -> Result:
        undecided = sum(level.undecided for level in self.levels)
        _law(self.partial == (undecided > 0), f"partial is {self.partial}, and {undecided} verdicts are undecided")
        for level in self.levels:
            _law(level.natural.n == self.data.n_evaluated, f"{level.natural.n} samples of {self.data.n_evaluated}")
            sure = self.method.arithmetic != "none" or level.certified.k == 0
            _law(sure, "arithmetic `none` never says certified")
            rows = [row for row in self.per_class if row.eps == level.eps]
            sums = tuple(sum(getattr(row, name) for row in rows) for name in ("n", "natural", "certified"))
            whole = (level.natural.n, level.natural.k, level.certified.k)
            _law(not rows or sums == whole, f"classes sum to {sums}, the level has {whole}")
        for low, high in pairwise(self.levels):
            _law(low.exact < high.exact, f"levels must ascend; eps = {low.eps} precedes {high.eps}")
            _law(low.natural == high.natural, f"natural accuracy depends on no eps; {low.natural} and {high.natural}")
            _law(
                low.certified.k >= high.certified.k,
                f"certified must fall as eps grows; {low.certified.k} at {low.eps}, {high.certified.k} at {high.eps}",
            )
        outcomes = {gate.passed for gate in self.gates}
        expected = "fail" if False in outcomes else "incomplete" if None in outcomes else "pass"
        agrees = self.verdict == expected or (self.verdict == "incomplete" and expected == "pass")
        _law(agrees, f"verdict {self.verdict!r} with gates {sorted(map(str, outcomes))}")
        return self


class Run(Frozen):
    """What differs from run to run: time, place, command."""

    started: str
    seconds: float
    argv: tuple[Name, ...] = ()
    host: dict[str, JsonValue] = Field(default_factory=dict)
    timings: dict[str, float] = Field(default_factory=dict)
    stopped_by: str | None = None


class Report(Frozen):
    """A result, its digest, and the run it came from."""

    schema_version: Literal["1"] = "1"
    kind: Kind
    result: Result
    result_sha256: Sha256
    run: Run

    @classmethod
    def of(cls, kind: Kind, result: Result, run: Run) -> Report:
        """The report of a result, with the digest computed."""
        return cls(kind=kind, result=result, result_sha256=digest(result.model_dump(mode="json")), run=run)


def schema() -> dict[str, Any]:
    """The JSON Schema of a report."""
    return Report.model_json_schema()


def _law(holds: bool, found: str) -> None:
    if not holds:
        raise Contradiction(f"A result breaks a law of its schema: {found}. This is a fault of the program; report it.")
