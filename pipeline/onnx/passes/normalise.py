"""ONNX -> ONNX: files of any supported opset and exporter, brought to the one form that onnx2torch reads.

Neutral names, constants and shapes folded, every operator in its newest form, Identity, Dropout and Cast to the same type
dropped, explicit pads, MatMul by a constant to Gemm, the batch made free and moved to the front. Every value that stays keeps
its (neutral) name, and every constant the steps back to its initialiser.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from pipeline.core.network import Origin
from pipeline.errors import UsageError
from pipeline.onnx import element_types
from pipeline.onnx.batch import moves, rules, symbolic_rules
from pipeline.onnx.batch.trace import BatchTrace
from pipeline.onnx.chosen_output import classes_of
from pipeline.onnx.declared_shapes import check_shapes, check_widths
from pipeline.onnx.ir import ConstantSource, Draft, Node, draft_of
from pipeline.onnx.names import listed, neutralise, shown
from pipeline.onnx.operators import TABLE
from pipeline.onnx.passes import einsum, linear, nd_indices
from pipeline.onnx.passes import free_batch as free_batches
from pipeline.onnx.passes.add_batch import add_batch
from pipeline.onnx.passes.batch_first import batch_first
from pipeline.onnx.passes.fold import fold
from pipeline.onnx.passes.opset_forms import newest
from pipeline.onnx.probe import dependence, probe

_BATCH_RULES = (moves, rules, symbolic_rules)  # importing them registers their rules


@dataclass(frozen=True)
class NormalisedGraph:
    """The normal form, and the tables that lead from it back to the file."""

    model: onnx.ModelProto
    """The graph as ONNX, which onnx2torch reads."""
    nodes: tuple[Node, ...]
    file_nodes: tuple[Node, ...]
    """The nodes that are computed on data, as the file has them; they record which of their attributes were read."""
    opset: int
    """Of the file."""
    constants: Mapping[str, np.ndarray]
    sources: Mapping[str, ConstantSource]
    """By constant: the initialiser or Constant node of the file that it comes from, and the steps back to it."""
    origins: Mapping[str, Origin]
    """By value: the node of the file that computes it."""
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, np.dtype]
    free_batch: bool
    free_sizes: bool
    """Whether free dimensions other than the batch may vary."""
    notes: tuple[str, ...]
    traces: tuple[BatchTrace, ...] = ()
    """The batch axes of all values, of the file's graph and of this one, as far as these take any batch size."""


def normalise(
    model: onnx.ModelProto, *, output: str | None = None, free_batch: bool = True, lift: bool = False
) -> NormalisedGraph:
    """The normal form of a model that passed the guard; of its ``output`` alone where one is named.

    With ``lift`` a batch axis of one is put in front of every value of a file that has none.

    With ``free_batch`` a fixed batch of 1 is made free as far as the heuristics of ``free_batch.py`` go; only parity can tell
    whether that was right. Raises InputRejected for a model that does not run or is not supported, UsageError if it has no such
    output.
    """
    file_outputs = [o.name for o in model.graph.output]
    if output is not None and output not in file_outputs:
        raise UsageError(f"An output of the file is wanted; '{shown(output)}' is none of {listed(file_outputs)}.")
    neutral, names = neutralise(model, output)
    neutral.ir_version = max(model.ir_version, 8)
    kinds = dict(dependence(neutral))
    element_types.check(neutral, kinds, names.values)
    draft = draft_of(neutral, names.nodes, names.values)

    def check_probe(values: Mapping[str, np.ndarray]) -> None:
        check_widths(neutral, kinds, values, names)
        _trace(draft, values).require(_refused_by_name)

    probes = probe(neutral, check_probe)
    check_shapes(neutral, kinds, probes, names)
    _enter_measurements(draft, probes.values[0])
    draft.free = probes.free
    trace = BatchTrace(draft, probes.values) if probes.free and not probes.sizes else None
    fold(draft, kinds, probes, trace)
    file_nodes = newest(draft)
    if trace is not None:
        trace.require(_refused_by_name)
    drop(draft)
    explicit_pads(draft)
    free = not lift and (probes.free or (free_batch and free_batches.fixes_batch_of_one(draft)))
    if free and not probes.free:
        free_batches.free(draft)
    draft.prune()
    einsum.lower(draft)
    nd_indices.lower(draft, probes)
    linear.canonical(draft)
    if lift:
        add_batch(draft)
    else:
        batch_first(draft, probes, kinds)
    draft.prune()
    traces = [trace, BatchTrace(draft, normal=True) if free and not probes.sizes else None]
    return NormalisedGraph(
        model=draft.model(),
        nodes=tuple(draft.nodes),
        file_nodes=file_nodes,
        opset=draft.opset,
        constants=draft.constants,
        sources=draft.sources,
        origins=draft.origins,
        shapes=draft.shapes,
        dtypes=draft.dtypes,
        free_batch=free,
        free_sizes=probes.sizes,
        notes=tuple(draft.notes),
        traces=tuple(t for t in traces if t is not None),
    )


