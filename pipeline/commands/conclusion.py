"""From the fields of a result to the result: gates are decided, or, in a shard, passed on to ``merge``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline import results as reports
from pipeline.errors import UsageError
from pipeline.gates import Demands
from pipeline.gates import verdict as decide_gates
from pipeline.gates.improvement import improvement
from pipeline.methods import ATTACKS
from pipeline.results.blocks import blocks
from pipeline.settings import Settings


def conclude(
    fields: Mapping[str, Any], samples: reports.Samples, gates: Demands, training: reports.Training | None = None
) -> reports.Result:
    """The result with its gates decided.

    It is incomplete where nothing was checked that the gates, or the run, are about: a gate of at least 0 % would otherwise pass
    on samples that were not examined, so only gates on natural accuracy and parity pass without a proof or an attack. A shard
    decides no gate.
    """
    partial = any(level.undecided for level in fields["levels"])
    if fields.get("shard") is not None:
        return reports.Result(**fields, verdict="incomplete", partial=partial)
    outcomes = gates.outcomes(fields["levels"], fields["per_class"], samples, fields["parity"])
    if gates.improvement and training is not None and training.before is not None and training.after is not None:
        outcomes += improvement(training.before, training.after)
    warning = reports.near_chance(fields["levels"][0], fields["model"].output.classes, fields["per_class"])
    fields = {**fields, "warnings": (*([warning] if warning else []), *fields["warnings"])}
    verdict = decide_gates(outcomes)
    about_robustness = not outcomes or any(gate.metric in ("attacked", "certified") for gate in outcomes)
    if verdict == "pass" and about_robustness and not _anything_checked(fields):
        verdict = "incomplete"
    return reports.Result(**fields, gates=outcomes, verdict=verdict, training=training, partial=partial)


def shard_of(n: int, settings: Settings, gates: Demands, run_sha256: str) -> reports.Shard:
    """The shard of a run over ``n`` samples that ``--shard`` names. Raises UsageError (2) where there are too few samples."""
    number, of = settings.shard or (1, 1)
    if of > (most := len(blocks(n))):
        raise UsageError(
            f"--shard divides {n} samples into at most {most} shards, of sixteen samples or more; received {number}/{of}. "
            "Take fewer shards."
        )
    reference = gates.reference
    asked = reports.RunGates(
        fail_under=settings.fail_under,
        gate_on=settings.gate_on,
        max_regression=settings.max_regression,
        significance=settings.significance,
        require_parity=settings.require_parity,
        baseline_sha256=None if reference is None else reference.report.result_sha256,
    )
    return reports.Shard(number=number, of=of, n_run=n, run_sha256=run_sha256, asked=asked)


def _anything_checked(fields: Mapping[str, Any]) -> bool:
    """Whether an attack, or a method that certifies, examined any sample, or the file classifies none correctly."""
    proves = fields["method"].arithmetic != "none"
    levels = fields["levels"]
    rungs = [rung for level in levels for rung in level.rungs if proves or rung.name in ATTACKS]
    return levels[0].natural.k == 0 or any(rung.examined for rung in rungs)
