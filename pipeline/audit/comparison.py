"""What changed between two reports on the same samples: which samples, in which classes, and whether chance explains it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.errors import InputRejected
from pipeline.gates.exact import three_digits
from pipeline.gates.pairing import METRICS, Flips, Metric, counted_by, row_of
from pipeline.gates.regression import Reference, read_reference
from pipeline.results.facts import Name, Sha256
from pipeline.results.rate import Frozen, Rate

LISTED = 100
"""Samples of one kind that are named; all are counted."""
SHARED = ("data", "samples", "labels", "threat")


class ClassChange(Frozen):
    """Samples of one class that lost and gained a metric."""

    label: int
    lost: int
    gained: int


class Change(Frozen):
    """One metric at one eps (None for `natural`, which depends on none), before and after.

    `lost` and `gained` count samples; the first of them are named as the data count them. `p_value` is that of McNemar's exact
    two-sided test, rounded up.
    """

    metric: Metric
    eps: str | None
    before: Rate
    after: Rate
    lost: int
    gained: int
    p_value: str
    lost_samples: tuple[int, ...]
    gained_samples: tuple[int, ...]
    classes: tuple[ClassChange, ...]


class Side(Frozen):
    """One of the two reports."""

    file: Name
    model_sha256: Sha256
    result_sha256: Sha256


class Comparison(Frozen):
    """Two reports on the same data, samples and threat; `differing` names other facts that are not the same."""

    schema_version: Literal["1"] = "1"
    kind: Literal["comparison"] = "comparison"
    before: Side
    after: Side
    n: int
    differing: dict[str, str]
    changes: tuple[Change, ...]


def compare(before: Path, after: Path) -> Comparison:
    """The changes from one report to another, at every eps that both have.

    Raises UsageError for no report, InputRejected for other data, samples, threat or eps, Contradiction for a report that was
    tampered with.
    """
    one, two = read_reference(before), read_reference(after)
    differing = one.setup.differences(two.setup)
    if bad := [f"{name} ({differing[name]})" for name in SHARED if name in differing]:
        raise InputRejected(
            f"Reports are compared sample by sample, on the same data, samples and threat; these differ in {'; '.join(bad)}. "
            "Certify both models on the same samples."
        )
    for row, side in enumerate((one, two)):
        if side.report.result.partial:
            differing[f"{('first', 'second')[row]} report"] = "partial: its certified accuracy is a lower bound"
    rows = [
        (i, j) for i, eps in enumerate(one.samples.eps) if (j := row_of(Fraction(eps), two.samples.eps)) is not None
    ]
    if not rows:
        raise InputRejected(
            f"Reports are compared at an eps that both have; one has {', '.join(one.samples.eps)}, the other "
            f"{', '.join(two.samples.eps)}. Certify both at one eps."
        )
    changes = [_change(one, two, "natural", *rows[0])]
    changes += [_change(one, two, metric, i, j) for i, j in rows for metric in METRICS[1:]]
    return Comparison(
        before=_side(one),
        after=_side(two),
        n=len(one.samples),
        differing=differing,
        changes=tuple(change for change in changes if change is not None),
    )


def _change(one: Reference, two: Reference, metric: Metric, i: int, j: int) -> Change | None:
    had, has = counted_by(one.samples, metric, i), counted_by(two.samples, metric, j)
    if had is None or has is None:
        return None
    flips, label, index = Flips.between(had, has), one.samples.label, one.samples.index
    changed = np.unique(label[flips.lost | flips.gained])
    return Change(
        metric=metric,
        eps=None if metric == "natural" else one.samples.eps[i],
        before=Rate.of(int(had.sum()), len(had)),
        after=Rate.of(int(has.sum()), len(has)),
        lost=int(flips.lost.sum()),
        gained=int(flips.gained.sum()),
        p_value=three_digits(flips.p_value),
        lost_samples=tuple(map(int, index[flips.lost][:LISTED])),
        gained_samples=tuple(map(int, index[flips.gained][:LISTED])),
        classes=tuple(
            ClassChange(
                label=int(c), lost=int(flips.lost[label == c].sum()), gained=int(flips.gained[label == c].sum())
            )
            for c in changed
        ),
    )


def _side(one: Reference) -> Side:
    report = one.report
    return Side(
        file=report.result.model.file, model_sha256=report.result.model.sha256, result_sha256=report.result_sha256
    )
