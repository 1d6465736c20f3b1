"""Constant folding: values that do not depend on the data become constants, read from the probes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.onnx.batch.axis import BatchAxis
from pipeline.onnx.batch.trace import BatchTrace
from pipeline.onnx.ir import ConstantSource, Draft, Node, all_equal
from pipeline.onnx.passes import free_batch, resize
from pipeline.onnx.probe import Probes


def fold(draft: Draft, kinds: Mapping[str, str], probes: Probes, trace: BatchTrace | None) -> None:
    """Make constants of the values that do not depend on the data, as the probes measured them.

    ``trace`` tells which of them are the same at every batch size; without it, only the probes do. One that repeats a row for
    each sample becomes that row, which broadcasts to any batch size. A computed target of Reshape or Expand is written with
    ``0`` and ``-1`` (``free_batch.symbolic``). ``kinds``: what each computed value depends on (``probe.dependence``).
    """
    producers = draft.producers()
    # Constants that come from one initialiser by the same steps become one, so that tied weights stay tied.
    first_constants = {(s.initializer, s.steps): n for n, s in draft.sources.items() if s.initializer is not None}
    aliases: dict[str, str] = {}
    for name, kind in kinds.items():
        if kind == "data" or name in draft.constants:
            continue
        measured = [np.asarray(v[name]) for v in probes.values if name in v]
        if (trace is None or name in trace.constant) and all(_equal(s, measured[0]) for s in measured):
            draft.constants[name] = measured[0]
            node = producers.get(name)
            draft.sources[name] = (
                _source_of_folded(draft, node, measured[0]) if node is not None else ConstantSource(None)
            )
            source = draft.sources[name]
            if source.initializer is not None:
                aliases[name] = first_constants.setdefault((source.initializer, source.steps), name)
        elif (trace is None or _same_for_every_sample(trace, name)) and (single := _one_sample(measured)) is not None:
            draft.constants[name] = single
            draft.sources[name] = ConstantSource(None, reason="computed from the batch size")
            draft.shapes[name] = tuple(single.shape)
    draft.nodes = [n for n in draft.nodes if not all(v in draft.constants or not v for v in n.outputs)]
    for node in draft.nodes:
        target = node.input(1)
        if node.op_type in ("Reshape", "Expand") and kinds.get(target) == "shape" and target not in draft.constants:
            x = node.inputs[0]
            inputs = [np.shape(draft.constants[x] if x in draft.constants else v[x]) for v in probes.values]
            targets = [[int(d) for d in v[target]] for v in probes.values]
            node.inputs[1] = draft.constant(np.array(free_batch.symbolic(node.op_type, inputs, targets), np.int64))
            node.attributes.pop("allowzero", None)
        sizes = node.input(3) if node.op_type == "Resize" else ""
        if sizes in draft.constants or kinds.get(sizes) == "shape":
            resize.fix_sizes(draft, node, probes)
    draft.substitute({n: first for n, first in aliases.items() if n != first})


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _same_for_every_sample(trace: BatchTrace, name: str) -> bool:
    """Whether every sample has the same row of a value."""
    return name in trace.symbolic and trace.symbolic[name].uniform and trace.symbolic[name].batch_axis == BatchAxis(0)


def _one_sample(measured: list[np.ndarray]) -> np.ndarray | None:
    """The row that a value repeats for each sample, in every probe; None where it does not."""
    if any(s.ndim == 0 or s.shape[0] == 0 or s.shape[1:] != measured[0].shape[1:] for s in measured):
        return None
    row = measured[0][:1]
    return row if all(_equal(s, np.repeat(row, len(s), axis=0)) for s in measured) and row.ndim > 1 else None


def _source_of_folded(draft: Draft, node: Node, array: np.ndarray) -> ConstantSource:
    """The source of the folded output ``array`` of a node; nodes are in order, so its inputs are constants by now."""
    first = node.inputs[0] if node.inputs else ""
    others = [v for v in node.inputs[1:] if v]
    sources = [draft.sources[v] for v in node.inputs if v in draft.sources]
    reads = frozenset[str]().union(*(s.reads | ({s.initializer} if s.initializer else set()) for s in sources))
    if first not in draft.sources or first not in draft.constants:
        return ConstantSource(None, reason=f"computed by {node.op_type}", reads=reads)
    source, first_array = draft.sources[first], draft.constants[first]
    if node.op_type == "Identity" and source.initializer is not None and not source.steps and all_equal(array):
        # An exporter that merges equal tensors leaves an Identity for each: all those zeros and ones are not one weight.
        return ConstantSource(draft.origins[node.output].output)
    if node.op_type == "Identity" or (node.op_type == "Cast" and first_array.dtype == array.dtype):
        return source
    if node.op_type == "Transpose":
        perm = list(node.attributes.get("perm", range(first_array.ndim)[::-1]))
        return source.after(("transpose", tuple(int(i) for i in np.argsort(perm))))
    if node.op_type in ("Reshape", "Squeeze", "Unsqueeze", "Flatten"):
        return source.after(("reshape", tuple(first_array.shape)))
    reason = f"behind {node.op_type}" if not others else f"computed by {node.op_type} from other constants"
    return ConstantSource(None, reason=reason, reads=reads)
