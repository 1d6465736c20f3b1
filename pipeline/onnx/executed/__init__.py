"""The graph that is executed, read back from ONNX Runtime, and the account of every difference from the file's own.

A certificate bounds the file's operators, each evaluated by itself in any order of its sums, with the folding and fusion that
``core/rounding.py`` charges. A runtime's optimiser may rewrite more than that: the executed graph is compared with the file's,
and a rewriting that the table in this package does not cover is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from pipeline.errors import InputRejected
from pipeline.onnx import runtime
from pipeline.onnx.executed import activations, arrangements, layers, normalisation, parts, pools, products
from pipeline.onnx.executed.graphs import Graph, GraphOperator
from pipeline.onnx.executed.matching import REWRITINGS, Matching, Pair
from pipeline.onnx.executed.optimised import Executed, optimised
from pipeline.onnx.executed.transposes import transposes_behind
from pipeline.onnx.model_file import ModelFile

_TABLE = (
    layers,
    normalisation,
    products,
    pools,
    parts,
    activations,
    arrangements,
)  # importing them registers their rewritings
_SHOWN = 6


def require(file: ModelFile, executed: Executed, outputs: Sequence[str]) -> None:
    """Raise InputRejected (3) unless the bounds of the file contain every value of an executed graph.

    The error names the executed operator that no rewriting accounts for, and the highest lower level of optimisation without one.
    """
    problem = unaccounted(file.model, executed, outputs)
    if problem is None:
        return
    for lower in reversed(runtime.LEVELS[: runtime.LEVELS.index(executed.level)]):
        other = optimised(file, provider=executed.provider, level=lower)
        if unaccounted(file.model, other, outputs) is None:
            remedy = (
                f"use `--runtime-optimization {lower}`, and set SessionOptions.graph_optimization_level to "
                f"{runtime.OPTION[lower]} where the model runs; or use `--arithmetic real`"
            )
            break
    else:
        remedy = f"it does at none of `--runtime-optimization {'|'.join(runtime.LEVELS)}`: use `--arithmetic real`"
    raise InputRejected(
        f"`--arithmetic float32-any-order` must account for what is executed; {executed} {problem}. "
        f"To certify this file, {remedy}."
    )


def unaccounted(model: onnx.ModelProto, executed: Executed, outputs: Sequence[str]) -> str | None:
    """What a runtime executes that no bound accounts for, as the predicate of a sentence about it; None for nothing."""
    matching = Matching(Graph(model), executed.graph)
    failing = next((output for output in outputs if not matching.holds(Pair(output, output))), None)
    if failing is None:
        return None
    if any(node.op_type == "Transpose" for node in model.graph.node):
        moved = Matching(Graph(transposes_behind(model)), executed.graph)
        if all(moved.holds(Pair(output, output)) for output in outputs):
            return None
    return _first_unaccounted(matching, failing)


def _first_unaccounted(matching: Matching, output: str) -> str:
    """A predicate that names the first executed operator without an account, and the operators of the file that it replaces."""
    op, value = matching.executed.producer(output), output
    least: tuple[bool, int] | None = None
    types = {o.type for o in matching.file.operators} | set(REWRITINGS)
    for pair, holds in matching.results.items():
        candidate = matching.executed.producer(pair.executed)
        if candidate is None or holds:
            continue
        # An operator that the file does not have explains most. Names survive most rewritings: a pair with equal names is the
        # right one, others may only have been tried.
        strange = candidate.type not in types
        if strange or pair.executed == pair.file or candidate.position in matching.reasons:
            rank = (not strange, candidate.position)
            if least is None or rank < least:
                least, op, value = rank, candidate, pair.file
    if op is None:
        return "makes a constant of an output that is computed"
    replaced = ", ".join(map(str, _replaced(matching.file, value, set(op.inputs))))
    reason = matching.reasons.get(op.position, "no bound accounts for that rewriting")
    return f"executes {op} in place of {replaced or 'a constant'}: {reason}"


def _replaced(file: Graph, value: str, inputs: set[str]) -> list[GraphOperator]:
    """At most ``_SHOWN`` of the file's operators between a value and the inputs of an executed operator."""
    operators: dict[int, GraphOperator] = {}
    pending = [value]
    while pending and len(operators) < _SHOWN:
        value = pending.pop(0)
        op = file.producer(value)
        if op is None or op.position in operators or value in file.constants:
            continue
        operators[op.position] = op
        pending.extend(v for v in op.inputs if v and v not in inputs)
    return sorted(operators.values(), key=lambda o: o.position)


__all__ = ["Executed", "optimised", "require", "unaccounted"]
