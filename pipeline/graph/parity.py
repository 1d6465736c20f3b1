"""Parity: ONNX Runtime on the file and the Network compute the same function, or the import is refused.

Compared on random points, corners and given inputs, at batch one and more: ``|difference| <= 1e-4`` of the largest absolute
output over the points compared, and equal argmax wherever the top two differ by more than that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch import Tensor

from pipeline import ops
from pipeline.errors import InputRejected
from pipeline.graph import runtime
from pipeline.graph.names import shown
from pipeline.graph.probe import exposed
from pipeline.limits import limits
from pipeline.network import Network

TOLERANCE = 1e-4
_STEPS = (ops.Sign, ops.Floor, ops.Ceil, ops.Round, ops.Greater, ops.Less, ops.GreaterOrEqual, ops.LessOrEqual)

Outputs = list[np.ndarray]
"""The outputs of one point, each with its batch of one where it has a batch."""


@dataclass(frozen=True)
class Parity:
    """What was compared and how far apart it was."""

    provider: str
    points: int
    """Points whose outputs were compared."""
    tolerance: float
    """Relative to ``scale``."""
    max_abs_difference: float
    scale: float
    """The largest absolute output over the points compared."""
    argmax_disagreements: int
    left_out: int
    """Points at which a Sign, Floor, Round or comparison sits within rounding of its step, or an output is not finite."""
    batch_sizes: tuple[int, ...]

    @property
    def holds(self) -> bool:
        return self.max_abs_difference <= self.tolerance * self.scale and self.argmax_disagreements == 0


def compare(session: runtime.Session, network: Network, xs: Sequence[np.ndarray]) -> Parity:
    """Measures parity of all outputs at the given points; whether it ``holds`` is for the caller to act on."""
    names = [p.name for p in network.outputs]

    def theirs(*x: np.ndarray) -> Outputs:
        return session(*x, outputs=names)

    def ours(*x: np.ndarray) -> Outputs:
        with torch.no_grad():
            y = network(*(torch.from_numpy(np.ascontiguousarray(v)) for v in x))
        return [v.numpy() for v in (y if isinstance(y, tuple) else (y,))]

    count, axis = len(xs[0]), batch_axis(network)
    truth = _singly(theirs, xs, axis)
    batches: tuple[int, ...] = (1,)
    runs = [(truth, _singly(ours, xs, axis))]
    if free_batch(network):
        together = _together(theirs, xs) if session.fixed_batch is None else truth
        runs.append((together, _together(ours, xs)))
        batches = (1, count)
    return _measure(session.provider, runs, batches, lambda: _near_steps(network, xs, axis))


def points(network: Network, real: np.ndarray | None = None, *, seed: int = 0, size: int = 16) -> list[np.ndarray]:
    """Random points, corners and the first of the given inputs, stacked along a new or the batch axis, one array an input.

    Raises InputRejected if the given inputs do not have the model's shape.
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
        given = np.asarray(real)[:64]
        if len(result) != 1 or given.shape[1:] != result[0].shape[1:]:
            wanted = ", ".join(str(list(r.shape[1:])) for r in result)
            raise InputRejected(
                f"Inputs have the model's shape; a sample has {list(given.shape[1:])}, the model wants {wanted}."
            )
        result[0] = np.concatenate([given.astype(result[0].dtype), result[0]])
    return result


def batch_axis(network: Network) -> bool:
    """Whether the first axis of every input counts samples: it is free, or it is one and others stand beside it."""
    return all(p.shape and (p.shape[0] is None or (p.shape[0] == 1 and len(p.shape) > 1)) for p in network.inputs)


def free_batch(network: Network) -> bool:
    return all(p.shape[:1] == (None,) for p in network.inputs)


def require(
    session: runtime.Session, model: onnx.ModelProto, network: Network, xs: Sequence[np.ndarray], measured: Parity
) -> None:
    """Refuses what does not hold, naming the first node of the file whose output differs. Raises InputRejected."""
    if not measured.holds:
        raise InputRejected(
            "The imported network must compute what ONNX Runtime computes; the largest difference is"
            f" {measured.max_abs_difference:.3g} on outputs up to {measured.scale:.3g}, with"
            f" {measured.argmax_disagreements} different decisions at {measured.points} points."
            f" {first_difference(model, network, xs)} Please report the model's operator, or export it at opset 17."
        )


def first_difference(model: onnx.ModelProto, network: Network, xs: Sequence[np.ndarray]) -> str:
    """A sentence naming the first node, in the file's order, whose value differs at some point."""
    axis = batch_axis(network)
    by_output = {o.output: name for name, o in network.provenance.nodes.items() if o.output}
    try:
        session = runtime.session(exposed(model).SerializeToString())
        known = [v for n in model.graph.node for v in n.output if v in by_output]
        for i in range(len(xs[0])):
            x = [v[i : i + 1] if axis else v[i] for v in xs]
            ours = _values(network, x)
            for name, theirs in zip(known, session(*x, outputs=known), strict=True):
                if theirs.dtype.kind != "f":
                    continue
                finite = np.where(np.isfinite(theirs), theirs, 0)
                limit = TOLERANCE * float(np.abs(finite).max(initial=0.0))
                if _difference(theirs, ours[by_output[name]].numpy()) > limit:
                    return f"The first node that differs is {network.origin(by_output[name])}."
    except (InputRejected, RuntimeError, ValueError, MemoryError):
        pass
    return "No single node differs by that much."


