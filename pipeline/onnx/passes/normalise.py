"""ONNX -> ONNX: whatever a file's age and exporter, brought to the one form that onnx2torch reads.

Neutral names, constants and shapes folded, every operator in its newest form, Identity, Dropout and Cast to the same type
dropped, explicit pads, MatMul by a constant to Gemm, the batch made free and brought to the front. Every value that stays keeps
its (neutral) name and every constant its way back.
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
from pipeline.onnx.batch.axis import BatchAxis
from pipeline.onnx.batch.trace import BatchTrace
from pipeline.onnx.declared_shapes import check_shapes, check_widths
from pipeline.onnx.ir import ConstantSource, Draft, Node, drafted, filled
from pipeline.onnx.names import listed, neutralise, shown
from pipeline.onnx.operators import TABLE
from pipeline.onnx.passes import einsum, linear, resize
from pipeline.onnx.passes import free_batch as free_batches
from pipeline.onnx.passes.batch_first import batch_first
from pipeline.onnx.passes.opset_forms import newest
from pipeline.onnx.probe import Probes, dependence, probe

_FOLLOWING = (moves, rules, symbolic_rules)  # importing them enters how samples are followed


@dataclass(frozen=True)
class NormalisedGraph:
    """The form that is converted, and the tables back to the file."""

    model: onnx.ModelProto
    """The nodes once more, as onnx2torch reads them."""
    nodes: tuple[Node, ...]
    own: tuple[Node, ...]
    """The nodes that are computed on data as they stand in the file; they know which of their attributes were read."""
    opset: int
    """Of the file."""
    constants: Mapping[str, np.ndarray]
    sources: Mapping[str, ConstantSource]
    """By constant: the initialiser or Constant node of the file, and the steps back to it."""
    origins: Mapping[str, Origin]
    """By output value: the node of the file."""
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, np.dtype]
    free_batch: bool
    free_sizes: bool
    """Whether free dimensions other than the batch may vary."""
    notes: tuple[str, ...]
    traced: tuple[BatchTrace, ...] = ()
    """Where samples stand in the file's graph, where it takes any number of them, and in this one, where it does."""


def normalise(model: onnx.ModelProto, *, output: str | None = None, free_batch: bool = True) -> NormalisedGraph:
    """The normal form of a model that the guard let through; of its ``output`` alone where one is named.

    With ``free_batch`` a baked batch of 1 is made free where the rules of ``free_batch.py`` reach; whether that was right only
    parity can tell. Raises InputRejected if the model does not run, UsageError if it has no such output.
    """
    file_outputs = [o.name for o in model.graph.output]
    if output is not None and output not in file_outputs:
        raise UsageError(f"An output of the file is wanted; '{shown(output)}' is none of {listed(file_outputs)}.")
    neutral, names = neutralise(model, output)
    neutral.ir_version = max(model.ir_version, 8)
    kinds = dict(dependence(neutral))
    element_types.check(neutral, kinds, names.values)
    draft = drafted(neutral, names.nodes, names.values)

    def seen(values: Mapping[str, np.ndarray]) -> None:
        check_widths(neutral, kinds, values, names)
        _followed(draft, values).require(_elsewhere)

    probes = probe(neutral, seen)
    check_shapes(neutral, kinds, probes, names)
    _measured(draft, probes.values[0])
    draft.free = probes.free
    samples = BatchTrace(draft, probes.values) if probes.free and not probes.sizes else None
    fold(draft, kinds, probes, samples)
    own = newest(draft)
    if samples is not None:
        samples.require(_elsewhere)
    drop(draft)
    explicit_pads(draft)
    freed = probes.free or (free_batch and free_batches.baked(draft))
    if freed and not probes.free:
        free_batches.free(draft)
    draft.prune()
    einsum.lowered(draft)
    linear.canonical(draft)
    batch_first(draft, probes, kinds)
    draft.prune()
    traced = [samples, BatchTrace(draft, normal=True) if freed and not probes.sizes else None]
    return NormalisedGraph(
        model=draft.model(),
        nodes=tuple(draft.nodes),
        own=own,
        opset=draft.opset,
        constants=draft.constants,
        sources=draft.sources,
        origins=draft.origins,
        shapes=draft.shapes,
        dtypes=draft.dtypes,
        free_batch=freed,
        free_sizes=probes.sizes,
        notes=tuple(draft.notes),
        traced=tuple(t for t in traced if t is not None),
    )


