"""Parity: the import is refused unless ONNX Runtime on the file and the Network agree, node by node.

``node_by_node.py`` decides: every value of the file's own graph lies in the interval that the bounds claim for it. The distance
between the outputs of both is measured as well, for the report.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NoReturn

import numpy as np
import onnx
import torch
from pydantic import ConfigDict

from pipeline.core import ops
from pipeline.core.network import Network, Port
from pipeline.errors import InputRejected
from pipeline.limits import limits
from pipeline.onnx import runtime
from pipeline.onnx.names import shown
from pipeline.onnx.node_by_node import Agreement, NodeByNode
from pipeline.onnx.running import run
from pipeline.onnx.tolerance import TOLERANCE
from pipeline.results import Parity

FAR = 1e-3
"""Relative to the largest output of a point: a deployed output this far from the network's must lie in its propagated bounds."""
CLEAR = 1e-4
"""Relative to the largest output: both must order two classes that are further apart than this alike."""
_STEPS = (ops.Sign, ops.Floor, ops.Ceil, ops.Round, ops.Greater, ops.Less, ops.GreaterOrEqual, ops.LessOrEqual)

Outputs = list[np.ndarray]
"""The outputs at one point, each with a batch of one where it has a batch."""


class MeasuredParity(Parity):
    """What was compared, and the first ``difference``, in words; where there is one, figures may be infinite."""

    model_config = ConfigDict(allow_inf_nan=True)
    difference: str | None = None

    @property
    def holds(self) -> bool:
        return self.difference is None

    def with_boxes(self, boxes: int, points: int) -> Parity:
        """As a result states it, after the file was also run at ``points`` points of ``boxes`` certified boxes."""
        return Parity(**self.model_dump(exclude={"difference"}) | {"boxes": boxes, "box_points": points})


def compare(
    session: runtime.Session,
    model: onnx.ModelProto,
    network: Network,
    xs: Sequence[np.ndarray],
    more: Sequence[np.ndarray] = (),
) -> MeasuredParity:
    """Compare all nodes at the points ``xs`` and ``more``, and measure the distance of all outputs at ``xs``.

    The caller must check whether the result ``holds``. Raises InputRejected where the network does not run.
    """
    agreement = by_node(session, model, network, xs, *([more] if len(more) else []))
    difference = None if agreement.difference is None else agreement.difference.describe(network)
    measured, far = measure_outputs(session, network, xs, agreement, difference)
    if difference is None and far:
        difference = _as_deployed(session, model, network, xs, far)
    return measured if difference is None else measured.model_copy(update={"difference": difference})


def by_node(
    session: runtime.Session, model: onnx.ModelProto, network: Network, *several: Sequence[np.ndarray]
) -> Agreement:
    """Compare all nodes at several sets of points, up to the first point with a difference."""
    nodes, agreement = NodeByNode(model, network), Agreement()
    together = free_batch(network) and session.fixed_batch in (None, 1)
    for xs in several:
        agreement = nodes.run(xs, batch=batch_axis(network), together=together, agreement=agreement)
    return agreement


def points(network: Network, real: np.ndarray | None = None, *, seed: int = 0, size: int = 16) -> list[np.ndarray]:
    """Random points, corners and the first 64 of the ``real`` inputs, stacked along the batch or a new axis: an array an input.

    ``size``: of free dimensions other than the batch. Raises InputRejected if ``real`` does not have the model's shape.
    """
    rng = np.random.default_rng(seed)
    result = []
    for port in network.inputs:
        shape = [size if d is None else d for d in (port.shape[1:] if batch_axis(network) else port.shape)]
        if 12 * math.prod(shape) > limits().tensor_elements:
            raise InputRejected(
                f"Twelve samples of an input have at most {limits().tensor_elements} elements; '{shown(port.name)}', its free"
                f" sizes taken as {size}, has samples of shape {shape}. Export the model at the size it is used with."
            )
        dtype = torch.empty(0, dtype=port.dtype).numpy().dtype
        if dtype.kind != "f":
            result.append(rng.integers(0, 2, [12, *shape]).astype(dtype))
            continue
        kinds = [
            rng.random([4, *shape]),
            rng.standard_normal([2, *shape]),
            rng.integers(0, 2, [3, *shape]),
            2 * rng.integers(0, 2, [1, *shape]) - 1,
            np.zeros([1, *shape]),
            np.ones([1, *shape]),
        ]
        result.append(np.concatenate(kinds).astype(dtype))
    if real is not None:
        samples = np.asarray(real)[:64]
        if len(result) != 1 or samples.shape[1:] != result[0].shape[1:]:
            shapes = ", ".join(str(list(r.shape[1:])) for r in result)
            raise InputRejected(
                f"Inputs have the model's shape; a sample has {list(samples.shape[1:])}, the model wants {shapes}."
            )
        result[0] = np.concatenate([samples.astype(result[0].dtype), result[0]])
    return result


def batch_axis(network: Network) -> bool:
    """Whether the first axis of every input is the batch."""
    return all(map(counts_samples, network.inputs))


def counts_samples(port: Port) -> bool:
    """Whether the first axis is the batch: it is free, or it is one and not the only axis."""
    return bool(port.shape) and (port.shape[0] is None or (port.shape[0] == 1 and len(port.shape) > 1))


def free_batch(network: Network) -> bool:
    """Whether every input takes any batch size."""
    return all(p.shape[:1] == (None,) for p in network.inputs)


