"""Layers with what ONNX Runtime computes in the same kernel: constants folded into weights, a residual, an activation.

What is folded is charged in ``bounds/float32_sites.py`` (underflow and overflow of weights) and by the slack of every layer
(relative rounding), a residual by the sum's own count of the layer's terms: see ``pipeline/core/rounding.py``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.onnx.executed.activations import before_activation, other_activation
from pipeline.onnx.executed.folding import Folded, blocked_filters, by_channel, folded, held, near, padded
from pipeline.onnx.executed.graphs import NCHWC, GraphOperator
from pipeline.onnx.executed.matching import Matching, Pair, Steps, behind, rewriting
from pipeline.onnx.executed.views import AS_IT_IS, BLOCKED


@rewriting("Conv", "com.microsoft.FusedConv", NCHWC + "Conv")
def convolution(at: Matching, own: GraphOperator, index: int, pair: Pair) -> Steps:
    """A convolution with the scales, constants, residual and activation behind it, and the zero padding before it."""
    blocked = own.type.startswith(NCHWC)
    if pair.view != (BLOCKED if blocked else AS_IT_IS):
        return False
    file = before_activation(at, own, pair.file)
    if file is None:
        return at.because(own, other_activation(own))
    for start, residual in with_residual(at, file, own.input(3)):
        behind_it, value, layer = folded(at.file, start)
        if layer is None:
            continue
        got = _filters(at, own, layer, behind_it) if layer.type == "Conv" else _depthwise(at, own, behind_it)
        if got is None:
            continue
        data = _unpadded(at, own, layer) if layer.type == "Conv" else value
        if data is None:
            at.because(own, "its padding is not that of the file")
            continue
        if not (yield Pair(own.inputs[0], data, BLOCKED if got else AS_IT_IS)):
            continue
        if residual is None or (yield Pair(own.input(3), residual, pair.view)):
            return True
    return False


@rewriting("ConvTranspose")
def transposed_convolution(at: Matching, own: GraphOperator, index: int, pair: Pair) -> Steps:
    """A transposed convolution with the scales and constants behind it; its filters hold output channels second, by group."""
    scales, _, layer = folded(at.file, pair.file)
    if not pair.view.plain or layer is None or layer.type != "ConvTranspose" or scales.roundings == 0:
        return False
    got, bias = held(at, own.inputs[1]), layer.input(2)
    if own.attributes != layer.attributes or got is None or layer.inputs[1] not in at.file.constants:
        return False
    filters, groups = at.file.constants[layer.inputs[1]].astype(np.float64), layer.attributes.get("group", 1)
    parts = [
        by_channel(v, groups * filters.shape[1], filters.ndim, 1) for v in (scales.scale, scales.shift, scales.size)
    ]
    scale, shift, size = parts
    if scale is None or shift is None or size is None or (bias and bias not in at.file.constants):
        return False
    by_group = scale.reshape(groups, 1, filters.shape[1], *(1,) * (filters.ndim - 2))
    wanted = (filters.reshape(groups, -1, *filters.shape[1:]) * by_group).reshape(filters.shape)
    kept = at.file.constants[bias].astype(np.float64) if bias else np.zeros(())
    given = held(at, own.input(2)) if own.input(2) else np.zeros(())
    total, most = kept * scale + shift, np.abs(kept * scale) + size
    if given is None or got.shape != wanted.shape or not near(got, wanted, wanted, scales.error):
        return False
    if not near(np.broadcast_to(given, total.shape), total, most, scales.error):
        return False
    return (yield Pair(own.inputs[0], layer.inputs[0]))


def with_residual(at: Matching, file: str, other: str) -> Iterator[tuple[str, str | None]]:
    """Where the layer's own part of a value begins, and the other summand, where the kernel adds one."""
    if not other:
        yield file, None
        return
    _, total = behind(at.file, file)
    if total is not None and total.type in ("Add", "Sum") and len(total.inputs) == 2:
        yield total.inputs[0], total.inputs[1]
        yield total.inputs[1], total.inputs[0]


def _filters(at: Matching, own: GraphOperator, layer: GraphOperator, scales: Folded) -> bool | None:
    """Whether the input comes in blocks, where filters, bias and settings are the file's, folded; None where they are not."""
    if layer.inputs[1] not in at.file.constants or (got := held(at, own.inputs[1])) is None:
        return None
    filters = at.file.constants[layer.inputs[1]].astype(np.float64)
    plain = {"dilations": (1,) * (filters.ndim - 2), "strides": (1,) * (filters.ndim - 2)}
    if any(own.attributes.get(s, plain[s]) != layer.attributes.get(s, plain[s]) for s in plain):
        return None
    mine, theirs = own.attributes.get("group", 1), layer.attributes.get("group", 1)
    # One channel a group: these are counted in whole blocks.
    whole = own.type.startswith(NCHWC) and filters.shape[:2] == (theirs, 1) and mine == got.shape[0] >= theirs
    if mine != theirs and not whole:
        return None
    return _folded_into(at, own, got, filters, layer.input(2), scales)