def _enter_measurements(draft: Draft, values: Mapping[str, np.ndarray]) -> None:
    """Enter the shapes and types of measured values into a draft."""
    draft.shapes.update({n: tuple(np.shape(v)) for n, v in values.items()})
    draft.dtypes.update({n: np.asarray(v).dtype for n, v in values.items()})


def _trace(draft: Draft, values: Mapping[str, np.ndarray]) -> BatchTrace:
    """The batch axes of a draft whose values were measured at a batch of two."""
    _enter_measurements(draft, values)
    return BatchTrace(draft, (values,))


def _refused_by_name(op_type: str) -> bool:
    """Whether a later step refuses an operator by name, so that its batch axis need not be reported."""
    return op_type not in TABLE


def drop(draft: Draft) -> None:
    """Remove what gives what it gets: Identity, Dropout outside training, Cast to a value's own type, sums over no axis, guards
    against NaN, and the map from class to number that a ZipMap makes of an array.
    """
    aliases, nodes, producers = {}, [], {node.output: node for node in draft.nodes}
    for node in draft.nodes:
        same_type = node.op_type == "Cast" and draft.dtypes.get(node.inputs[0]) == draft.dtypes.get(node.output)
        if (guarded := _guarded(draft, node, producers)) is not None:
            aliases[node.output] = guarded
        elif node.op_type == "ZipMap" and _is_table(draft, node):
            aliases[node.output] = node.inputs[0]
        elif node.op_type in ("Identity", "Dropout") or same_type or _reduces_nothing(draft, node):
            node.attributes.read |= {"to", "keepdims", "noop_with_empty_axes"}  # the types were measured
            aliases[node.output] = node.inputs[0]
        else:
            nodes.append(node)
    draft.nodes = nodes
    draft.substitute(aliases)
    for node in draft.nodes:
        # Only a zero in the shape gives allowzero a meaning.
        if node.op_type == "Reshape" and np.all(draft.constants.get(node.inputs[1], np.zeros(1)) != 0):
            node.attributes.pop("allowzero", None)


def _is_table(draft: Draft, node: Node) -> bool:
    """Whether a ZipMap reads a row for each sample and a column for each class; a note says which column is which class."""
    classes, shape = classes_of(node.attributes), draft.shapes.get(node.inputs[0], ())
    if classes is None or len(shape) != 2 or shape[1] != len(classes):
        return False
    names = listed(c.decode(errors="replace") if isinstance(c, bytes) else str(c) for c in classes)
    draft.notes.append(
        f"the map that ZipMap makes is read as its array; labels 0 to {len(classes) - 1} are classes {names}"
    )
    return True


def _guarded(draft: Draft, node: Node, producers: dict[str, Node]) -> str | None:
    """The ``a`` of ``Where(IsNaN(a), b, a)`` or ``Where(Not(IsNaN(a)), a, b)`` of one shape; None of another node.

    Finite bounds of ``a`` say that it is a number wherever it is computed, and there the guard gives it; of infinite ones nothing
    is certified. (Exports of attention end its Softmax with this guard.)
    """
    if node.op_type != "Where":
        return None
    test, (chosen, other) = producers.get(node.inputs[0]), node.inputs[1:]
    if test is not None and test.op_type == "Not":
        test, chosen, other = producers.get(test.inputs[0]), other, chosen
    same = test is not None and test.op_type == "IsNaN" and test.inputs[0] == other
    return other if same and draft.shapes.get(node.output) == draft.shapes.get(other) else None


def _reduces_nothing(draft: Draft, node: Node) -> bool:
    """Whether a reduction is over no axis (``noop_with_empty_axes`` is 1), and so gives what it gets.

    ONNX Runtime takes any other number than 1 for 0; the lowering refuses it.
    """
    if node.op_type not in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"):
        return False
    axes = node.attributes.peek("axes") or draft.constants.get(node.input(1), np.zeros(int(bool(node.input(1)))))
    return node.attributes.peek("noop_with_empty_axes", 0) == 1 and len(axes) == 0


def explicit_pads(draft: Draft) -> None:
    """Replace ``auto_pad`` by explicit pads, from the measured shapes (ONNX Conv: SAME_UPPER puts the odd one at the end)."""
    for node in draft.nodes:
        mode = node.attributes.pop("auto_pad", b"NOTSET")
        if mode in (b"NOTSET", b""):
            continue
        spatial = draft.shapes[node.inputs[0]][2:]
        if mode == b"VALID":
            node.attributes["pads"] = [0] * 2 * len(spatial)
            continue
        if node.op_type == "ConvTranspose":
            node.attributes["auto_pad"] = mode  # its lowering computes the pads
            continue
        kernel = node.attributes.peek("kernel_shape") or draft.shapes[node.inputs[1]][2:]
        strides = node.attributes.peek("strides") or [1] * len(spatial)
        dilations = node.attributes.peek("dilations") or [1] * len(spatial)
        begins, ends = [], []
        for size, k, s, d in zip(spatial, kernel, strides, dilations, strict=True):
            total = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
            smaller, larger = total // 2, total - total // 2
            begins.append(smaller if mode == b"SAME_UPPER" else larger)
            ends.append(larger if mode == b"SAME_UPPER" else smaller)
        node.attributes["pads"] = begins + ends
