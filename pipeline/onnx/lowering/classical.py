"""Lowerings of operators of the domain ai.onnx.ml, as in exports of scikit-learn."""

from __future__ import annotations

import numpy as np
import torch
from torch import fx, nn

from pipeline.core import ops
from pipeline.onnx.chosen_output import classes_of
from pipeline.onnx.lowering.lower import Item, operator
from pipeline.onnx.names import shown
from pipeline.onnx.operators import Unsupported

DOMAIN = "ai.onnx.ml"


def _literal(item: Item, values: list[float]) -> fx.Node:
    return item.build.literal(torch.from_numpy(np.array(values, np.float32)), torch.float32)


@operator("Scaler", reads=["offset", "scale"])
def _scaler(item: Item) -> fx.Node:
    """``(x - offset) scale``; each is one number for all features or one for each."""
    x = item.arg()
    if offset := item.attribute("offset"):
        x = item.build.emit(ops.Sub(), x, _literal(item, offset))
    if scale := item.attribute("scale"):
        x = item.build.emit(ops.Mul(), x, _literal(item, scale))
    return x


@operator("Normalizer", reads=["norm"])
def _normalizer(item: Item) -> fx.Node:
    """Each sample divided by its norm; where that may be zero there is no bound."""
    norm, x = item.attribute("norm"), item.arg()
    if item.rank(0) != 2:
        raise Unsupported("it takes samples that are no vectors")
    if norm == b"MAX":
        size = item.build.emit(ops.ReduceMax([1], keepdim=True), x)
    elif norm == b"L1":
        size = item.build.emit(ops.ReduceSum([1], keepdim=True), item.build.emit(ops.Abs(), x))
    elif norm == b"L2":
        square = item.build.emit(ops.Pow(), x, item.build.literal(2.0, torch.float32))
        total = item.build.emit(ops.ReduceSum([1], keepdim=True), square)
        size = item.build.emit(ops.RootOfSquares(), total)
    else:
        raise Unsupported(f"norm {shown(str(norm))}")
    return item.build.emit(ops.WholeKernel("Normalizer"), item.build.emit(ops.GuardedQuotient(), x, size))


@operator(
    "ZipMap",
    reads=["classlabels_int64s", "classlabels_strings"],
    refuses=lambda node, opset: (
        None
        if classes_of(node.attributes)
        else "its classes are not in ascending order, so that its map does not give them in the order of its array"
    ),
)
def _zip_map(item: Item) -> fx.Node:
    """Of those that ``normalise.drop`` did not replace by the array that they read."""
    raise Unsupported("what it reads is no matrix of a row for each sample and a column for each class")


@operator(
    "LinearClassifier",
    reads=["coefficients", "intercepts", "post_transform"],
    inert=dict.fromkeys(("classlabels_ints", "classlabels_strings", "multi_class"), "of the labels alone"),
    outputs=2,
)
def _linear_classifier(item: Item) -> list[fx.Node]:
    """The scores ``x C^T + b``, behind a Softmax or Sigmoid as ``post_transform`` says; the labels have no bounds."""
    if item.node.outputs[0]:
        raise Unsupported("its labels are read; name the output of its scores with --output")
    coefficients, features = np.array(item.attribute("coefficients"), np.float32), item.shape()[1]
    rows = coefficients.reshape(-1, features)
    if len(rows) != item.build.shapes[item.node.outputs[1]][1]:
        raise Unsupported("it has one row of coefficients for two classes")
    scores = item.build.emit(
        ops.MatMul(), item.arg(), item.build.literal(torch.from_numpy(rows.T.copy()), torch.float32)
    )
    if intercepts := item.attribute("intercepts"):
        scores = item.build.emit(ops.Add(), scores, _literal(item, intercepts))
    transform = item.attribute("post_transform")
    if transform == b"NONE":
        return [scores, scores]
    # The classifier's own kernel computes what follows, not that of Softmax or Sigmoid.
    scores = item.build.emit(ops.WholeKernel("LinearClassifier"), scores)
    if transform == b"SOFTMAX":
        scores = item.build.emit(nn.Softmax(-1), scores)
    elif transform == b"LOGISTIC":
        scores = item.build.emit(nn.Sigmoid(), scores)
    else:
        raise Unsupported(f"post_transform {shown(str(transform))}")
    return [scores, scores]
