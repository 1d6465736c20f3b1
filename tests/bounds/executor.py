"""float32 executions that a runtime might make of an affine operator, chosen to be bad: orders, trees, FMA, flushing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from pipeline.bounds import walk
from pipeline.core import ops
from pipeline.core.network import Network

TINY = np.float32(2.0**-126)
F = np.float32


def flushed(x: np.ndarray, ftz: bool) -> np.ndarray:
    """Subnormal numbers read or written as zero."""
    return np.where(np.abs(x) < TINY, F(0), x).astype(F) if ftz else x


def matrix(op: nn.Module, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """``(W, b)`` of an affine operator on one sample of that shape, by its values at unit vectors; (out, in) and (out)."""
    n = int(np.prod(shape))
    op = op.double()
    with torch.no_grad():
        constant = op(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
        bias = getattr(op, "bias", None)
        if bias is not None:
            op.bias = None
        units = op(torch.eye(n, dtype=torch.float64).reshape(n, *shape)).flatten(1)
        if bias is not None:
            op.bias = bias
    return units.T.numpy(), constant.numpy()


class Execution:
    """One way to evaluate sums of products; the same for a whole network."""

    def __init__(self, order: str, *, fma: bool = False, ftz: bool = False, bias_first: bool = True, seed: int = 0):
        self.order, self.fma, self.ftz, self.bias_first = order, fma, ftz, bias_first
        self.generator = np.random.default_rng(seed)

    def __repr__(self) -> str:
        return f"{self.order}{' fma' * self.fma}{' ftz' * self.ftz}{' bias first' * self.bias_first}"

    def __call__(self, w: np.ndarray, b: np.ndarray, x: np.ndarray) -> np.ndarray:
        """``W x + b`` for (out, in), (out), (in), every operation rounded to float32."""
        w, b, x = (flushed(v.astype(F), self.ftz) for v in (w, b, x))
        with np.errstate(all="ignore"):
            products = flushed(w * x, self.ftz)
            at = self._order(products)
            products = np.take_along_axis(products, at, 1)
            wide = np.take_along_axis(w.astype(np.float64) * x.astype(np.float64), at, 1)
            if self.order == "tree":
                return self._step(self._tree(products), b)
            total = b.copy() if self.bias_first else np.zeros_like(b)
            for i in range(products.shape[1]):
                total = flushed((total + wide[:, i]).astype(F) if self.fma else total + products[:, i], self.ftz)
            return total if self.bias_first else self._step(total, b)

    def _step(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return flushed(a + b, self.ftz)

    def _order(self, products: np.ndarray) -> np.ndarray:
        key = {
            "given": np.broadcast_to(np.arange(products.shape[1]), products.shape),
            "reversed": np.broadcast_to(-np.arange(products.shape[1]), products.shape),
            "rising": products,
            "falling": -products,
            "small first": np.abs(products),
            "large first": -np.abs(products),
        }.get(self.order)
        return np.argsort(self.generator.random(products.shape) if key is None else key, axis=1, kind="stable")

    def _tree(self, parts: np.ndarray) -> np.ndarray:
        while parts.shape[1] > 1:
            if parts.shape[1] % 2:
                parts = np.concatenate([parts, np.zeros_like(parts[:, :1])], 1)
            parts = self._step(parts[:, ::2], parts[:, 1::2])
        return parts[:, 0]


def executions(seed: int = 0) -> Iterator[Execution]:
    """A dozen of them, sorted orders among them."""
    for order in ("given", "reversed", "rising", "falling", "small first", "large first", "shuffled", "tree"):
        yield Execution(order, seed=seed)
    yield Execution("shuffled", fma=True, seed=seed)
    yield Execution("falling", fma=True, ftz=True, bias_first=False, seed=seed)
    yield Execution("shuffled", ftz=True, bias_first=False, seed=seed)


def run(network: Network, x: np.ndarray, how: Execution, *, folded: bool) -> np.ndarray:
    """A float32 execution of a small network on one sample; ``folded``: BatchNorms go into the layer before them."""
    plan = network.in_float64().plan()
    producers = {s.index: s for s in plan.steps}
    readers = [a for s in plan.steps for a in s.args]
    norms = nn.BatchNorm1d | nn.BatchNorm2d

    def folds(index: int) -> bool:
        """Whether the node is a layer that only a BatchNorm reads."""
        reader = next((s for s in plan.steps if index in s.args), None)
        layer = index in producers and isinstance(producers[index].op, nn.Linear | nn.Conv2d)
        return folded and layer and readers.count(index) == 1 and reader is not None and isinstance(reader.op, norms)

    def constants(op: nn.Module) -> tuple[np.ndarray, ...]:
        values = (op.weight, op.bias, op.running_mean, op.running_var)
        return tuple(v.detach().numpy().astype(F) for v in values)

    def affine(op: nn.Module, value: np.ndarray, shape: torch.Size, norm: nn.Module | None) -> np.ndarray:
        w, b = (v.astype(F) for v in matrix(op, value.shape[1:]))
        if norm is not None:
            repeat = len(b) // len(norm.weight)
            weight, bias, mean, var = (np.repeat(v, repeat) for v in constants(norm))
            scale = flushed(weight / np.sqrt(var + F(norm.eps)), how.ftz)
            w, b = flushed(w * scale[:, None], how.ftz), flushed((b - mean) * scale + bias, how.ftz)
        return how(w, b, value.reshape(-1)).reshape(1, *shape[1:])

    pending: dict[int, tuple[nn.Module, np.ndarray, torch.Size]] = {}
    values: dict[int, np.ndarray] = {plan.inputs[0]: x.astype(F)}
    exact = walk.forward(plan, [torch.from_numpy(x).double()], lambda s, *xs: s.op(*xs), keep=walk.EVERYTHING)
    for index, owner, name in plan.constants:
        values[index] = getattr(owner, name).numpy().astype(F)
    for step in plan.steps:
        op, shape = step.op, exact[step.index].shape
        if step.args[0] in pending:
            layer, before, _ = pending[step.args[0]]
            values[step.index] = affine(layer, before, shape, op)
            continue
        args = [values[a] for a in step.args]
        if isinstance(op, nn.Linear | nn.Conv2d):
            if folds(step.index):
                pending[step.index] = (op, args[0], shape)
            else:
                values[step.index] = affine(op, args[0], shape, None)
        elif isinstance(op, norms):
            weight, bias, mean, var = (v.reshape(-1, *[1] * (len(shape) - 2)) for v in constants(op))
            scale = weight / np.sqrt(var + F(op.eps))
            values[step.index] = flushed(flushed((args[0] - mean) * scale, how.ftz) + bias, how.ftz)
        elif isinstance(op, ops.Add | ops.Sub | ops.Div | ops.Mul):
            function = {ops.Add: np.add, ops.Sub: np.subtract, ops.Div: np.divide, ops.Mul: np.multiply}[type(op)]
            values[step.index] = flushed(function(*args).astype(F), how.ftz)
        else:  # selects or moves, and rounds nothing
            values[step.index] = op(*(torch.from_numpy(a) for a in args)).numpy().astype(F)
    return values[plan.outputs[0]]
