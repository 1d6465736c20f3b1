"""Everything that a run is held to: floors, drops below a baseline, and how well import and runtime must agree."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from pipeline.errors import UsageError
from pipeline.gates.exact import shown
from pipeline.gates.gate import Gate, check_gates, evaluate
from pipeline.gates.regression import Reference, held_against
from pipeline.numbers import BLANK
from pipeline.results.facts import Parity
from pipeline.results.outcome import GateOutcome
from pipeline.results.per_radius import ClassRow, Level
from pipeline.results.samples import Samples

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