def require(measured: MeasuredParity) -> None:
    """Raise InputRejected where parity does not hold, naming the first node of the file that differs."""
    if measured.difference is not None:
        refuse(measured.difference)


def refuse(difference: str) -> NoReturn:
    """Raise InputRejected naming the difference."""
    raise InputRejected(
        f"The imported network must compute what ONNX Runtime computes, node by node; {difference}. Nothing can be certified of"
        " this file as it is: write that node in another form, or export the model at another opset."
    )


def measure_outputs(
    session: runtime.Session, network: Network, xs: Sequence[np.ndarray], agreement: Agreement, difference: str | None
) -> tuple[MeasuredParity, Sequence[int]]:
    """The distance of the outputs, one point at a time and, where the batch is free, all together; points where it is large."""
    names, plan = [p.name for p in network.outputs], network.plan()

    def run_file(*x: np.ndarray) -> Outputs:
        return session(*x, outputs=names)

    def run_network(*x: np.ndarray) -> Outputs:
        with torch.no_grad():
            return [y.numpy() for y in run(network, plan, [torch.from_numpy(np.ascontiguousarray(v)) for v in x])]

    count, axis = len(xs[0]), batch_axis(network)
    truth = _singly(run_file, xs, axis)
    batches: tuple[int, ...] = (1,)
    runs = [(truth, _singly(run_network, xs, axis))]
    if free_batch(network):
        runs.append((_together(run_file, xs) if session.fixed_batch is None else truth, _together(run_network, xs)))
        batches = (1, count)
    finite = np.array([all(np.isfinite(y).all() for y in point) for point in truth])
    largest = np.array([max(float(np.abs(y).max(initial=0.0)) for y in point) for point in truth])
    limit = CLEAR * float(largest[finite].max(initial=0.0))
    distances, flips, overflows = np.zeros(count), np.zeros(count, bool), np.zeros(count, bool)
    for one, other in runs:
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            distances[i] = max(distances[i], *(_difference(x, y) for x, y in zip(a, b, strict=True)))
            flips[i] |= any(_flips(x, y, limit) for x, y in zip(a, b, strict=True))
            # The runtime may fold a scale without which float32 overflows on the way.
            overflows[i] |= not all(np.isfinite(y).all() for y in b)
    steps = any(isinstance(step.op, _STEPS) for step in plan.steps)
    compared = finite & ~overflows & ~(steps & ((distances > limit) | flips))
    if not finite.any():
        difference = difference or f"its outputs are not finite at any of {count} points"
    measured = MeasuredParity(
        provider=session.provider,
        n=int(compared.sum()),
        tolerance=TOLERANCE if agreement.tolerated else 0.0,
        max_abs_difference=float(distances[compared].max(initial=0.0)),
        scale=float(largest[compared].max(initial=0.0)),
        argmax_disagreements=int(flips[compared].sum()),
        left_out=int(count - compared.sum()),
        batch_sizes=batches,
        nodes=len(agreement.nodes),
        nodes_with_tolerance=len(agreement.tolerated),
        points=agreement.points,
        difference=difference,
    )
    return measured, np.flatnonzero(compared & (distances > FAR * largest)).tolist()


def _as_deployed(
    session: runtime.Session, model: onnx.ModelProto, network: Network, xs: Sequence[np.ndarray], points: Sequence[int]
) -> str | None:
    """An output, in words, that no execution of the file's own graph gives at one of these points; None where each may be one.

    What is executed is not that graph: an optimisation by the runtime may be wrong, which no comparison node by node shows.
    """
    nodes, axis, names = NodeByNode(model, network), batch_axis(network), [p.name for p in network.outputs]
    for i in points:
        x = [v[i : i + 1] if axis else v[i] for v in xs]
        outside = nodes.outside(x, dict(zip(names, session(*x, outputs=names), strict=True)))
        if outside is not None:
            return (
                f"as deployed, at graph optimization level {session.level!r}, {outside.describe_output()}: the runtime's "
                "optimisation computes another function (--runtime-optimization off does not)"
            )
    return None


def _singly(run: Callable[..., Outputs], xs: Sequence[np.ndarray], axis: bool) -> list[Outputs]:
    return [run(*(x[i : i + 1] if axis else x[i] for x in xs)) for i in range(len(xs[0]))]


def _together(run: Callable[..., Outputs], xs: Sequence[np.ndarray]) -> list[Outputs]:
    ys = run(*xs)
    return [[y[i : i + 1] for y in ys] for i in range(len(xs[0]))]


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return float("inf")
    with np.errstate(invalid="ignore"):
        gap = np.asarray(np.abs(a.astype(np.float64) - b.astype(np.float64)))
    gap[(a == b) | (np.isnan(a.astype(np.float64)) & np.isnan(b.astype(np.float64)))] = 0.0
    return float(np.nan_to_num(gap, nan=np.inf).max(initial=0.0))


def _flips(a: np.ndarray, b: np.ndarray, limit: float) -> bool:
    """Whether the argmax differs where the top two of ``a`` are further apart than ``limit``."""
    if a.shape != b.shape or a.ndim == 0 or a.shape[-1] < 2 or a.dtype.kind != "f" or not np.isfinite(a).all():
        return False
    top = np.sort(a, axis=-1)[..., -2:]
    return bool(((top[..., 1] - top[..., 0] > limit) & (a.argmax(-1) != b.argmax(-1))).any())
