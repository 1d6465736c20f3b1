"""Gates: conditions such as `certified@8/255=0.30`, decided exactly on counts, never on rounded numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from pipeline.errors import UsageError
from pipeline.gates.exact import lower_end_reaches
from pipeline.gates.pairing import Metric
from pipeline.numbers import BLANK
from pipeline.results.outcome import GateOutcome, Kind
from pipeline.results.per_radius import ClassRow, Level
from pipeline.results.rate import Rate, decimal

On = Literal["value", "lower-ci"]
Verdict = Literal["pass", "fail", "incomplete"]
EXIT_CODES: dict[Verdict, int] = {"pass": 0, "fail": 1, "incomplete": 4}

NUMBER = r"[0-9]{1,12}(?:\.[0-9]{1,12})?|\.[0-9]{1,12}|[0-9]{1,12}/[0-9]{1,12}"
GRAMMAR = re.compile(
    r"(?:class:(?P<label>[0-9]{1,9}):)?(?P<metric>natural|attacked|certified)"
    rf"(?:@(?P<eps>{NUMBER}))?=(?P<threshold>{NUMBER})"
)
METRICS = "(metrics: natural, attacked, certified)"
FORMS = {
    "fail-under": f"[class:LABEL:]METRIC[@EPS]=THRESHOLD, such as certified@8/255=0.30 {METRICS}",
    "max-regression": f"METRIC[@EPS]=DROP, such as certified@8/255=0.01 {METRICS}",
}


@dataclass(frozen=True)
class Gate:
    """`metric` at `eps` (None: the only one of the run), of one class or of all, must be at least `threshold`.

    On `lower-ci`, the lower end of its exact 95 % interval must. A gate of kind `max-regression` allows a drop of `threshold`
    below a baseline instead.
    """

    id: str
    metric: Metric
    threshold: Fraction
    written: str
    eps: Fraction | None = None
    label: int | None = None
    kind: Kind = "fail-under"
    on: On = "value"


def parse_gate(text: str, *, kind: Kind = "fail-under", on: On = "value") -> Gate:
    """A gate from `[class:LABEL:]METRIC[@EPS]=THRESHOLD`. Raises UsageError for anything else."""
    match = GRAMMAR.fullmatch(text.strip(BLANK))
    if match is None or (match["label"] and kind != "fail-under"):
        raise UsageError(f"A gate of --{kind} has the form {FORMS[kind]}; received {text[:100]!r}.")
    try:
        threshold = Fraction(match["threshold"])
        eps = Fraction(match["eps"]) if match["eps"] else None
    except ZeroDivisionError as error:
        raise UsageError(f"A gate's numbers must be finite; received {text[:100]!r}.") from error
    if threshold > 1:
        likely = f"; did you mean {float(threshold) / 100:g}?" if threshold <= 100 else "."
        raise UsageError(f"A gate's threshold lies between 0 and 1; received {match['threshold']}{likely}")
    label = int(match["label"]) if match["label"] else None
    metric: Metric = match["metric"]  # type: ignore[assignment]
    return Gate(text.strip(BLANK), metric, threshold, match["threshold"], eps, label, kind, on)


def check_gates(gates: Sequence[Gate], *, eps: Sequence[str], labels: Sequence[int], attacked: bool) -> None:
    """Check, before any work, that a run at `eps` over classes `labels` can decide every gate. Raises UsageError naming it."""
    for gate in gates:
        _which_eps(gate, eps)
        if gate.metric == "attacked" and not attacked:
            raise UsageError(f"Gate {gate.id!r} needs an attack, and none is run. Drop --no-attack or the gate.")
        if gate.label is not None and gate.label not in labels:
            raise UsageError(f"Gate {gate.id!r}: no sample of class {gate.label} is evaluated. Known: {_few(labels)}.")


def evaluate(gates: Sequence[Gate], levels: Sequence[Level], per_class: Sequence[ClassRow]) -> tuple[GateOutcome, ...]:
    """The outcome of each gate.

    Undecided samples count as not certified; a gate already met, or out of reach whatever they turn out to be, is
    decided, any other has `passed` None. Raises UsageError as `check_gates` does.
    """
    first = levels[0]
    labels = sorted({row.label for row in per_class})
    eps = [level.eps for level in levels]
    check_gates(gates, eps=eps, labels=labels, attacked=first.attacked is not None)
    return tuple(_decide(gate, levels[_which_eps(gate, eps)], per_class) for gate in gates)


def verdict(outcomes: Sequence[GateOutcome]) -> Verdict:
    """`fail` if any gate failed, else `incomplete` if any is undecided, else `pass` (also where none was asked)."""
    states = {outcome.passed for outcome in outcomes}
    return "fail" if False in states else "incomplete" if None in states else "pass"


def _which_eps(gate: Gate, eps: Sequence[str]) -> int:
    if gate.eps is None and (len(eps) == 1 or gate.metric == "natural"):
        return 0
    if gate.eps is None:
        raise UsageError(f"Gate {gate.id!r} must name its eps, several being run: {', '.join(eps)}. Write METRIC@EPS=.")
    for row, text in enumerate(eps):
        if Fraction(text) == gate.eps:
            return row
    raise UsageError(f"Gate {gate.id!r} names an eps that is not run; run are {', '.join(eps)}. Add it to --eps.")


def _decide(gate: Gate, level: Level, per_class: Sequence[ClassRow]) -> GateOutcome:
    if gate.label is None:
        rate = getattr(level, gate.metric)
        k, n, undecided = rate.k, rate.n, level.undecided
    else:
        row = next(row for row in per_class if row.label == gate.label and row.eps == level.eps)
        k, n, undecided = getattr(row, gate.metric), row.n, row.undecided
    # Each undecided sample may still be certified, or be broken by the attack.
    worst = k - undecided if gate.metric == "attacked" else k
    best = k + undecided if gate.metric == "certified" else k

    def reaches(k: int) -> bool:
        return lower_end_reaches(k, n, gate.threshold) if gate.on == "lower-ci" else Fraction(k, n) >= gate.threshold

    return GateOutcome(
        id=gate.id,
        metric=gate.metric,
        label=gate.label,
        eps=None if gate.metric == "natural" else level.eps,
        on=gate.on,
        threshold=gate.written,
        observed=Rate.of(k, n).ci95[0] if gate.on == "lower-ci" else decimal(Fraction(k, n)),
        k=k,
        n=n,
        passed=True if reaches(worst) else False if not reaches(best) else None,
    )


def _few(labels: Sequence[int]) -> str:
    return ", ".join(map(str, labels[:10])) + (", ..." if len(labels) > 10 else "")
