"""Parts of arrays: slices that one Split computes together."""

from __future__ import annotations

from pipeline.onnx.executed.graphs import Graph, GraphOperator
from pipeline.onnx.executed.matching import Matching, Pair, Steps, rewriting


@rewriting("Split")
def slices(matching: Matching, op: GraphOperator, index: int, pair: Pair) -> Steps:
    """A Slice, or a Gather of one entry, that one Split computes with others; a Slice may be permuted as its array is."""
    file_op = matching.file.producer(pair.file)
    sizes = _parts(matching.executed, op)
    if file_op is None or sizes is None or file_op.type not in ("Slice", "Gather"):
        return False
    start, stop = sum(sizes[:index]), sum(sizes[: index + 1])
    axis, rank = op.attributes.get("axis", 0), matching.file.rank(file_op.inputs[0])
    if file_op.type == "Gather":
        indices = matching.file.constants.get(file_op.inputs[1])
        keeps_axis = pair.view.plain and indices is not None and indices.ndim == 1
        if indices is None or indices.size != 1 or stop - start != 1 or not (pair.view.flat or keeps_axis):
            return False
        same_axis = _same_axis(axis, file_op.attributes.get("axis", 0), rank)
        at_start = int(indices.reshape(-1)[0]) in (start, start - sum(sizes))
        return same_axis and at_start and (yield Pair(op.inputs[0], file_op.inputs[0]))
    bounds, perm = _slice(matching.file, file_op, sum(sizes)), pair.view.perm
    if bounds is None or bounds[1:] != (start, stop):
        return False
    if pair.view.plain or pair.view.flat:
        return _same_axis(axis, bounds[0], rank) and (yield Pair(op.inputs[0], file_op.inputs[0]))
    same_axis = perm is not None and rank == len(perm) and _same_axis(perm[axis % rank], bounds[0], rank)
    return same_axis and (yield Pair(op.inputs[0], file_op.inputs[0], pair.view))


@rewriting("Split")
def permuted_split(matching: Matching, op: GraphOperator, index: int, pair: Pair) -> Steps:
    """The file's Split of an array that is permuted as its parts are."""
    file_op, perm = matching.file.producer(pair.file), pair.view.perm
    if file_op is None or file_op.type != "Split" or perm is None or matching.file.producers[pair.file][1] != index:
        return False
    rank = matching.file.rank(file_op.inputs[0])
    same_parts = _parts(matching.executed, op) == _parts(matching.file, file_op) and len(op.outputs) == len(
        file_op.outputs
    )
    if rank != len(perm) or not same_parts:
        return False
    same_axis = _same_axis(perm[op.attributes.get("axis", 0) % rank], file_op.attributes.get("axis", 0), rank)
    return same_axis and (yield Pair(op.inputs[0], file_op.inputs[0], pair.view))


def _same_axis(one: int, other: int, rank: int | None) -> bool:
    return one == other or (rank is not None and one % rank == other % rank)


def _parts(graph: Graph, op: GraphOperator) -> list[int] | None:
    if op.input(1):
        return [int(i) for i in graph.constants[op.input(1)]] if op.input(1) in graph.constants else None
    sizes = op.attributes.get("split")
    return [int(i) for i in sizes] if sizes else None


def _slice(graph: Graph, op: GraphOperator, length: int) -> tuple[int, int, int] | None:
    """``(axis, start, stop)`` of a Slice with step 1 along one axis, of that length; None for any other Slice."""
    parts = {}
    for position, name in enumerate(("starts", "ends", "axes", "steps"), start=1):
        value = op.input(position)
        if value and value not in graph.constants:
            return None
        numbers = graph.constants[value].reshape(-1).tolist() if value else list(op.attributes.get(name, ()))
        parts[name] = [int(i) for i in numbers]
    if len(parts["starts"]) != 1 or parts["steps"] not in ([], [1]):
        return None
    start, stop, _ = slice(parts["starts"][0], parts["ends"][0]).indices(length)
    return (parts["axes"] or [0])[0], start, stop
