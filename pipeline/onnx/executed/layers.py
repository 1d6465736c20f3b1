"""Layers with what ONNX Runtime computes in the same kernel: constants folded into weights, a residual, an activation.

What is folded is charged in ``bounds/float32_sites.py`` (underflow and overflow of weights) and by the slack of every layer
(relative rounding), a residual by the sum's own count of the layer's terms: see ``pipeline/core/rounding.py``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.onnx.executed.activations import before_activation, other_activation
from pipeline.onnx.executed.folding import (
    ScaleShift,
    blocked_filters,
    executed_constant,
    is_near,
    pad_with_zeros,
    scale_shift,
    with_norm,
)
from pipeline.onnx.executed.graphs import NCHWC, GraphOperator
from pipeline.onnx.executed.matching import Matching, Pair, Steps, rewriting, skip_copies
from pipeline.onnx.executed.views import AS_IT_IS, BLOCKED


@rewriting("Conv", "com.microsoft.FusedConv", NCHWC + "Conv")
def convolution(matching: Matching, op: GraphOperator, index: int, pair: Pair) -> Steps:
    """A convolution that includes the scales, constants, residual and activation behind it, and the zero padding before it."""
    blocked = op.type.startswith(NCHWC)
    if pair.view != (BLOCKED if blocked else AS_IT_IS):
        return False
    file = before_activation(matching, op, pair.file)
    if file is None:
        return matching.refuse(op, other_activation(op))
    for start, residual in with_residual(matching, file, op.input(3)):
        tail, value, layer = scale_shift(matching.file, start)
        if layer is not None and layer.type == "Conv":
            in_blocks, data = _filters(matching, op, layer, tail), _data_input(matching, op, layer)
        else:
            tail, data = with_norm(matching.file, tail, value)
            in_blocks = _depthwise(matching, op, tail)
        if in_blocks is None:
            continue
        if data is None:
            matching.refuse(op, "its padding is not that of the file")
            continue
        if not (yield Pair(op.inputs[0], data, BLOCKED if in_blocks else AS_IT_IS)):
            continue
        if residual is None or (yield Pair(op.input(3), residual, pair.view)):
            return True
    return False


@rewriting("ConvTranspose")
def transposed_convolution(matching: Matching, op: GraphOperator, index: int, pair: Pair) -> Steps:
    """A transposed convolution with the scales and constants behind it; filters of shape ``(in, out / groups, *kernel)``."""
    tail, _, layer = scale_shift(matching.file, pair.file)
    if not pair.view.plain or layer is None or layer.type != "ConvTranspose" or tail.roundings == 0:
        return False
    array, bias = executed_constant(matching, op.inputs[1]), layer.input(2)
    if op.attributes != layer.attributes or array is None or layer.inputs[1] not in matching.file.constants:
        return False
    filters, groups = matching.file.constants[layer.inputs[1]].astype(np.float64), layer.attributes.get("group", 1)
    vectors = tail.by_channel(groups * filters.shape[1], filters.ndim)
    if vectors is None or (bias and bias not in matching.file.constants):
        return False
    scale, shift, size = vectors
    by_group = scale.reshape(groups, 1, filters.shape[1], *(1,) * (filters.ndim - 2))
    expected = (filters.reshape(groups, -1, *filters.shape[1:]) * by_group).reshape(filters.shape)
    file_bias = matching.file.constants[bias].astype(np.float64) if bias else np.zeros(())
    bias_array = executed_constant(matching, op.input(2)) if op.input(2) else np.zeros(())
    expected_bias, magnitude = file_bias * scale + shift, np.abs(file_bias * scale) + size
    if bias_array is None or array.shape != expected.shape or not is_near(array, expected, expected, tail.error):
        return False
    if not is_near(np.broadcast_to(bias_array, expected_bias.shape), expected_bias, magnitude, tail.error):
        return False
    return (yield Pair(op.inputs[0], layer.inputs[0]))


def with_residual(matching: Matching, file: str, other: str) -> Iterator[tuple[str, str | None]]:
    """``(value, residual)``: the summand that the layer computes, and the other one where the executed kernel adds ``other``."""
    if not other:
        yield file, None
        return
    _, total = skip_copies(matching.file, file)
    if total is not None and total.type in ("Add", "Sum") and len(total.inputs) == 2:
        yield total.inputs[0], total.inputs[1]
        yield total.inputs[1], total.inputs[0]


def _filters(matching: Matching, op: GraphOperator, layer: GraphOperator, tail: ScaleShift) -> bool | None:
    """Whether the input comes in blocks, where an executed convolution is the file's, with ``tail`` folded in; else None."""
    array = executed_constant(matching, op.inputs[1])
    if array is None or layer.inputs[1] not in matching.file.constants:
        return None
    filters = matching.file.constants[layer.inputs[1]].astype(np.float64)
    plain = {"dilations": (1,) * (filters.ndim - 2), "strides": (1,) * (filters.ndim - 2)}
    if any(op.attributes.get(s, plain[s]) != layer.attributes.get(s, plain[s]) for s in plain):
        return None
    groups, file_groups = op.attributes.get("group", 1), layer.attributes.get("group", 1)
    # With one channel a group, the groups are padded to whole blocks.
    depthwise = op.type.startswith(NCHWC) and filters.shape[:2] == (file_groups, 1)
    if groups != file_groups and not (depthwise and groups == array.shape[0] >= file_groups):
        return None
    return _filters_match(matching, op, array, filters, layer.input(2), tail)


