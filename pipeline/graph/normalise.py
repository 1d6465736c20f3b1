"""ONNX -> ONNX: whatever a file's age and exporter, brought to the one form that onnx2torch reads.

Neutral names, IR 8, opset 17, constants and shapes folded, Identity, Dropout and Cast to the same type dropped, explicit pads,
MatMul by a constant to Gemm, the batch made free and brought to the front. Every value that stays keeps its (neutral) name and
every constant its way back.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from pipeline.errors import UsageError
from pipeline.graph import batch, einsum, linear, resize
from pipeline.graph.batch_first import batch_first
from pipeline.graph.draft import Draft, Node, Source, drafted, filled
from pipeline.graph.names import listed, neutralise, shown
from pipeline.graph.probe import Probes, dependence, probe
from pipeline.network import Origin

OPSET = 17


@dataclass(frozen=True)
class Normalised:
    """The form that is converted, and the tables back to the file."""

    model: onnx.ModelProto
    constants: Mapping[str, np.ndarray]
    sources: Mapping[str, Source]
    """By constant: the initialiser or Constant node of the file, and the steps back to it."""
    origins: Mapping[str, Origin]
    """By output value: the node of the file."""
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, np.dtype]
    free_batch: bool
    free_sizes: bool
    """Whether free dimensions other than the batch may vary."""
    notes: tuple[str, ...]


def normalise(model: onnx.ModelProto, *, output: str | None = None, free_batch: bool = True) -> Normalised:
    """The normal form of a model that the guard let through; of its ``output`` alone where one is named.

    With ``free_batch`` a baked batch of 1 is made free where the rules of ``batch.py`` reach; whether that was right only
    parity can tell. Raises InputRejected if the model does not run, UsageError if it has no such output.
    """
    neutral, names = neutralise(model)
    file_outputs = [o.name for o in model.graph.output]
    if output is not None and output not in file_outputs:
        raise UsageError(f"An output of the file is wanted; '{shown(output)}' is none of {listed(file_outputs)}.")
    neutral, notes = at_opset(neutral)
    probes = probe(neutral)
    draft = drafted(neutral, names.nodes, names.values)
    draft.notes.extend(notes)
    if output is not None:
        draft.outputs = [draft.outputs[file_outputs.index(output)]]
    first = probes.values[0]
    draft.shapes.update({n: tuple(np.shape(v)) for n, v in first.items()})
    draft.dtypes.update({n: np.asarray(v).dtype for n, v in first.items()})
    kinds = dict(dependence(neutral))
    fold(draft, kinds, probes)
    drop(draft)
    explicit_pads(draft)
    freed = probes.free or (free_batch and batch.baked(draft))
    if freed and not probes.free:
        batch.free(draft)
    draft.prune()
    einsum.lowered(draft)
    linear.canonical(draft)
    batch_first(draft, probes, kinds)
    draft.prune()
    return Normalised(
        model=draft.model(),
        constants=draft.constants,
        sources=draft.sources,
        origins=draft.origins,
        shapes=draft.shapes,
        dtypes=draft.dtypes,
        free_batch=freed,
        free_sizes=probes.sizes,
        notes=tuple(draft.notes),
    )


def at_opset(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """The model at IR 8 or newer and opset 17, and a note where the version converter cannot bring it there."""
    model.ir_version = max(model.ir_version, 8)
    _gelu(model)
    version = next(e.version for e in model.opset_import if not e.domain)
    if version == OPSET:
        return model, []
    _noop_axes(model)
    axes = _reduced_axes(model)
    resized = resize.before_opset_11(model) if version < 11 else {}
    # The converter writes its own names into a copy; a value's name survives, which the tables rely on.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            converted = onnx.version_converter.convert_version(model, OPSET)
        except Exception:  # an assertion inside C++: some operator has no form at opset 17
            return model, [f"opset {version} kept: an operator has no form at opset {OPSET}"]
    converted.ir_version = model.ir_version
    for node in converted.graph.node:
        if node.op_type.startswith("Reduce") and len(node.input) == 1 and node.output[0] in axes:
            # onnx 1.21 loses axes that are stored as raw bytes.
            kept = [a for a in node.attribute if a.name != "axes"]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute("axes", axes[node.output[0]])])
        if node.op_type == "Resize" and node.output[0] in resized:
            # The converter leaves the defaults of opset 11, which are others than what opset 10 did.
            node.attribute.append(onnx.helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
            node.attribute.append(onnx.helper.make_attribute("nearest_mode", resized[node.output[0]]))
    return converted, []


def _gelu(model: onnx.ModelProto) -> None:
    """Gelu came with opset 20; before it, ONNX Runtime's own operators are the same functions."""
    nodes = [n for n in model.graph.node if n.op_type == "Gelu"]
    for node in nodes:
        tanh = any(a.name == "approximate" and a.s == b"tanh" for a in node.attribute)
        node.op_type, node.domain = ("FastGelu" if tanh else "Gelu"), "com.microsoft"
        del node.attribute[:]
    if nodes:
        model.opset_import.add(domain="com.microsoft", version=1)


def _noop_axes(model: onnx.ModelProto) -> None:
    """``noop_with_empty_axes`` says nothing where axes are given; the converter would carry it to opsets that lack it."""
    for node in model.graph.node:
        if node.op_type.startswith("Reduce") and len(node.input) > 1 and node.input[1]:
            kept = [a for a in node.attribute if a.name != "noop_with_empty_axes"]
            del node.attribute[:]
            node.attribute.extend(kept)