def _singly(run: Callable[..., Outputs], xs: Sequence[np.ndarray], axis: bool) -> list[Outputs]:
    return [run(*(x[i : i + 1] if axis else x[i] for x in xs)) for i in range(len(xs[0]))]


def _together(run: Callable[..., Outputs], xs: Sequence[np.ndarray]) -> list[Outputs]:
    ys = run(*xs)
    return [[y[i : i + 1] for y in ys] for i in range(len(xs[0]))]


def _measure(
    provider: str,
    runs: Sequence[tuple[list[Outputs], list[Outputs]]],
    batches: tuple[int, ...],
    near_steps: Callable[[], np.ndarray],
) -> Parity:
    truth = runs[0][0]
    finite = np.array([all(np.isfinite(y).all() for y in point) for point in truth])
    largest = np.array([max(float(np.abs(y).max(initial=0.0)) for y in point) for point in truth])
    limit = TOLERANCE * float(largest[finite].max(initial=0.0))
    differences, flips = np.zeros(len(truth)), np.zeros(len(truth), bool)
    for theirs, ours in runs:
        for i, (a, b) in enumerate(zip(theirs, ours, strict=True)):
            differences[i] = max(differences[i], *(_difference(x, y) for x, y in zip(a, b, strict=True)))
            flips[i] |= any(_flips(x, y, limit) for x, y in zip(a, b, strict=True))
    bad = finite & ((differences > limit) | flips)
    kept = finite & ~(bad & near_steps()) if bad.any() else finite
    if 2 * kept.sum() < finite.sum():
        kept = finite  # a step near most points excuses none of them
    return Parity(
        provider=provider,
        points=int(kept.sum()),
        tolerance=TOLERANCE,
        max_abs_difference=float(differences[kept].max()) if kept.any() else float("inf"),
        scale=float(largest[kept].max(initial=0.0)),
        argmax_disagreements=int(flips[kept].sum()),
        left_out=int(len(truth) - kept.sum()),
        batch_sizes=batches,
    )


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return float("inf")
    with np.errstate(invalid="ignore"):
        gap = np.abs(a.astype(np.float64) - b.astype(np.float64))
    gap[(a == b) | (np.isnan(a.astype(np.float64)) & np.isnan(b.astype(np.float64)))] = 0.0
    return float(np.nan_to_num(gap, nan=np.inf).max(initial=0.0))


def _flips(a: np.ndarray, b: np.ndarray, limit: float) -> bool:
    """Whether the argmax differs where the top two of ``a`` are further apart than ``limit``."""
    if a.shape != b.shape or a.ndim == 0 or a.shape[-1] < 2 or a.dtype.kind != "f":
        return False
    top = np.sort(a, axis=-1)[..., -2:]
    return bool(((top[..., 1] - top[..., 0] > limit) & (a.argmax(-1) != b.argmax(-1))).any())


def _values(network: Network, xs: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """Every value of the Network by node name."""
    plan = network.plan()
    values: dict[int, Tensor] = {}
    with torch.no_grad():
        for i, x in zip(plan.inputs, xs, strict=True):
            values[i] = torch.from_numpy(np.ascontiguousarray(x))
        for i, owner, name in plan.constants:
            values[i] = getattr(owner, name)
        for step in plan.steps:
            values[step.index] = step.op(*(values[a] for a in step.args))
    return {plan.names[i]: v.detach() for i, v in values.items()}


def _near_steps(network: Network, xs: Sequence[np.ndarray], axis: bool) -> np.ndarray:
    """For each point, whether some step function's argument is within float32 rounding of its step."""
    plan = network.plan()
    steps = [s for s in plan.steps if isinstance(s.op, _STEPS)]
    near = np.zeros(len(xs[0]), bool)
    for i in range(len(near) if steps else 0):
        values = _values(network, [x[i : i + 1] if axis else x[i] for x in xs])
        for step in steps:
            args = [values[plan.names[a]].double() for a in step.args]
            gap, size = _to_step(step.op, args)
            near[i] |= bool((gap <= 1e-5 * (1.0 + size)).any())
    return near


def _to_step(op: torch.nn.Module, args: list[Tensor]) -> tuple[Tensor, Tensor]:
    """How far each entry is from where the function jumps, and how large the numbers are that decide it."""
    x = args[0]
    if len(args) == 2:
        return (x - args[1]).abs(), torch.maximum(x.abs(), args[1].abs())
    shifted = x - 0.5 if isinstance(op, ops.Round) else x
    gap = x.abs() if isinstance(op, ops.Sign) else (shifted - shifted.round()).abs()
    return gap, x.abs().max()