def _depthwise(matching: Matching, op: GraphOperator, tail: ScaleShift) -> bool | None:
    """A BatchNormalization on its own, executed as a convolution of each channel by one number."""
    array = executed_constant(matching, op.inputs[1])
    if array is None or tail.roundings == 0 or not op.type.startswith(NCHWC):
        return None
    channels = tail.scale.size
    spatial = len(op.attributes.get("kernel_shape", (1, 1)))
    one_place = all(
        set(op.attributes.get(name, ())) <= {allowed}
        for name, allowed in (("kernel_shape", 1), ("strides", 1), ("dilations", 1), ("pads", 0))
    )
    # Channels are padded to whole blocks.
    if not one_place or op.attributes.get("group") != array.size or array.size < channels:
        return None
    return _filters_match(matching, op, array, np.ones((channels, 1, *(1,) * spatial)), "", tail)


def _filters_match(
    matching: Matching,
    op: GraphOperator,
    array: np.ndarray,
    filters: np.ndarray,
    bias: str,
    tail: ScaleShift,
) -> bool | None:
    """Whether the input comes in blocks, where the executed filters and bias are those given, scaled and shifted by ``tail``;
    None where they are not.
    """
    out, rank = filters.shape[0], filters.ndim
    vectors = tail.by_channel(out, rank)
    if vectors is None or (bias and bias not in matching.file.constants):
        return None
    scale, shift, size = vectors
    expected = filters * scale.reshape(-1, *(1,) * (rank - 1))
    if op.type.startswith(NCHWC):
        blocking = blocked_filters(array, expected, tail.error)
        if blocking is None:
            return None
        # Depthwise filters, of one input channel each, are not blocked along it, but their input is.
        inputs = blocking[0] or op.attributes.get("group", 1) > 1
    else:
        if array.shape != expected.shape or not is_near(array, expected, expected, tail.error):
            return None
        inputs = False
    file_bias = matching.file.constants[bias].astype(np.float64) if bias else np.zeros(out)
    bias_array = executed_constant(matching, op.input(2)) if op.input(2) else np.zeros(out)
    if bias_array is None or file_bias.shape != (out,):
        return None
    expected_bias = pad_with_zeros(file_bias * scale + shift, bias_array.size)
    magnitude = pad_with_zeros(np.abs(file_bias * scale) + size, bias_array.size)
    same = bias_array.shape == expected_bias.shape and is_near(bias_array, expected_bias, magnitude, tail.error)
    return inputs if same else None


def _data_input(matching: Matching, op: GraphOperator, layer: GraphOperator) -> str | None:
    """The file's value that an executed layer reads, behind a Pad that was joined to its own padding; None where they differ."""
    if same_padding(op, layer):
        return layer.inputs[0]
    _, pad = skip_copies(matching.file, layer.inputs[0])
    if pad is None or pad.type != "Pad" or (before := zero_pads(matching, pad)) is None:
        return None
    return pad.inputs[0] if pads_by_sum(op, layer, before) else None


def same_padding(op: GraphOperator, layer: GraphOperator) -> bool:
    """Whether two layers pad alike."""
    modes = [o.attributes.get("auto_pad", b"NOTSET") for o in (op, layer)]
    return modes[0] == modes[1] and _pads(op) == _pads(layer)


def pads_by_sum(op: GraphOperator, layer: GraphOperator, before: tuple[int, ...]) -> bool:
    """Whether an executed layer pads by the sum of the file's layer's own padding and that of a Pad before it."""
    if any(o.attributes.get("auto_pad", b"NOTSET") != b"NOTSET" for o in (op, layer)):
        return False
    pads, file_pads = _pads(op), _pads(layer) or (0,) * len(before)
    return (pads or (0,) * len(before)) == tuple(a + b for a, b in zip(file_pads, before, strict=True))


def _pads(op: GraphOperator) -> tuple[int, ...]:
    pads = tuple(op.attributes.get("pads", ()))
    return pads if any(pads) else ()


def zero_pads(matching: Matching, pad: GraphOperator) -> tuple[int, ...] | None:
    """The spatial padding ``(*before, *behind)`` of a Pad with zeros that pads neither batch nor channels; None for any other."""
    if pad.attributes.get("mode", b"constant") != b"constant" or pad.input(3):
        return None
    value, pads = pad.attributes.get("value", 0.0), pad.attributes.get("pads")
    if pad.input(1):
        if pad.input(1) not in matching.file.constants:
            return None
        pads = [int(i) for i in matching.file.constants[pad.input(1)].reshape(-1)]
    if pad.input(2):
        value = matching.file.constants[pad.input(2)].reshape(-1)[0] if pad.input(2) in matching.file.constants else 1
    half = len(pads or ()) // 2
    if value != 0 or not pads or half < 3 or any(pads[i] for i in (0, 1, half, half + 1)) or min(pads) < 0:
        return None
    return (*pads[2:half], *pads[half + 2 :])
