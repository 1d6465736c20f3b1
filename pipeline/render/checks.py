"""What a report passes or fails, one line each, for those who count tests: every gate, and that nothing contradicts itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.render.advice import nothing_checked
from pipeline.results.outcome import GateOutcome
from pipeline.results.result import Report
from pipeline.results.text import clean

State = Literal["passed", "failed", "undecided", "skipped"]
STATES: dict[bool | None, State] = {True: "passed", False: "failed", None: "undecided"}


@dataclass(frozen=True)
class Check:
    """One condition, what became of it, and the figures behind it."""

    name: str
    state: State
    detail: str


def checks(report: Report) -> tuple[Check, ...]:
    """The gates in the order they were asked in, whether anything was checked where nothing was, then the contradictions."""
    idle = Check("anything checked", "undecided", "nothing was proved or attacked")
    share = Check("gates", "undecided", f"a shard decides none: merge {report.result.shard} with the others")
    return (
        *map(_gate, report.result.gates),
        *([idle] if nothing_checked(report) else []),
        *([share] if report.result.shard is not None else []),
        _contradictions(report),
    )


def _gate(gate: GateOutcome) -> Check:
    detail = f"{' '.join(gate.summary.split())} ({gate.k} of {gate.n})"
    return Check(clean(gate.id, 120), STATES[gate.passed], detail)


def _contradictions(report: Report) -> Check:
    """Certified and attacked cannot both be in a result, whose laws forbid it; what is left to look at is parity."""
    result, name = report.result, "no contradiction"
    parity, attacked = result.parity, result.levels[0].attacked is not None
    if parity is not None and parity.argmax_disagreements:
        return Check(name, "failed", f"file and network differ in {parity.argmax_disagreements} of {parity.n} classes")
    if parity is None and not attacked:
        return Check(name, "skipped", "neither parity nor an attack was run")
    facts = ["no certified sample was broken by the attack"] if attacked else []
    facts += [f"file and network agree on {parity.n} points"] if parity else []
    return Check(name, "passed", "; ".join(facts))
