"""Whether retraining was worth it: the new file against the given one, at the eps that was trained for."""

from __future__ import annotations

from pipeline.results.outcome import GateOutcome
from pipeline.results.rate import Rate
from pipeline.results.result import Accuracies


def improvement(before: Accuracies, after: Accuracies) -> tuple[GateOutcome, ...]:
    """Certified accuracy must have risen, and attacked accuracy, where both were attacked, not have fallen; exact on counts."""
    found = [_gate("certified", ">", before.certified, after.certified, after.eps)]
    if before.attacked is not None and after.attacked is not None:
        found.append(_gate("attacked", ">=", before.attacked, after.attacked, after.eps))
    return tuple(found)


def _gate(metric: str, comparator: str, before: Rate, after: Rate, eps: str) -> GateOutcome:
    passed = after.exact > before.exact if comparator == ">" else after.exact >= before.exact
    return GateOutcome.model_validate(
        {
            "id": f"improvement:{metric}@{eps}",
            "kind": "require-improvement",
            "metric": metric,
            "eps": eps,
            "comparator": comparator,
            "threshold": f"{before.k}/{before.n}",
            "observed": after.value,
            "k": after.k,
            "n": after.n,
            "passed": passed,
        }
    )
