"""Resize and its forerunner Upsample before they are lowered: what older opsets meant, and sizes that are computed."""

from __future__ import annotations

import numpy as np
import onnx

from pipeline.errors import InputRejected
from pipeline.graph.draft import Draft, Node
from pipeline.graph.probe import Probes


def before_opset_11(model: onnx.ModelProto) -> dict[str, str]:
    """How each Upsample and Resize picks the nearest entry, by output value: down where an axis grows, up where it shrinks.

    Raises InputRejected where one does both, which no Resize of a later opset says, or where its scales are computed.
    """
    constants = {t.name: t for t in model.graph.initializer}
    constants |= {
        n.output[0]: a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute if a.HasField("t")
    }
    found = {}
    for node in model.graph.node:
        if node.op_type not in ("Upsample", "Resize"):
            continue
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        nearest = given.get("mode", b"nearest") == b"nearest"
        scales = given.get("scales")
        if scales is None and len(node.input) > 1 and node.input[1] in constants:
            scales = onnx.numpy_helper.to_array(constants[node.input[1]]).reshape(-1)
        shrinks = scales is not None and bool(np.any(np.asarray(scales) < 1))
        if nearest and (scales is None or (shrinks and np.any(np.asarray(scales) > 1))):
            raise InputRejected(
                f"{node.op_type} before opset 11 rounds down where an axis grows and up where it shrinks; "
                + ("one has computed scales" if scales is None else "one has axes of both kinds")
                + ", which is not supported. Export the model at opset 11 or later."
            )
        found[node.output[0]] = "ceil" if shrinks else "floor"
    return found


def fix_sizes(draft: Draft, node: Node, probes: Probes) -> None:
    """Sizes without that of the batch, where it is the input's in every probe, as a constant where the others never change."""
    x, sizes = node.inputs[0], node.input(3)
    rank = len(draft.shapes[x])
    axes = [a % rank for a in node.attributes.get("axes") or range(rank)]
    seen = np.stack([np.asarray(v[sizes] if sizes in v else draft.constants[sizes]) for v in probes.values])
    batches = [np.shape(v[x])[0] for v in probes.values]
    if 0 in axes and seen[:, axes.index(0)].tolist() == batches:
        seen = np.delete(seen, axes.index(0), axis=1)
        axes.remove(0)
    if all(len(set(column)) == 1 for column in seen.T):
        node.attributes["axes"], node.inputs[3] = axes, draft.constant(seen[0])
