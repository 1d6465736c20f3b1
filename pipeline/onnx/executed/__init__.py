"""The graph that is executed: read back from ONNX Runtime, and every difference from the file's own accounted for.

A certificate bounds the file's operators, each evaluated by itself in any order of its sums, with what ``core/rounding.py``
allows to be folded and fused. A runtime's optimiser does as it likes; so what it made is compared with the file, and what the
table of rewritings in this package does not cover is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from pipeline.errors import InputRejected
from pipeline.onnx import runtime
from pipeline.onnx.executed import activations, arrangements, layers, pools, products
from pipeline.onnx.executed.graphs import Graph, GraphOperator
from pipeline.onnx.executed.matching import REWRITINGS, Matching, Pair
from pipeline.onnx.executed.optimised import Executed, optimised
from pipeline.onnx.model_file import ModelFile

_TABLE = (layers, products, pools, activations, arrangements)  # importing them enters their rewritings
_SHOWN = 6


def require(file: ModelFile, executed: Executed, outputs: Sequence[str]) -> None:
    """Raise InputRejected (3) unless every value of an executed graph is one that the bounds of the file contain.

    Names the operator that stands for something else, and the highest level of optimisation below at which there is none.
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
    """What a runtime executes that no bound accounts for, as the end of a sentence about it; None where there is nothing."""
    matching = Matching(Graph(model), executed.graph)
    for output in outputs:
        if not matching.holds(Pair(output, output)):
            return _named(matching, output)
    return None


def _named(matching: Matching, output: str) -> str:
    """The first executed operator that could not be accounted for, and what it stands in place of."""
    own, value = matching.executed.producer(output), output
    least: tuple[bool, int] | None = None
    known = {o.type for o in matching.file.operators} | set(REWRITINGS)
    for pair, holds in matching.known.items():
        made = matching.executed.producer(pair.executed)
        if made is None or holds:
            continue
        # An operator that the file does not have says most. Names survive most rewritings: a pair of one name is meant,
        # others may only have been tried.
        strange = made.type not in known
        if strange or pair.executed == pair.file or made.position in matching.reasons:
            rank = (not strange, made.position)
            if least is None or rank < least:
                least, own, value = rank, made, pair.file
    if own is None:
        return "makes a constant of an output that is computed"
    said = ", ".join(map(str, _replaced(matching.file, value, set(own.inputs))))
    reason = matching.reasons.get(own.position, "no bound accounts for that rewriting")
    return f"executes {own} in place of {said or 'a constant'}: {reason}"


def _replaced(file: Graph, value: str, inputs: set[str]) -> list[GraphOperator]:
    """The file's operators between a value and what an executed operator reads, a few of them."""
    found: dict[int, GraphOperator] = {}
    pending = [value]
    while pending and len(found) < _SHOWN:
        value = pending.pop(0)
        own = file.producer(value)
        if own is None or own.position in found or value in file.constants:
            continue
        found[own.position] = own
        pending.extend(v for v in own.inputs if v and v not in inputs)
    return sorted(found.values(), key=lambda o: o.position)


__all__ = ["Executed", "optimised", "require", "unaccounted"]
