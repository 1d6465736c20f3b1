"""Gates evaluated again from what their outcomes and the result say."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from pipeline.errors import PipelineError
from pipeline.gates.demands import parity_gate
from pipeline.gates.exact import sign_test, three_digits
from pipeline.gates.gate import evaluate, parse_gate
from pipeline.gates.improvement import improvement
from pipeline.gates.regression import outcome
from pipeline.results.outcome import GateOutcome
from pipeline.results.result import Result


def rejudged(result: Result) -> Iterator[str]:
    """A sentence for each gate whose outcome does not follow."""
    for gate in result.gates:
        try:
            again = _again(gate, result)
        except (PipelineError, ValueError) as error:
            yield f"report.json: gate {gate.id!r} cannot be evaluated again: {error}"
            continue
        if again != gate:
            yield f"report.json: gate {gate.id!r} is stated as {gate.summary!r}, and evaluates to {again.summary!r}."


def _again(gate: GateOutcome, result: Result) -> GateOutcome:
    if gate.kind == "fail-under":
        return evaluate([parse_gate(gate.id, on=gate.on)], result.levels, result.per_class)[0]
    if gate.kind == "require-parity":
        if result.parity is None:
            raise ValueError("the result states no parity")
        return parity_gate(gate.threshold, result.parity)
    if gate.kind == "require-improvement":
        return _improved(gate, result)
    parsed, stated = parse_gate(gate.id, kind=gate.kind), gate.baseline
    if stated is None:
        raise ValueError("it names no baseline")
    eps = Fraction(gate.eps) if gate.eps is not None else parsed.eps
    level = next((x for x in result.levels if eps is None or x.exact == eps), None)
    rate = None if level is None else getattr(level, parsed.metric)
    undecided = 0 if level is None or parsed.metric == "natural" else level.undecided
    if level is None or rate is None or parsed.eps not in (None, level.exact):
        raise ValueError("its eps or metric is not in the result")
    counted = (stated.k - stated.lost + stated.gained, stated.undecided_had + stated.undecided_lacked)
    if counted != (rate.k, undecided):
        raise ValueError(
            f"the result counts {rate.k} and {undecided} undecided, the baseline and its changes {counted}"
        )
    baseline = stated.model_copy(update={"p_value": three_digits(sign_test(stated.lost, stated.gained))})
    return outcome(parsed, None if parsed.metric == "natural" else level.eps, baseline, rate.n)


def _improved(gate: GateOutcome, result: Result) -> GateOutcome:
    training = result.training
    if training is None or training.before is None or training.after is None:
        raise ValueError("the result compares no files")
    after = training.after
    level = next((x for x in result.levels if x.eps == after.eps), None)
    if level is None or (after.attacked, after.certified, after.undecided) != (
        level.attacked,
        level.certified,
        level.undecided,
    ):
        raise ValueError("what it says of the new file is not what the result counts")
    if training.before.certified.n != after.certified.n:
        raise ValueError("the two files are compared on other samples")
    return next(again for again in improvement(training.before, after) if again.metric == gate.metric)
