"""Lowerings of pooling: every stride, padding and rounding of ONNX, by modules that pad symmetrically.

Window ``i`` of an axis covers ``[i s - b, i s - b + d (k - 1)]``, with stride ``s``, dilation ``d``, kernel ``k`` and ``b`` the
padding before; the number ``n`` of windows is measured by a run of ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from pipeline.core import ops
from pipeline.onnx.ir import Node
from pipeline.onnx.lowering.lower import Item, operator
from pipeline.onnx.operators import Unsupported

_MAX = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
_AVERAGE = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
LOWEST = float(torch.finfo(torch.float32).min)


@dataclass(frozen=True)
class _Axis:
    size: int
    kernel: int
    stride: int
    dilation: int
    begin: int
    end: int
    count: int

    @property
    def extent(self) -> int:
        return self.dilation * (self.kernel - 1) + 1

    def sees_padding_alone(self) -> bool:
        """Whether some window contains no entry of the input."""
        first = (i * self.stride - self.begin for i in range(self.count))
        return not all(any(0 <= f + self.dilation * j < self.size for j in range(self.kernel)) for f in first)

    def torch_count(self, padding: int, ceil: bool) -> int:
        """How many windows torch has; with ``ceil`` one may reach beyond the end if it begins inside or in the left padding."""
        span = self.size + 2 * padding - self.extent
        n = (-(-span // self.stride) if ceil else span // self.stride) + 1
        return n - 1 if ceil and (n - 1) * self.stride >= self.size + padding else n

    def symmetric(self, ceil: bool) -> tuple[int, int] | None:
        """``(padding, skipped)``: symmetric padding with which torch's windows contain these, behind ``skipped`` others."""
        for skipped in range(self.kernel):
            padding = self.begin + skipped * self.stride
            if padding > self.kernel // 2:
                return None
            if self.torch_count(padding, ceil) - skipped >= self.count:
                return padding, skipped
        return None


def _axes(item: Item) -> list[_Axis]:
    size = item.shape()[2:]
    kernel = item.attribute("kernel_shape")
    rank = len(size)
    pads = item.attribute("pads") or [0] * 2 * rank
    out = item.build.shapes[item.node.outputs[0]][2:]
    strides, dilations = item.attribute("strides") or [1] * rank, item.attribute("dilations") or [1] * rank
    if rank not in _MAX:
        raise Unsupported(f"it pools over {rank} axes")
    axes = [_Axis(*a) for a in zip(size, kernel, strides, dilations, pads[:rank], pads[rank:], out, strict=True)]
    if any(axis.extent > axis.size + axis.begin + axis.end for axis in axes):
        raise Unsupported("its window is larger than its input")
    if any(axis.sees_padding_alone() for axis in axes):
        raise Unsupported("a window lies in the padding alone")
    return axes


_WINDOW = ("auto_pad", "kernel_shape", "pads", "strides", "dilations")


def windows(node: Node, opset: int) -> str | None:
    """Why a node is refused whose padding ONNX does not define, so that runtimes differ; None for any other."""
    automatic = node.attributes.peek("auto_pad", b"NOTSET") not in (b"NOTSET", b"")
    if automatic and any(node.attributes.peek("pads", ())):
        return "it has pads beside auto_pad, of which one counts"
    if automatic and "Pool" in node.op_type and set(node.attributes.peek("dilations", ())) - {1}:
        return "its auto_pad is not supported together with dilations"
    return None


_MEASURED = {"ceil_mode": "how many windows there are was measured"}


@operator(
    "MaxPool", reads=_WINDOW, inert={**_MEASURED, "storage_order": "of the output Indices alone"}, refuses=windows
)
def _max_pool(item: Item) -> fx.Node:
    """With symmetric padding where torch's windows contain ONNX's, the others being sliced off; else behind an explicit Pad."""
    axes = _axes(item)
    settings: dict[str, Any] = {
        "kernel_size": tuple(a.kernel for a in axes),
        "stride": tuple(a.stride for a in axes),
        "dilation": tuple(a.dilation for a in axes),
    }
    for ceil in (False, True):
        paddings = [a.symmetric(ceil) for a in axes]
        if all(f is not None for f in paddings):
            choices = [f for f in paddings if f is not None]
            pool = _MAX[len(axes)](**settings, padding=tuple(p for p, _ in choices), ceil_mode=ceil)
            y = item.build.emit(pool, item.arg())
            torch_counts = [a.torch_count(p, ceil) for a, (p, _) in zip(axes, choices, strict=True)]
            return _crop(item, y, [s for _, s in choices], [a.count for a in axes], torch_counts)
    # Padding with the most negative finite float32 never changes a maximum, and keeps bounds finite.
    x = item.build.emit(ops.Pad(_around(axes), value=LOWEST), item.arg())
    return item.build.emit(_MAX[len(axes)](**settings), x)


@operator("AveragePool", reads=[*_WINDOW, "count_include_pad"], inert=_MEASURED, refuses=windows)
def _average_pool(item: Item) -> fx.Node:
    """With symmetric padding where it suffices; else zeros around, and the mean of full windows times kernel size over count."""
    axes = _axes(item)
    if any(a.dilation != 1 for a in axes):
        raise Unsupported("it is dilated")
    include = item.flag("count_include_pad")
    kernel, stride = tuple(a.kernel for a in axes), tuple(a.stride for a in axes)
    plain = all(
        a.begin == a.end and a.torch_count(a.begin, False) == a.count and 2 * a.begin <= a.kernel <= a.size
        for a in axes
    )
    make = _AVERAGE[len(axes)]
    if plain:
        padding = tuple(a.begin for a in axes)
        return item.build.emit(make(kernel, stride, padding, count_include_pad=include), item.arg())
    x = item.build.emit(ops.Pad(_around(axes)), item.arg())
    y = item.build.emit(make(kernel, stride), x)
    ones = torch.ones([1, 1, *(a.size + (a.begin + a.end if include else 0) for a in axes)], dtype=torch.float64)
    around = _around(axes)
    if include:
        # The declared padding counts; what rounding up adds beyond it does not.
        order = [(0, around[2 * i + 1] - a.end) for i, a in enumerate(reversed(axes))]
        around = [p for pair in order for p in pair]
    share = F.pad(ones, around)
    for i, a in enumerate(axes):
        share = share.unfold(2 + i, a.kernel, a.stride)
    factor = 1.0 / share.mean(dim=tuple(range(2 + len(axes), 2 + 2 * len(axes))))
    if bool((factor == 1.0).all()):
        return y
    return item.build.emit(ops.Mul(), y, item.build.literal(factor, item.build.dtype(item.node.inputs[0])))


def _around(axes: Sequence[_Axis]) -> list[int]:
    """Padding, in torch's order, with which exactly these windows fit; negative where the last one ends before the edge."""
    pads: list[int] = []
    for a in reversed(axes):
        pads += [a.begin, (a.count - 1) * a.stride + a.extent - a.size - a.begin]
    return pads


def _crop(item: Item, y: fx.Node, skipped: list[int], count: list[int], torch_counts: list[int]) -> fx.Node:
    cropped = [i for i in range(len(count)) if skipped[i] or torch_counts[i] != count[i]]
    if not cropped:
        return y
    starts, ends = [skipped[i] for i in cropped], [skipped[i] + count[i] for i in cropped]
    return item.build.emit(ops.Slice(starts, ends, [2 + i for i in cropped], [1] * len(cropped)), y)
