"""From the settings of a run to the gates that it is held to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.gates import Demands, parse_gate, read_reference, share
from pipeline.gates.demands import LOOSEST
from pipeline.settings import FITTING, METADATA, Settings

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
