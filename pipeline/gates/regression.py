"""Gates on regression: how far a metric may fall below a baseline, judged sample by sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from pipeline.errors import InputRejected
from pipeline.gates.exact import significant, three_digits
from pipeline.gates.gate import Gate
from pipeline.gates.pairing import Flips, Metric, Setup, counted_by, row_of
from pipeline.results.outcome import Baseline, GateOutcome
from pipeline.results.rate import PLACES
from pipeline.results.result import Report
from pipeline.results.samples import Samples, read_samples
from pipeline.results.write import read

MUST_AGREE = ("data", "samples", "labels", "threat", "preprocessing", "arithmetic")


@dataclass(frozen=True, eq=False)
class Reference:
    """The baseline: an earlier report with its samples, with which a run is compared."""

    report: Report
    samples: Samples

    @property
    def setup(self) -> Setup:
        """Data, threat model and method of the baseline."""
        return setup_of(self.report, self.samples)

    def check(self, gates: Sequence[Gate], eps: Sequence[Fraction]) -> None:
        """Check, before any work, that the baseline has what the gates compare. Raises InputRejected (3) for what it lacks."""
        for gate in gates:
            gate_eps = gate.eps if gate.eps is not None else eps[0]
            row = 0 if gate.metric == "natural" else row_of(gate_eps, self.samples.eps)
            if row is None:
                raise InputRejected(
                    f"Gate {gate.id!r} compares at eps {gate_eps}; the baseline was run at {', '.join(self.samples.eps)}. "
                    "Certify the baseline at that eps."
                )
            if counted_by(self.samples, gate.metric, row) is None:
                raise InputRejected(f"Gate {gate.id!r} compares attacks; the baseline was not attacked. Attack it too.")
            if gate.metric != "natural" and self.report.result.levels[row].undecided:
                raise InputRejected(
                    f"Gate {gate.id!r} needs a baseline that is whole; a budget left samples of this one undecided. "
                    "Certify it with more --time-budget."
                )

    def require_same(self, setup: Setup) -> tuple[str, ...]:
        """Raise InputRejected (3), naming the differences, where a run cannot be compared with the baseline sample by sample.

        Returns a sentence for each difference that allows a comparison but may affect its figures.
        """
        differences = self.setup.differences(setup)
        if incompatible := [f"{name} ({differences[name]})" for name in MUST_AGREE if name in differences]:
            raise InputRejected(
                f"A baseline holds for the same data, samples, eps, preprocessing and arithmetic; this one differs in "
                f"{'; '.join(incompatible)} (baseline against this run). Certify the baseline's model as this run does."
            )
        return tuple(
            f"the baseline was made with another {name}: {differences[name]} (baseline against this run)"
            for name in ("proof", "attack")
            if name in differences
        )


def read_reference(path: Path) -> Reference:
    """The report and samples at `path`. Raises what `read` and `read_samples` do, InputRejected for one without samples."""
    report = read(path)
    if report.result.samples is None:
        raise InputRejected(f"A baseline has samples, and {str(path)!r} has none. Certify it again.")
    folder = path if path.is_dir() else path.parent
    return Reference(report, read_samples(folder / report.result.samples.file, report.result.samples))


def setup_of(report: Report, samples: Samples) -> Setup:
    """Data, threat model and method of a report."""
    r = report.result
    return Setup(r.data, r.threat, r.preprocessing, r.method, samples.index, samples.label)


def regression_outcome(
    gate: Gate, reference: Reference, samples: Samples, significance: Fraction | None = None
) -> GateOutcome:
    """The outcome of a gate on regression, against a reference that ``Reference.check`` let through."""
    row = 0 if gate.eps is None else row_of(gate.eps, samples.eps)
    assert row is not None
    baseline_row = 0 if gate.metric == "natural" else row_of(Fraction(samples.eps[row]), reference.samples.eps)
    assert baseline_row is not None
    had, has = counted_by(reference.samples, gate.metric, baseline_row), counted_by(samples, gate.metric, row)
    assert had is not None
    assert has is not None
    flips = Flips.between(had, has)
    undecided = np.zeros(len(has), bool)
    if samples.undecided is not None and gate.metric != "natural":
        undecided = samples.undecided[row]
    baseline = Baseline(
        result_sha256=reference.report.result_sha256,
        model_sha256=reference.report.result.model.sha256,
        k=int(had.sum()),
        lost=int(flips.lost.sum()),
        gained=int(flips.gained.sum()),
        undecided_had=int((undecided & had).sum()),
        undecided_lacked=int((undecided & ~had).sum()),
        p_value=three_digits(flips.p_value),
        significance=None if significance is None else str(significance),
    )
    eps = None if gate.metric == "natural" else samples.eps[row]
    return outcome(gate, eps, baseline, len(has))


def outcome(gate: Gate, eps: str | None, baseline: Baseline, n: int) -> GateOutcome:
    """The outcome that follows from the counts in `baseline`, over `n` samples.

    The gate fails where `(lost - gained) / n` exceeds the allowed drop and, given a significance, `p` does not exceed that.
    Both are monotone in the undecided samples, so their best and worst case are checked: where those differ, `passed` is None.
    """
    lost, gained = baseline.lost, baseline.gained
    had, lacked = baseline.undecided_had, baseline.undecided_lacked
    # The undecided count as not certified, but as surviving.
    worst = (lost + had, gained - lacked) if gate.metric == "attacked" else (lost, gained)
    best = (lost - had, gained + lacked) if gate.metric == "certified" else (lost, gained)
    level = None if baseline.significance is None else Fraction(baseline.significance)

    def fails(lost: int, gained: int) -> bool:
        return Fraction(lost - gained, n) > gate.threshold and (level is None or significant(lost, gained, level))

    return GateOutcome(
        id=gate.id,
        kind="max-regression",
        metric=gate.metric,
        eps=eps,
        comparator="<=",
        threshold=gate.written,
        observed=_signed(Fraction(lost - gained, n)),
        k=baseline.k - lost + gained,
        n=n,
        baseline=baseline,
        passed=True if not fails(*worst) else False if fails(*best) else None,
    )


def _signed(drop: Fraction) -> str:
    """A drop with four places, rounded up."""
    digits = -((-drop * 10**PLACES) // 1)
    return f"{'-' if digits < 0 else ''}{abs(digits) // 10**PLACES}.{abs(digits) % 10**PLACES:0{PLACES}d}"


__all__ = ["Metric", "Reference", "outcome", "read_reference", "regression_outcome", "setup_of"]
