"""Resize and its predecessor Upsample before they are lowered: the forms of older opsets, and computed sizes."""

from __future__ import annotations

import numpy as np

from pipeline.onnx.ir import Draft, Node
from pipeline.onnx.operators import Unsupported
from pipeline.onnx.passes.opset_forms import attributes_to_inputs, form
from pipeline.onnx.probe import Probes


@form("Upsample", last=8)
def _scales(draft: Draft, node: Node) -> None:
    attributes_to_inputs(draft, node, "scales", dtype=np.float32)


@form("Resize", "Upsample", last=10)
def _before_opset_11(draft: Draft, node: Node) -> list[Node]:
    """Coordinates were asymmetric, and nearest rounded them down where an axis grows and up where it shrinks."""
    x, name = node.inputs
    nearest, scales = node.attributes.peek("mode", b"nearest") == b"nearest", draft.constants.get(name)
    shrinks = scales is not None and bool((scales < 1).any())
    if nearest and (scales is None or (shrinks and bool((scales > 1).any()))):
        raise Unsupported(
            "before opset 11 it rounds down where an axis grows and up where it shrinks, and "
            + ("its scales are computed" if scales is None else "it has axes of both kinds")
        )
    settings = {"coordinate_transformation_mode": b"asymmetric", "nearest_mode": b"ceil" if shrinks else b"floor"}
    return [Node("Resize", [x, "", name], list(node.outputs), node.attributes | settings)]


def fix_sizes(draft: Draft, node: Node, probes: Probes) -> None:
    """Make computed sizes a constant where those of all axes but the batch are the same in every probe."""
    x, sizes = node.inputs[0], node.input(3)
    rank = len(draft.shapes[x])
    axes = [a % rank for a in node.attributes.get("axes") or range(rank)]
    measured = np.stack([np.asarray(v[sizes] if sizes in v else draft.constants[sizes]) for v in probes.values])
    batches = [np.shape(v[x] if x in v else draft.constants[x])[0] for v in probes.values]
    if 0 in axes and measured[:, axes.index(0)].tolist() == batches:
        measured = np.delete(measured, axes.index(0), axis=1)
        axes.remove(0)
    if axes and all(len(set(column)) == 1 for column in measured.T):
        node.attributes["axes"], node.inputs[3] = axes, draft.constant(measured[0])
