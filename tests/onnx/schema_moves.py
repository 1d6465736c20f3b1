"""Operands of operators that move, pick or cut entries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tests.onnx.schema_values import Operand, Shape, i64, sizes_of

Operands = Iterator[Sequence[Operand]]


def _axes(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Operands:
    """Squeeze and Unsqueeze: an attribute until opset 12."""
    yield ["x"]
    if opset >= 13:
        rank = len(shape)
        yield from (["x", i64(a)] for a in range(-rank - 1, rank + 1))
        yield from (["x", i64(1, 2)], ["x", i64(-1, 1)], ["x", i64(2, 0)], ["x", i64(1, 3)])


def _reshape(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Operands:
    own, rank = sizes_of(shape), len(shape)
    rest = int(np.prod(own[1:]))
    yield from (
        ["x", i64(*t)] for t in ([0, -1], [-1, rest], [-1], [0, rest], [0, 2, -1], [2, -1], [-1, *own[1:]][:rank])
    )
    yield from (
        ["x", i64(*t)] for t in ([-1, own[-1]], [0] * rank, [1, -1], [0, *own[:0:-1]], [0, 1, *own[1:]], [*own])
    )


def _slice(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Operands:
    if opset < 10:
        yield ["x"]
        return
    far = 2**62
    yield from (["x", i64(1), i64(3), i64(axis)] for axis in range(-len(shape), len(shape)))
    yield from (
        ["x", i64(a), i64(b), i64(-1), i64(s)]
        for a, b, s in ((0, far, 2), (-1, -far, -1), (4, 0, -2), (-3, -1, 1), (1, far, 3))
    )
    yield from (
        ["x", i64(1), i64(2)],
        ["x", i64(0, 1), i64(far, 3)],
        ["x", i64(0, 1), i64(1, -1), i64(0, -1), i64(1, 1)],
    )


def _split(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Operands:
    yield ["x"]
    if opset >= 13:
        yield from (["x", i64(*sizes)] for sizes in ((1, 3), (3, 4), (4, 1), (1, 1, 2), (3, 3), (2, 1)))


def _pad(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Operands:
    rank = len(shape)
    if opset < 11:
        yield ["x"]
        return
    value = np.array(0.7, np.float32)
    inside = [0, 0, 1, 2, 1][:rank] + [0, 0, 2, 0, 1][:rank]
    yield from (["x", i64(*inside)], ["x", i64(*inside), value], ["x", i64(*[-p for p in inside]), value])
    yield from (["x", i64(*[0, 1, 0, 0, 0][:rank], *[0, 2, 0, 0, 1][:rank]), value], ["x", i64(*[1] * 2 * rank), value])
    if opset >= 18:
        yield from (["x", i64(1, 2), value, i64(a)] for a in range(-rank, rank))
        yield ["x", i64(1, 0, 0, 2), None, i64(-1, 1)]


def _resize(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Operands:
    rank, own = len(shape), sizes_of(shape)
    axes = settings.get("axes")
    grown = [1.0, 1.0, 2.0, 1.5, 3.0][:rank]
    if axes is not None:
        grown = [2.0] * len(axes)
    scales = [
        np.array(s, np.float32) for s in (grown, [s and 1 / s for s in grown], [1.0, 2.0, 1.0, 0.6, 1.0][: len(grown)])
    ]
    if opset < 11:
        yield from (["x", s] for s in scales)
        return
    region = np.array([*[0.1] * rank, *[0.8] * rank], np.float32)
    yield from (["x", region if opset < 13 else None, s] for s in scales)
    sizes = (
        [own[a] + 3 for a in axes if -rank <= a < rank]
        if axes is not None
        else [own[0], *own[1:2], *(s + 3 for s in own[2:])]
    )
    yield from (["x", region, np.zeros(0, np.float32), i64(*sizes)], ["x", region, scales[0]])
    if opset >= 13:
        yield ["x", None, None, i64(*sizes)]


def _gather(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Operands:
    yield from (["x", i64(1, 0)], ["x", np.array(1)], ["x", np.array([[0, -1, 1], [1, 1, 0]])], ["x", i64(-2)])
    yield ["x", np.array([1], np.int32)]
    yield [np.linspace(-1, 1, 60, dtype=np.float32).reshape(30, 2), "int64"]


def _expand(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Operands:
    own = sizes_of(shape)
    yield from (["x", i64(*s)] for s in ([1] * len(own), [1, *own[1:]], [2, *[1] * len(own)], [3], [1]))


def _tile(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Operands:
    yield from (["x", i64(1, *[2, 1, 3, 1][: len(shape) - 1])], ["x", i64(*[2] * len(shape))])


def _cumulative(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Operands:
    yield from (["x", np.array(axis)] for axis in range(-len(shape), len(shape)))
    yield ["x", np.array(1, np.int32)]


def _triangle(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Operands:
    yield from (["x"], *(["x", np.array(k)] for k in (-9, -2, -1, 0, 1, 3, 9)))


def _one_hot(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Operands:
    """Of indices beyond the depth on both sides, constant, or whole numbers that are made of ``x``."""
    own = sizes_of(shape)
    values = np.array([-0.5, 2], np.float32)
    for indices in ("int64", np.arange(int(np.prod(own))).reshape(own) - 3):
        yield from ([indices, i64(3), values], [indices, np.array(4, np.float32), values], [indices, i64(2), i64(0, 1)])


def _gather_nd(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Operands:
    """From an array whose axes are turned, so that others than the batch come first, and from one as it is."""
    for data in ("backwards", "x"):
        yield from ([data, i64(*places).reshape(-1, 1)] for places in ((2, 0, -1), (1,)))
        if len(shape) > 2:
            yield [data, np.array([[[0, 1], [1, -1]], [[2, 0], [0, 1]]])]


def _scatter_nd(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Operands:
    yield from (["backwards", i64(*places).reshape(-1, 1), "part"] for places in ((2, 0), (1, -1), (0, 0)))
    yield ["x", i64(0).reshape(-1, 1), "part"]
    yield ["x", i64(0).reshape(-1, 1), "x"]


MOVES: Mapping[str, Callable[[int, Shape, Mapping[str, Any]], Operands]] = {
    **{"Squeeze": _axes, "Unsqueeze": _axes, "Reshape": _reshape, "Slice": _slice, "Split": _split, "Pad": _pad},
    **{"Resize": _resize, "Gather": _gather, "Expand": _expand, "Tile": _tile},
    **{"CumSum": _cumulative, "Trilu": _triangle, "OneHot": _one_hot},
    **{"GatherND": _gather_nd, "ScatterND": _scatter_nd},
    "Upsample": lambda opset, shape, settings: iter([["x"]]) if opset < 9 else _resize(9, shape, settings),
}
