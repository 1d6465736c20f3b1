"""All gates of a run, read from its settings: floors, drops below a baseline, parity of import and ONNX Runtime."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.gates.exact import three_digits
from pipeline.gates.gate import Gate, check_gates, evaluate, parse_gate
from pipeline.gates.regression import Reference, read_reference, regression_outcome
from pipeline.numbers import BLANK
from pipeline.results.facts import Parity
from pipeline.results.outcome import GateOutcome
from pipeline.results.per_radius import ClassRow, Level
from pipeline.results.samples import Samples
from pipeline.settings import FITTING, METADATA, Settings

NUMBER = re.compile(r"(?a:\d{1,12}(?:\.\d{0,20})?|\.\d{1,20})(?:[eE]-?\d{1,2})?|\d{1,12}/0*[1-9]\d{0,11}", re.ASCII)
LOOSEST = Fraction(1, 10**4)
"""The largest share that ``--require-parity`` accepts; the import itself demands at least this of every model."""


@dataclass(frozen=True, eq=False)
class Demands:
    """Gates of every kind; none by default."""

    floors: tuple[Gate, ...] = ()
    drops: tuple[Gate, ...] = ()
    reference: Reference | None = None
    significance: Fraction | None = None
    parity: str | None = None
    improvement: bool = False
    """Of a retrained file on the given one; see ``gates/improvement.py``."""

    def check(
        self,
        *,
        eps: Sequence[Fraction],
        attacked: bool,
        arithmetic: str,
        labels: Sequence[int] | None = None,
    ) -> None:
        """Check, before any work, that what will be run can decide every gate; gates of a class once ``labels`` are given.

        Raises UsageError naming the gate, InputRejected for a baseline without the figures that a gate compares.
        """
        eps_texts = [str(e) for e in eps]
        gates = [g for g in (*self.floors, *self.drops) if labels is not None or g.label is None]
        check_gates(gates, eps=eps_texts, labels=labels or (), attacked=attacked)
        for gate in gates:
            if gate.metric == "certified" and arithmetic == "none":
                raise UsageError(f"Gate {gate.id!r} cannot be met or missed: arithmetic `none` certifies nothing.")
        if self.reference is not None:
            self.reference.check(self.drops, eps)

    def outcomes(
        self, levels: Sequence[Level], per_class: Sequence[ClassRow], samples: Samples, parity: Parity
    ) -> tuple[GateOutcome, ...]:
        """The outcome of every gate, in the order: floors, drops, parity."""
        outcomes = list(evaluate(self.floors, levels, per_class))
        if self.reference is not None:
            outcomes += [regression_outcome(gate, self.reference, samples, self.significance) for gate in self.drops]
        if self.parity is not None:
            outcomes.append(parity_gate(self.parity, parity))
        return tuple(outcomes)


def parity_gate(threshold: str, parity: Parity) -> GateOutcome:
    """Passed where outputs differ by at most ``threshold`` times the largest output, and no point gets another label."""
    largest, scale = Fraction(parity.max_abs_difference), Fraction(parity.scale)
    return GateOutcome(
        id=f"parity={threshold}",
        kind="require-parity",
        metric="parity",
        comparator="<=",
        threshold=threshold,
        observed=three_digits(largest / scale) if scale else three_digits(largest),
        k=parity.n - parity.argmax_disagreements,
        n=parity.n,
        passed=parity.n > 0 and parity.argmax_disagreements == 0 and largest <= share(threshold, "parity") * scale,
    )


def share(text: str, name: str, *, below: Fraction = Fraction(1)) -> Fraction:
    """An exact number in [0, below], from a decimal or a fraction. Raises UsageError."""
    value = Fraction(text.strip(BLANK)) if NUMBER.fullmatch(text.strip(BLANK)) else Fraction(-1)
    if not 0 <= value <= below:
        raise UsageError(f"--{name} is a number between 0 and {float(below):g}; received {text[:40]!r}.")
    return value


GATES = {"fail_under", "gate_on", "baseline", "max_regression", "significance", "require_parity", "require_improvement"}
"""The settings that are about gates: no verdict depends on them."""


def demands(settings: Settings, folder: Path) -> Demands:
    """The gates of a run that writes its report to ``folder``, checked as far as possible before any work.

    Raises UsageError (2) for gates that mean nothing or contradict each other, InputRejected (3) for a baseline that is no report
    or lacks the figures that a gate compares, Contradiction (5) for one that was tampered with.
    """
    _refuse_lone_settings(settings)
    reference = None
    if settings.baseline is not None:
        path = Path(settings.baseline)
        if (path if path.is_dir() else path.parent).resolve() == folder.resolve():
            raise UsageError(
                f"--baseline {settings.baseline} lies where this run's report goes, so that every run would be held against the "
                "one before; copy it to another folder, or name another --report."
            )
        reference = read_reference(path)
    significance = settings.significance
    if settings.require_parity is not None:
        share(settings.require_parity, "require-parity", below=LOOSEST)
    gates = Demands(
        tuple(parse_gate(text, on=settings.gate_on or "value") for text in settings.fail_under),
        tuple(parse_gate(text, kind="max-regression") for text in settings.max_regression),
        reference,
        None if significance is None else share(significance, "significance"),
        settings.require_parity,
        settings.require_improvement,
    )
    gates.check(eps=settings.radii, attacked=settings.attack, arithmetic=settings.arithmetic)
    return gates


def note_on_metadata(gates: Demands, source: Mapping[str, str]) -> list[str]:
    """One sentence where the outcome of gates depends on settings that only the model's own metadata states; else none."""
    checked_gates = [*gates.floors, *gates.drops]
    decisive = {*FITTING} | (set() if "test_data" in source else {"data"}) if checked_gates else set()
    if any(gate.eps is None and gate.metric != "natural" for gate in checked_gates):
        decisive.add("eps")
    names = sorted(name for name in decisive if source.get(name) == METADATA)
    flags = ", ".join(f"--{name}" for name in names)
    return [f"gates are judged by what the model's own metadata says of {flags}: state it yourself"] if names else []


def _refuse_lone_settings(settings: Settings) -> None:
    """Raise UsageError for a setting that has no effect without another one: it must not look like a gate."""
    halves = (
        ("gate_on", bool(settings.fail_under), "--fail-under"),
        ("baseline", bool(settings.max_regression), "--max-regression, such as certified=0.01"),
        ("max_regression", settings.baseline is not None, "--baseline REPORT"),
        ("significance", bool(settings.max_regression), "--max-regression"),
    )
    for name, complete, missing in halves:
        if getattr(settings, name) not in (None, ()) and not complete:
            raise UsageError(f"--{name.replace('_', '-')} means nothing without {missing}; give both, or neither.")
    if settings.baseline is not None and not settings.baseline.strip():
        raise UsageError("--baseline names a report.json or its folder; received nothing.")
