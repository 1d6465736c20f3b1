"""Lowerings of DepthToSpace, SpaceToDepth and transposed convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from pipeline.core import ops
from pipeline.onnx.lowering.lower import Item, operator
from pipeline.onnx.lowering.pools import windows
from pipeline.onnx.operators import Unsupported

_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@operator("DepthToSpace", reads=["blocksize", "mode"])
def _depth_to_space(item: Item) -> fx.Node:
    mode = item.attribute("mode")
    if mode not in (b"DCR", b"CRD"):
        raise Unsupported("its mode is neither DCR nor CRD")
    return item.build.emit(ops.DepthToSpace(item.attribute("blocksize"), columns_first=mode == b"CRD"), item.arg())


@operator("SpaceToDepth", reads=["blocksize"])
def _space_to_depth(item: Item) -> fx.Node:
    return item.build.emit(ops.SpaceToDepth(item.attribute("blocksize")), item.arg())


@operator(
    "ConvTranspose",
    reads=["auto_pad", "pads", "strides", "dilations", "group", "output_padding", "output_shape"],
    inert={"kernel_shape": "the weight has it; a runtime refuses a file where they differ"},
    inputs=3,
    weights={1: "weight", 2: "bias"},
    trains=True,
    refuses=windows,
)
def _conv_transpose(item: Item) -> fx.Node:
    """``output_shape`` and ``auto_pad`` determine the length of the result, and hence how much is cut off at its two ends.

    Half is cut off at each end; of an odd number the larger half in front, for SAME_UPPER at the end (ONNX ConvTranspose).
    """
    weights, size = item.weights(), item.shape()[2:]
    if "weight" not in weights or (item.node.input(2) and "bias" not in weights):
        raise Unsupported("its weights are computed, not constant")
    shape, rank, group = item.build.constants[weights["weight"]].shape, len(size), int(item.attribute("group"))
    if rank not in _TRANSPOSED:
        raise Unsupported(f"it convolves over {rank} axes")
    strides, dilations = item.attribute("strides") or [1] * rank, item.attribute("dilations") or [1] * rank
    output_padding, pads = item.attribute("output_padding") or [0] * rank, item.attribute("pads") or [0] * 2 * rank
    auto_pad, out = item.attribute("auto_pad"), item.build.shapes[item.node.outputs[0]][2:]
    fixed_size = bool(item.attribute("output_shape")) or auto_pad in (b"SAME_UPPER", b"SAME_LOWER")
    crops = []
    for i, (n, k, s, d, o) in enumerate(zip(size, shape[2:], strides, dilations, out, strict=True)):
        full, head = (n - 1) * s + d * (k - 1) + 1, pads[i]
        if fixed_size:
            excess = max(0, full + output_padding[i] - o)
            head = excess // 2 if auto_pad == b"SAME_UPPER" else excess - excess // 2
        crops.append(_Crop.of(full, head, o, max(s, d)))
    make: Any = _TRANSPOSED[rank]
    module = make(
        shape[0],
        shape[1] * group,
        tuple(shape[2:]),
        stride=tuple(strides),
        padding=tuple(c.padding for c in crops),
        output_padding=tuple(c.added for c in crops),
        groups=group,
        bias="bias" in weights,
        dilation=tuple(dilations),
    )
    y = item.build.emit(module, item.arg(), weights=weights)
    cropped = [i for i, c in enumerate(crops) if c.start or c.length != out[i]]
    if not cropped:
        return y
    starts = [crops[i].start for i in cropped]
    ends = [start + out[i] for start, i in zip(starts, cropped, strict=True)]
    return item.build.emit(ops.Slice(starts, ends, [2 + i for i in cropped], [1] * len(cropped)), y)


@dataclass(frozen=True)
class _Crop:
    """One axis of a transposed convolution: with ``padding`` and output padding ``added`` torch computes ``length`` entries, of
    which the result begins at ``start``.
    """

    padding: int
    added: int
    start: int
    length: int

    @staticmethod
    def of(full: int, head: int, out: int, limit: int) -> _Crop:
        """Of ``full`` entries without padding, ``head`` are cut off in front and ``out`` remain.

        Raises Unsupported where the output padding would be ``limit`` or more, which torch does not accept.
        """
        tail = full - head - out
        plain = 0 <= head - tail < limit
        padding, added = (head, head - tail) if plain else (max(0, min(head, tail)), max(0, -tail))
        if added >= limit:
            raise Unsupported(
                f"output_shape adds {added} entries behind the last, of an axis where {limit - 1} can be added"
            )
        return _Crop(padding, added, head - padding, full - 2 * padding + added)