def _depthwise(at: Matching, own: GraphOperator, scales: Folded) -> bool | None:
    """A BatchNormalization on its own, executed as a convolution of each channel by one number."""
    if not own.type.startswith(NCHWC) or scales.roundings == 0 or (got := held(at, own.inputs[1])) is None:
        return None
    channels = scales.scale.size
    spatial = len(own.attributes.get("kernel_shape", (1, 1)))
    one_place = all(
        set(own.attributes.get(name, ())) <= {allowed}
        for name, allowed in (("kernel_shape", 1), ("strides", 1), ("dilations", 1), ("pads", 0))
    )
    # Channels are counted in whole blocks.
    if not one_place or own.attributes.get("group") != got.size or got.size < channels:
        return None
    return _folded_into(at, own, got, np.ones((channels, 1, *(1,) * spatial)), "", scales)


def _folded_into(
    at: Matching, own: GraphOperator, got: np.ndarray, filters: np.ndarray, bias: str, scales: Folded
) -> bool | None:
    out, rank = filters.shape[0], filters.ndim
    parts = [by_channel(v, out, rank, 1) for v in (scales.scale, scales.shift, scales.size)]
    scale, shift, size = parts
    if scale is None or shift is None or size is None or (bias and bias not in at.file.constants):
        return None
    wanted = filters * scale.reshape(-1, *(1,) * (rank - 1))
    if own.type.startswith(NCHWC):
        found = blocked_filters(got, wanted, scales.error)
        if found is None:
            return None
        # Filters of one input channel each are no blocks, but read blocks where there is one for each output channel.
        inputs = found[0] or own.attributes.get("group", 1) > 1
    else:
        if got.shape != wanted.shape or not near(got, wanted, wanted, scales.error):
            return None
        inputs = False
    kept = at.file.constants[bias].astype(np.float64) if bias else np.zeros(out)
    given = held(at, own.input(2)) if own.input(2) else np.zeros(out)
    if given is None or kept.shape != (out,):
        return None
    total, most = padded(kept * scale + shift, given.size), padded(np.abs(kept * scale) + size, given.size)
    return inputs if given.shape == total.shape and near(given, total, most, scales.error) else None


def _unpadded(at: Matching, own: GraphOperator, layer: GraphOperator) -> str | None:
    """What a layer reads, where padding before it was joined to its own; None where the places differ."""
    if same_padding(own, layer):
        return layer.inputs[0]
    _, pad = behind(at.file, layer.inputs[0])
    if pad is None or pad.type != "Pad" or (before := zero_pads(at, pad)) is None:
        return None
    return pad.inputs[0] if joined(own, layer, before) else None


def same_padding(own: GraphOperator, layer: GraphOperator) -> bool:
    """Whether two layers pad alike."""
    modes = [o.attributes.get("auto_pad", b"NOTSET") for o in (own, layer)]
    return modes[0] == modes[1] and _pads(own) == _pads(layer)


def joined(own: GraphOperator, layer: GraphOperator, before: tuple[int, ...]) -> bool:
    """Whether an executed layer pads by its own numbers and those of a Pad before it."""
    if any(o.attributes.get("auto_pad", b"NOTSET") != b"NOTSET" for o in (own, layer)):
        return False
    mine, theirs = _pads(own), _pads(layer) or (0,) * len(before)
    return (mine or (0,) * len(before)) == tuple(a + b for a, b in zip(theirs, before, strict=True))


def _pads(own: GraphOperator) -> tuple[int, ...]:
    pads = tuple(own.attributes.get("pads", ()))
    return pads if any(pads) else ()


def zero_pads(at: Matching, pad: GraphOperator) -> tuple[int, ...] | None:
    """By how much a Pad with zeros widens the places of a picture, before and behind; None for any other Pad."""
    if pad.attributes.get("mode", b"constant") != b"constant" or pad.input(3):
        return None
    value, given = pad.attributes.get("value", 0.0), pad.attributes.get("pads")
    if pad.input(1):
        if pad.input(1) not in at.file.constants:
            return None
        given = [int(i) for i in at.file.constants[pad.input(1)].reshape(-1)]
    if pad.input(2):
        value = at.file.constants[pad.input(2)].reshape(-1)[0] if pad.input(2) in at.file.constants else 1
    half = len(given or ()) // 2
    if value != 0 or not given or half < 3 or any(given[i] for i in (0, 1, half, half + 1)) or min(given) < 0:
        return None
    return (*given[2:half], *given[half + 2 :])