def _reduced_axes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """The axes of reductions that take them as a constant input, by output value."""
    constants = {t.name: t for t in model.graph.initializer}
    constants |= {
        n.output[0]: a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute if a.HasField("t")
    }
    return {
        node.output[0]: axes
        for node in model.graph.node
        if node.op_type.startswith("Reduce") and len(node.input) > 1 and node.input[1] in constants
        if (axes := onnx.numpy_helper.to_array(constants[node.input[1]]).reshape(-1).tolist())
    }


def fold(draft: Draft, kinds: Mapping[str, str], probes: Probes) -> None:
    """Values that do not depend on the data become constants: read off the probes.

    A value that follows the batch is kept where batch 1 broadcasts to any other; a Reshape or Expand to a computed shape gets
    the shape in ``0`` and ``-1`` terms.
    """
    producers = draft.producers()
    # What comes from one initialiser by the same steps is one constant, so that tied weights stay tied.
    same = {(s.initializer, s.steps): n for n, s in draft.sources.items() if s.initializer is not None}
    tied: dict[str, str] = {}
    for name, kind in kinds.items():
        if kind == "data" or name in draft.constants:
            continue
        seen = [np.asarray(v[name]) for v in probes.values if name in v]
        if kind == "constant" or all(_same(s, seen[0]) for s in seen):
            draft.constants[name] = seen[0]
            node = producers.get(name)
            draft.sources[name] = _folded(draft, node, seen[0]) if node is not None else Source(None)
            source = draft.sources[name]
            if source.initializer is not None:
                tied[name] = same.setdefault((source.initializer, source.steps), name)
        elif (single := _one_sample(seen)) is not None:
            draft.constants[name] = single
            draft.sources[name] = Source(None, reason="computed from the batch size")
            draft.shapes[name] = tuple(single.shape)
    draft.nodes = [n for n in draft.nodes if not all(v in draft.constants or not v for v in n.outputs)]
    for node in draft.nodes:
        wanted = node.input(1)
        if node.op_type in ("Reshape", "Expand") and kinds.get(wanted) == "shape" and wanted not in draft.constants:
            x = node.inputs[0]
            inputs = [np.shape(draft.constants[x] if x in draft.constants else v[x]) for v in probes.values]
            targets = [[int(d) for d in v[wanted]] for v in probes.values]
            node.inputs[1] = draft.constant(np.array(batch.symbolic(node.op_type, inputs, targets), np.int64))
            node.attributes.pop("allowzero", None)
        if node.op_type == "Resize" and node.input(3):
            resize.fix_sizes(draft, node, probes)
    draft.substitute({n: first for n, first in tied.items() if n != first})


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _one_sample(seen: list[np.ndarray]) -> np.ndarray | None:
    """A value that is one row repeated for each sample, as that row; None if it is not."""
    if any(s.ndim == 0 or s.shape[0] == 0 or s.shape[1:] != seen[0].shape[1:] for s in seen):
        return None
    row = seen[0][:1]
    return row if all(_same(s, np.repeat(row, len(s), axis=0)) for s in seen) and row.ndim > 1 else None


def _folded(draft: Draft, node: Node, array: np.ndarray) -> Source:
    """The way back through one folded node; its input is a constant by then, nodes being in order."""
    first = node.inputs[0] if node.inputs else ""
    others = [v for v in node.inputs[1:] if v]
    sources = [draft.sources[v] for v in node.inputs if v in draft.sources]
    reads = frozenset[str]().union(*(s.reads | ({s.initializer} if s.initializer else set()) for s in sources))
    if first not in draft.sources or first not in draft.constants:
        return Source(None, reason=f"computed by {node.op_type}", reads=reads)
    source, held = draft.sources[first], draft.constants[first]
    if node.op_type == "Identity" and source.initializer is not None and not source.steps and filled(array):
        # An exporter that merges equal tensors leaves an Identity for each: all those zeros and ones are not one weight.
        return Source(draft.origins[node.output].output)
    if node.op_type == "Identity" or (node.op_type == "Cast" and held.dtype == array.dtype):
        return source
    if node.op_type == "Transpose":
        perm = list(node.attributes.get("perm", range(held.ndim)[::-1]))
        return source.after(("transpose", tuple(int(i) for i in np.argsort(perm))))
    if node.op_type in ("Reshape", "Squeeze", "Unsqueeze", "Flatten"):
        return source.after(("reshape", tuple(held.shape)))
    what = f"behind {node.op_type}" if not others else f"computed by {node.op_type} from other constants"
    return Source(None, reason=what, reads=reads)


def drop(draft: Draft) -> None:
    """Identity, Dropout outside training and Cast to the type a value already has: readers read what went in."""
    aliases, kept = {}, []
    for node in draft.nodes:
        same_type = node.op_type == "Cast" and draft.dtypes.get(node.inputs[0]) == draft.dtypes.get(node.output)
        if node.op_type in ("Identity", "Dropout") or same_type:
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
            node.attributes["auto_pad"] = mode  # onnx2torch refuses it by name
            continue
        kernel = node.attributes.get("kernel_shape") or draft.shapes[node.inputs[1]][2:]
        strides = node.attributes.get("strides") or [1] * len(spatial)
        dilations = node.attributes.get("dilations") or [1] * len(spatial)
        begins, ends = [], []
        for size, k, s, d in zip(spatial, kernel, strides, dilations, strict=True):
            total = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
            small, large = total // 2, total - total // 2
            begins.append(small if mode == b"SAME_UPPER" else large)
            ends.append(large if mode == b"SAME_UPPER" else small)
        node.attributes["pads"] = begins + ends
