"""The result type, schema version 2, and the laws that every result obeys.

`result` is deterministic and carries its SHA-256; `run` is volatile. A result that breaks a law cannot be built:
the counts of a level add up, certified <= attacked <= natural, certified falls as eps grows, classes sum to the whole.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from pipeline.results.canonical import Version, digest
from pipeline.results.facts import Caution, Data, Method, Model, Name, Parity, Preprocessing, Sha256, Tool
from pipeline.results.outcome import GateOutcome
from pipeline.results.per_radius import ClassRow, Level
from pipeline.results.rate import Frozen, Rate, law
from pipeline.results.shard import Shard
from pipeline.results.threat import Threat

Kind = Literal["certification", "retraining"]
R = TypeVar("R", bound=Frozen)


class LargestEps(Frozen):
    """Quantiles, over the correct samples, of the largest certified eps, by a search on a grid of step `tolerance`.

    A sample for which nothing was proved counts as 0.
    """

    tolerance: str
    p05: float
    p25: float
    p50: float
    p75: float
    p95: float
    mean: float


class SamplesFile(Frozen):
    """The file of verdicts per sample."""

    file: Literal["samples.npz", "counterexamples.npz"]
    sha256: Sha256
    columns: tuple[str, ...]


class Proofs(Frozen):
    """The proofs for ``check-proof``: the digest of their manifest, which has that of each, and the number of samples."""

    sha256: Sha256
    samples: int = Field(ge=0)


def _finite_or_null(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | int | str | None, BeforeValidator(_finite_or_null)]


class Accuracies(Frozen):
    """Natural, attacked and certified accuracy of a model at one eps; `undecided` counts samples that a budget left out."""

    eps: str
    natural: Rate
    attacked: Rate | None
    certified: Rate
    undecided: int = Field(default=0, ge=0)


class Training(Frozen):
    """How the model was retrained: every setting, one record of numbers per epoch, and the accuracies before and after."""

    recipe: dict[str, JsonValue]
    curves: tuple[dict[str, Number], ...] = ()
    before: Accuracies | None = None
    after: Accuracies | None = None
    parent_sha256: Sha256 | None = None
    notes: tuple[Name, ...] = ()


class Result(Frozen):
    """The deterministic part of a report, the same for the same machine, versions, device and chunk size.

    `partial` says that a budget left samples undecided: certified accuracies are then lower bounds. The result of a `shard` is
    about some of a run's samples: it decides no gate, and is incomplete until it is merged with the others.
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
    proofs: Proofs | None = None
    largest_eps: LargestEps | None = None
    gates: tuple[GateOutcome, ...] = ()
    warnings: tuple[Caution, ...] = ()
    verdict: Literal["pass", "fail", "incomplete"]
    training: Training | None = None
    partial: bool = False
    shard: Shard | None = None

    @model_validator(mode="after")
    def _laws(self) -> Result:
        features, shape = self.threat.features, self.model.input.shape[1:]
        size = math.prod(d for d in shape if isinstance(d, int))
        law(
            features is None or len(features.radii) == size,
            f"radii by feature are of the entries of an input of {shape}",
        )
        undecided = sum(level.undecided for level in self.levels)
        law(self.partial == (undecided > 0), f"partial is {self.partial}, and {undecided} verdicts are undecided")
        for level in self.levels:
            law(level.natural.n == self.data.n_evaluated, f"{level.natural.n} samples of {self.data.n_evaluated}")
            sure = self.method.arithmetic != "none" or level.certified.k == 0
            law(sure, "arithmetic `none` never says certified")
            rows = [row for row in self.per_class if row.eps == level.eps]
            attacked = level.attacked is not None
            law(all((row.attacked is not None) == attacked for row in rows), "classes are attacked as the level is")
            names = ("n", "natural", "attacked", "certified", "undecided")
            sums = tuple(sum(getattr(row, name) or 0 for row in rows) for name in names)
            rates = (level.natural.n, level.natural.k, level.attacked.k if level.attacked else 0, level.certified.k)
            whole = (*rates, level.undecided)
            law(not rows or sums == whole, f"classes sum to {sums}, the level has {whole}")
        for low, high in pairwise(self.levels):
            law(low.exact < high.exact, f"levels must ascend; eps = {low.eps} precedes {high.eps}")
            law(low.natural == high.natural, f"natural accuracy depends on no eps; {low.natural} and {high.natural}")
            law(
                low.certified.k >= high.certified.k,
                f"certified must fall as eps grows; {low.certified.k} at {low.eps}, {high.certified.k} at {high.eps}",
            )
        outcomes = {gate.passed for gate in self.gates}
        expected = "fail" if False in outcomes else "incomplete" if None in outcomes else "pass"
        agrees = self.verdict == expected or (self.verdict == "incomplete" and expected == "pass")
        law(agrees, f"verdict {self.verdict!r} with gates {sorted(map(str, outcomes))}")
        if self.shard is not None:
            law(not self.gates and self.verdict == "incomplete", f"shard {self.shard} decides, and no shard does")
            own = sum(map(len, self.shard.blocks))
            law(self.data.n_evaluated == own, f"{self.data.n_evaluated} samples in a shard of {own}")
        return self


class Run(Frozen):
    """The volatile part of a report: time, machine and command."""

    started: str
    seconds: float
    argv: tuple[Name, ...] = ()
    host: dict[str, JsonValue] = Field(default_factory=dict)
    timings: dict[str, float] = Field(default_factory=dict)
    stopped_by: str | None = None
    parity_seed: int | None = None
    """The seed of the points at which import, runtime and certificates were compared, random unless it was given."""


class SealedReport(Frozen, Generic[R]):
    """A result of any kind, the digest of its canonical form, and its run."""

    schema_version: Version = "2"
    kind: str
    result: R
    result_sha256: Sha256
    run: Run

    @classmethod
    def of(cls, kind: str, result: R, run: Run) -> Self:
        """The report of a result, with the digest computed."""
        return cls(kind=kind, result=result, result_sha256=digest(result.model_dump(mode="json")), run=run)


class Report(SealedReport[Result]):
    """The report of a certification, or of a retraining."""

    kind: Kind


def schema() -> dict[str, Any]:
    """The JSON Schema of a report."""
    return Report.model_json_schema()
