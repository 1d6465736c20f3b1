"""The result at one eps: accuracies, counts, margins, layers and rungs, and the laws that they obey."""

from __future__ import annotations

from fractions import Fraction

from pydantic import model_validator

from pipeline.results.facts import Exact, Name, Unfinished
from pipeline.results.rate import Frozen, Rate, law


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

    @model_validator(mode="after")
    def _laws(self) -> Histogram:
        law(
            len(self.edges) == len(self.counts) + 1,
            f"a histogram of {len(self.counts)} bins has {len(self.edges)} edges",
        )
        law(all(0 <= count < 2**53 for count in self.counts), "a bin of a histogram counts no number of samples")
        return self


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
    """The states of one nonlinearity's units over some samples, as fractions, and the mean radius of its input by IBP.

    `looseness` is that radius divided by half the range of the values at a few vertices of the input boxes.
    """

    name: Name
    kind: str
    unstable: float
    active: float
    inactive: float
    mean_radius: float | None = None
    looseness: float | None = None


class Edge(Frozen):
    """A sample whose margin is near zero: its index in the data's part, its class, and the lower bound of its smallest margin."""

    index: int
    label: int
    verdict: str
    margin: float


class Rung(Frozen):
    """One rung of the ladder at one eps: how many samples it examined and decided, and how many are certified after it.

    A sample that is decided by its verdict at another eps is not examined, so `decided` may exceed `examined`.
    """

    name: str
    examined: int
    decided: int
    certified: int


class RoundingCost(Frozen):
    """The cost of rounding to the bounds of IBP: the largest loss of a margin, and certificates with rounding and without."""

    largest: float
    certified: int
    certified_in_real: int


class Level(Frozen):
    """One eps, an exact fraction in units of the pixel range, and the accuracies at it.

    `attacked` counts the correct samples without a counterexample, None without an attack; `undecided` counts the unknown samples
    that a budget left unexamined: `certified` is then a lower bound. `edge` holds the correct samples whose margin bounds are
    nearest to zero, `unfinished` the unknown samples that branch and bound did not decide, by index.
    """

    eps: Exact
    eps_float: float
    natural: Rate
    attacked: Rate | None
    certified: Rate
    verdicts: Verdicts
    undecided: int = 0
    margin: Margin | None = None
    edge: tuple[Edge, ...] = ()
    layers: tuple[Layer, ...] = ()
    rungs: tuple[Rung, ...] = ()
    rounding: RoundingCost | None = None
    unfinished: tuple[Unfinished, ...] = ()

    @property
    def exact(self) -> Fraction:
        """eps as a fraction."""
        return Fraction(self.eps)

    @model_validator(mode="after")
    def _laws(self) -> Level:
        v, n = self.verdicts, self.natural.n
        where = f"At eps = {self.eps}"
        law(self.eps_float == float(self.exact), f"{where}: eps_float is {self.eps_float}")
        law(v.certified + v.falsified + v.misclassified + v.unknown == n, f"{where}: verdicts {v} of {n} samples")
        law(
            self.natural.k == n - v.misclassified, f"{where}: {self.natural.k} correct, {v.misclassified} misclassified"
        )
        law((self.certified.k, self.certified.n) == (v.certified, n), f"{where}: certified {self.certified} for {v}")
        index = [one.index for one in self.unfinished]
        law(index == sorted(set(index)) and len(index) <= v.unknown, f"{where}: {len(index)} unfinished for {v}")
        law(0 <= self.undecided <= v.unknown, f"{where}: {self.undecided} undecided of {v.unknown} unknown")
        if self.attacked is not None:
            survived = self.natural.k - v.falsified
            law((self.attacked.k, self.attacked.n) == (survived, n), f"{where}: attacked {self.attacked} for {v}")
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
        law(self.label >= 0, f"classes are numbered from 0; a row is of class {self.label}")
        law(0 <= self.certified <= middle <= self.natural <= self.n, f"class {self.label} at eps = {self.eps}: {self}")
        return self
