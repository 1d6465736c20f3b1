"""What a run is held to: the gates decided on what was found, or, where a run is shared out, handed on with each share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline import results as reports
from pipeline.errors import UsageError
from pipeline.gates import Demands
from pipeline.gates import verdict as decided
from pipeline.gates.improvement import improvement
from pipeline.methods import ATTACKS
from pipeline.results.blocks import blocks
from pipeline.settings import Settings


def conclude(
    known: Mapping[str, Any], samples: reports.Samples, gates: Demands, training: reports.Training | None = None
) -> reports.Result:
    """The result with its gates decided; incomplete too where nothing was checked that they, or the run, are about.

    A floor of zero is met by samples that nobody looked at: only gates on natural accuracy and parity pass without a proof or
    an attack. A shard decides none.
    """
    if known.get("shard") is not None:
        return reports.Result(**known, verdict="incomplete", partial=any(level.undecided for level in known["levels"]))
    outcomes = gates.outcomes(known["levels"], known["per_class"], samples, known["parity"])
    if gates.improvement and training is not None and training.before is not None and training.after is not None:
        outcomes += improvement(training.before, training.after)
    doubt = reports.near_chance(known["levels"][0], known["model"].output.classes, known["per_class"])
    known = {**known, "warnings": (*([doubt] if doubt else []), *known["warnings"])}
    verdict = decided(outcomes)
    about_robustness = not outcomes or any(gate.metric in ("attacked", "certified") for gate in outcomes)
    if verdict == "pass" and about_robustness and not _anything_checked(known):
        verdict = "incomplete"
    return reports.Result(
        **known,
        gates=outcomes,
        verdict=verdict,
        training=training,
        partial=any(level.undecided for level in known["levels"]),
    )


def share_of(n: int, settings: Settings, gates: Demands, run: str) -> reports.Shard:
    """The share of a run over ``n`` samples that was asked for. Raises UsageError (2) where there are too few to share out."""
    number, of = settings.shard or (1, 1)
    if of > (most := len(blocks(n))):
        raise UsageError(
            f"--shard shares out {n} samples among at most {most}, sixteen or more to each; received {number}/{of}. "
            "Take fewer shards."
        )
    reference = gates.reference
    asked = reports.Asked(
        fail_under=settings.fail_under,
        gate_on=settings.gate_on,
        max_regression=settings.max_regression,
        significance=settings.significance,
        require_parity=settings.require_parity,
        baseline_sha256=None if reference is None else reference.report.result_sha256,
    )
    return reports.Shard(number=number, of=of, n_run=n, run_sha256=run, asked=asked)


def _anything_checked(known: Mapping[str, Any]) -> bool:
    """Whether an attack, or a proof that certifies, looked at any sample; a file that is always wrong leaves them none."""
    proves = known["method"].arithmetic != "none"
    levels = known["levels"]
    rungs = [rung for level in levels for rung in level.rungs if proves or rung.name in ATTACKS]
    return levels[0].natural.k == 0 or any(rung.examined for rung in rungs)
