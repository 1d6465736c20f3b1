"""Everything that a run is held to, read from its settings: floors, drops below a baseline, how well import and runtime agree."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.gates.exact import shown
from pipeline.gates.gate import Gate, check_gates, evaluate, parse_gate
from pipeline.gates.regression import Reference, held_against, read_reference
from pipeline.numbers import BLANK
from pipeline.results.facts import Parity
from pipeline.results.outcome import GateOutcome
from pipeline.results.per_radius import ClassRow, Level
from pipeline.results.samples import Samples
from pipeline.settings import FITTING, METADATA, Settings

NUMBER = re.compile(r"(?a:\d{1,12}(?:\.\d{0,20})?|\.\d{1,20})(?:[eE]-?\d{1,2})?|\d{1,12}/0*[1-9]\d{0,11}", re.ASCII)
LOOSEST = Fraction(1, 10**4)
"""What the import demands of every model; a gate asks for more."""


@dataclass(frozen=True, eq=False)
class Demands:
    """Gates of every kind; none by default."""

    floors: tuple[Gate, ...] = ()
    drops: tuple[Gate, ...] = ()
    reference: Reference | None = None
    significance: Fraction | None = None
    parity: str | None = None

    def check(
        self,
        *,
        eps: Sequence[Fraction],
        attacked: bool,
        arithmetic: str,
        labels: Sequence[int] | None = None,
    ) -> None:
        """Before any work: every gate can be decided by what will be run; gates of classes once `labels` are known.

        Raises UsageError naming the gate, InputRejected for a baseline that lacks what it is compared in.
        """
        written = [str(e) for e in eps]
        gates = [g for g in (*self.floors, *self.drops) if labels is not None or g.label is None]
        check_gates(gates, eps=written, labels=labels or (), attacked=attacked)
        for gate in gates:
            if gate.metric == "certified" and arithmetic == "none":
                raise UsageError(f"Gate {gate.id!r} cannot be met or missed: arithmetic `none` certifies nothing.")
        if self.reference is not None:
            self.reference.check(self.drops, eps)

    def outcomes(
        self, levels: Sequence[Level], per_class: Sequence[ClassRow], samples: Samples, parity: Parity
    ) -> tuple[GateOutcome, ...]:
        """What became of every gate, in the order: floors, drops, parity."""
        found = list(evaluate(self.floors, levels, per_class))
        if self.reference is not None:
            found += [held_against(gate, self.reference, samples, self.significance) for gate in self.drops]
        if self.parity is not None:
            found.append(parity_gate(self.parity, parity))
        return tuple(found)


def parity_gate(written: str, parity: Parity) -> GateOutcome:
    """Whether outputs differ by at most a share of the largest output, and no point gets another label."""
    largest, scale = Fraction(parity.max_abs_difference), Fraction(parity.scale)
    return GateOutcome(
        id=f"parity={written}",
        kind="require-parity",
        metric="parity",
        comparator="<=",
        threshold=written,
        observed=shown(largest / scale) if scale else shown(largest),
        k=parity.n - parity.argmax_disagreements,
        n=parity.n,
        passed=parity.n > 0 and parity.argmax_disagreements == 0 and largest <= share(written, "parity") * scale,
    )


def share(text: str, name: str, *, below: Fraction = Fraction(1)) -> Fraction:
    """An exact number in [0, below], from a decimal or a fraction. Raises UsageError."""
    value = Fraction(text.strip(BLANK)) if NUMBER.fullmatch(text.strip(BLANK)) else Fraction(-1)
    if not 0 <= value <= below:
        raise UsageError(f"--{name} is a number between 0 and {float(below):g}; received {text[:40]!r}.")
    return value


GATES = {"fail_under", "gate_on", "baseline", "max_regression", "significance", "require_parity"}
"""The settings that are about gates: no verdict depends on them."""


def demands(settings: Settings, folder: Path) -> Demands:
    """What a run that writes its report to ``folder`` is held to, checked as far as that can be before any work.

    Raises UsageError (2) for gates that mean nothing or contradict each other, InputRejected (3) for a baseline that is no report
    or lacks what it is compared in, Contradiction (5) for one that was tampered with.
    """
    _refuse_halves(settings)
    reference = None
    if settings.baseline is not None:
        path = Path(settings.baseline)
        if (path if path.is_dir() else path.parent).resolve() == folder.resolve():
            raise UsageError(
                f"--baseline {settings.baseline} lies where this run's report goes, so that every run would be held against the "
                "one before; copy it to another folder, or name another --report."
            )
        reference = read_reference(path)
    level = settings.significance
    if settings.require_parity is not None:
        share(settings.require_parity, "require-parity", below=LOOSEST)
    found = Demands(
        tuple(parse_gate(text, on=settings.gate_on or "value") for text in settings.fail_under),
        tuple(parse_gate(text, kind="max-regression") for text in settings.max_regression),
        reference,
        None if level is None else share(level, "significance"),
        settings.require_parity,
    )
    found.check(eps=settings.radii, attacked=settings.attack, arithmetic=settings.arithmetic)
    return found


def left_to_the_model(gates: Demands, source: Mapping[str, str]) -> list[str]:
    """A sentence where gates are judged by what the model's own metadata states and nobody else does, or none."""
    judged = [*gates.floors, *gates.drops]
    rest_on = {*FITTING} | (set() if "test_data" in source else {"data"}) if judged else set()
    if any(gate.eps is None and gate.metric != "natural" for gate in judged):
        rest_on.add("eps")
    names = sorted(name for name in rest_on if source.get(name) == METADATA)
    flags = ", ".join(f"--{name}" for name in names)
    return [f"gates are judged by what the model's own metadata says of {flags}: state it yourself"] if names else []


def _refuse_halves(settings: Settings) -> None:
    """One setting that means nothing without another must not pass for a gate."""
    halves = (
        ("gate_on", bool(settings.fail_under), "--fail-under"),
        ("baseline", bool(settings.max_regression), "--max-regression, such as certified=0.01"),
        ("max_regression", settings.baseline is not None, "--baseline REPORT"),
        ("significance", bool(settings.max_regression), "--max-regression"),
    )
    for name, whole, missing in halves:
        if getattr(settings, name) not in (None, ()) and not whole:
            raise UsageError(f"--{name.replace('_', '-')} means nothing without {missing}; give both, or neither.")
    if settings.baseline is not None and not settings.baseline.strip():
        raise UsageError("--baseline names a report.json or its folder; received nothing.")