def _measured(draft: Draft, values: Mapping[str, np.ndarray]) -> None:
    """Enters the shapes and types of what was measured."""
    draft.shapes.update({n: tuple(np.shape(v)) for n, v in values.items()})
    draft.dtypes.update({n: np.asarray(v).dtype for n, v in values.items()})


def _followed(draft: Draft, values: Mapping[str, np.ndarray]) -> BatchTrace:
    """Where the samples stand in what was measured with two of them."""
    _measured(draft, values)
    return BatchTrace(draft, (values,))


def _elsewhere(op_type: str) -> bool:
    """Whether an operator is refused by its name later, whatever it does with samples."""
    return op_type not in TABLE


def fold(draft: Draft, kinds: Mapping[str, str], probes: Probes, samples: BatchTrace | None) -> None:
    """Values that do not depend on the data become constants: read off the probes.

    Which these are for every batch size ``samples`` says; without it, the probes alone. A value that follows the batch is kept
    where batch 1 broadcasts to any other; a Reshape or Expand to a computed shape gets the shape in ``0`` and ``-1`` terms.
    """
    producers = draft.producers()
    # What comes from one initialiser by the same steps is one constant, so that tied weights stay tied.
    same = {(s.initializer, s.steps): n for n, s in draft.sources.items() if s.initializer is not None}
    tied: dict[str, str] = {}
    for name, kind in kinds.items():
        if kind == "data" or name in draft.constants:
            continue
        seen = [np.asarray(v[name]) for v in probes.values if name in v]
        if (samples is None or name in samples.constant) and all(_same(s, seen[0]) for s in seen):
            draft.constants[name] = seen[0]
            node = producers.get(name)
            draft.sources[name] = _folded(draft, node, seen[0]) if node is not None else ConstantSource(None)
            source = draft.sources[name]
            if source.initializer is not None:
                tied[name] = same.setdefault((source.initializer, source.steps), name)
        elif (samples is None or _alike(samples, name)) and (single := _one_sample(seen)) is not None:
            draft.constants[name] = single
            draft.sources[name] = ConstantSource(None, reason="computed from the batch size")
            draft.shapes[name] = tuple(single.shape)
    draft.nodes = [n for n in draft.nodes if not all(v in draft.constants or not v for v in n.outputs)]
    for node in draft.nodes:
        wanted = node.input(1)
        if node.op_type in ("Reshape", "Expand") and kinds.get(wanted) == "shape" and wanted not in draft.constants:
            x = node.inputs[0]
            inputs = [np.shape(draft.constants[x] if x in draft.constants else v[x]) for v in probes.values]
            targets = [[int(d) for d in v[wanted]] for v in probes.values]
            node.inputs[1] = draft.constant(np.array(free_batches.symbolic(node.op_type, inputs, targets), np.int64))
            node.attributes.pop("allowzero", None)
        sizes = node.input(3) if node.op_type == "Resize" else ""
        if sizes in draft.constants or kinds.get(sizes) == "shape":
            resize.fix_sizes(draft, node, probes)
    draft.substitute({n: first for n, first in tied.items() if n != first})


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _alike(samples: BatchTrace, name: str) -> bool:
    """Whether every sample has the same row of a value."""
    return (
        name in samples.symbolic
        and samples.symbolic[name].uniform
        and samples.symbolic[name].batch_axis == BatchAxis(0)
    )


def _one_sample(seen: list[np.ndarray]) -> np.ndarray | None:
    """A value that is one row repeated for each sample, as that row; None if it is not."""
    if any(s.ndim == 0 or s.shape[0] == 0 or s.shape[1:] != seen[0].shape[1:] for s in seen):
        return None
    row = seen[0][:1]
    return row if all(_same(s, np.repeat(row, len(s), axis=0)) for s in seen) and row.ndim > 1 else None


def _folded(draft: Draft, node: Node, array: np.ndarray) -> ConstantSource:
    """The way back through one folded node; its input is a constant by then, nodes being in order."""
    first = node.inputs[0] if node.inputs else ""
    others = [v for v in node.inputs[1:] if v]
    sources = [draft.sources[v] for v in node.inputs if v in draft.sources]
    reads = frozenset[str]().union(*(s.reads | ({s.initializer} if s.initializer else set()) for s in sources))
    if first not in draft.sources or first not in draft.constants:
        return ConstantSource(None, reason=f"computed by {node.op_type}", reads=reads)
    source, held = draft.sources[first], draft.constants[first]
    if node.op_type == "Identity" and source.initializer is not None and not source.steps and filled(array):
        # An exporter that merges equal tensors leaves an Identity for each: all those zeros and ones are not one weight.
        return ConstantSource(draft.origins[node.output].output)
    if node.op_type == "Identity" or (node.op_type == "Cast" and held.dtype == array.dtype):
        return source
    if node.op_type == "Transpose":
        perm = list(node.attributes.get("perm", range(held.ndim)[::-1]))
        return source.after(("transpose", tuple(int(i) for i in np.argsort(perm))))
    if node.op_type in ("Reshape", "Squeeze", "Unsqueeze", "Flatten"):
        return source.after(("reshape", tuple(held.shape)))
    what = f"behind {node.op_type}" if not others else f"computed by {node.op_type} from other constants"
    return ConstantSource(None, reason=what, reads=reads)


def drop(draft: Draft) -> None:
    """Identity, Dropout outside training and Cast to the type a value already has: readers read what went in."""
    aliases, kept = {}, []
    for node in draft.nodes:
        same_type = node.op_type == "Cast" and draft.dtypes.get(node.inputs[0]) == draft.dtypes.get(node.output)
        if node.op_type in ("Identity", "Dropout") or same_type:
            node.attributes.read.add("to")  # it was measured what became of it
            aliases[node.output] = node.inputs[0]
        else:
            kept.append(node)
    draft.nodes = kept
    draft.substitute(aliases)
    for node in draft.nodes:
        # Only a zero in the shape gives allowzero a meaning.
        if node.op_type == "Reshape" and np.all(draft.constants.get(node.inputs[1], np.zeros(1)) != 0):
            node.attributes.pop("allowzero", None)


def explicit_pads(draft: Draft) -> None:
    """``auto_pad`` as the numbers it stands for, from the measured shapes (ONNX Conv: SAME_UPPER puts the odd one at the end)."""
    for node in draft.nodes:
        mode = node.attributes.pop("auto_pad", b"NOTSET")
        if mode in (b"NOTSET", b""):
            continue
        spatial = draft.shapes[node.inputs[0]][2:]
        if mode == b"VALID":
            node.attributes["pads"] = [0] * 2 * len(spatial)
            continue
        if node.op_type == "ConvTranspose":
            node.attributes["auto_pad"] = mode  # its lowering works out what is cut off
            continue
        kernel = node.attributes.peek("kernel_shape") or draft.shapes[node.inputs[1]][2:]
        strides = node.attributes.peek("strides") or [1] * len(spatial)
        dilations = node.attributes.peek("dilations") or [1] * len(spatial)
        begins, ends = [], []
        for size, k, s, d in zip(spatial, kernel, strides, dilations, strict=True):
            total = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
            small, large = total // 2, total - total // 2
            begins.append(small if mode == b"SAME_UPPER" else large)
            ends.append(large if mode == b"SAME_UPPER" else small)
        node.attributes["pads"] = begins + ends
