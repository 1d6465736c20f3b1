"""Facts about rounding that belong to the graph or the machine, not to one operator."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor, nn

from pipeline.core import ops
from pipeline.core.floating_point import FLOAT32_MAX, JOINED, SLACK, TINY64, U64, gamma
from pipeline.core.network import Plan, Step
from pipeline.core.outward import Outward
from pipeline.errors import EnvironmentFailure, InputRejected
from pipeline.rules.affine_rule import Rearrange
from pipeline.rules.rule import fold_floor, rule_for


@torch.no_grad()
def sites(plan: Plan, rounding: Outward) -> dict[int, Outward]:
    """What each operator may add, with the scales around it that a runtime may multiply in elsewhere.

    *Behind* a layer (BatchNorm, Mul, Div by one number; moved entries and added constants do not end the chain), folding
    multiplies every weight by ``s`` in float32, once for each scale. *Before* a matrix product, one number may be multiplied
    in behind it. Relative errors are paid for by the slack of the layer, as far as it goes; a product ``W s`` may also
    underflow (an absolute error, which ``folded_scale`` carries) or overflow (refused here); sums without the scale before them
    have another range (``moved``). A subnormal ``s`` that is read as zero loses ``s y`` of the value ``y`` that it multiplies,
    folded or not: that is charged where it stands, by ``Rounding._flushed`` and by ``BatchNormRule.flush``.
    """
    readers = Counter(a for s in plan.steps for a in s.args)
    constants = {index: getattr(owner, name) for index, owner, name in plan.constants}
    chains: dict[int, _Chain] = {}
    numbers: dict[int, tuple[float, ...]] = {}
    products = _products(plan, constants)
    for step in plan.steps:
        rule = rule_for(step.op)
        varying = [a for a in step.args if a not in constants]
        if rule is None or len(varying) != 1:
            continue
        (source,), of_args = varying, tuple(constants.get(a) for a in step.args)
        moves = isinstance(rule, Rearrange)
        number = _number(step, of_args)
        if moves or number is not None:
            numbers[step.index] = (*numbers.get(source, ()), *([] if number is None else [number]))[-JOINED:]
        layer = _layer(step, constants)
        before = chains.get(source) if readers[source] == 1 else None
        if layer is not None:
            product = isinstance(step.op, nn.Linear | ops.MatMul)
            chains[step.index] = layer.after(numbers.get(source, ())) if product else layer
        elif before is not None:
            scale = rule.folds_into_producer(step.op, of_args)
            if scale is not None:
                chains[step.index] = before.scaled(scale, _roundings(step.op), step.name)
            elif moves or isinstance(step.op, ops.Add | ops.Sub):
                chains[step.index] = replace(before, aligned=before.aligned and not moves)
    # The last link of a chain knows all of it, and comes last.
    layers = {c.layer: c.site(rounding) for c in chains.values() if c.roundings or c.moved != (1.0, 1.0)}
    return layers | {index: replace(rounding, moved=moved) for index, moved in products.items()}


def _products(plan: Plan, constants: Mapping[int, Tensor]) -> dict[int, tuple[float, float]]:
    """Of each product of two computed matrices, how small and how large a product of numbers beside it may be.

    Before and behind it, up to ``JOINED`` on each way: any of them may be multiplied in elsewhere, at once or one by one.
    """
    before: dict[int, tuple[float, ...]] = {}
    behind: dict[int, tuple[int, int]] = {}
    """What is a product but for numbers: its place, and how many numbers there were."""
    moved: dict[int, tuple[float, float]] = {}
    for step in plan.steps:
        if isinstance(step.op, ops.MatrixProduct):
            at = [n for a in step.args for n in before.get(a, ())]
            moved[step.index], behind[step.index] = _reach(at), (step.index, 0)
            continue
        varying = [a for a in step.args if a not in constants]
        number = _number(step, tuple(constants.get(a) for a in step.args))
        if len(varying) != 1 or (number is None and not isinstance(rule_for(step.op), Rearrange)):
            continue
        (source,), own = varying, () if number is None else (number,)
        before[step.index] = (*before.get(source, ()), *own)[-JOINED:]
        product, count = behind.get(source, (0, JOINED))
        if count < JOINED or (number is None and source in behind):
            behind[step.index] = product, count + len(own)
            least, most = _reach(own)
            moved[product] = moved[product][0] * least, moved[product][1] * most
    return {index: reach for index, reach in moved.items() if reach != (1.0, 1.0)}


def _reach(numbers: Sequence[float]) -> tuple[float, float]:
    """The least and the greatest product of some of them."""
    return math.prod(min(n, 1.0) for n in numbers), math.prod(max(n, 1.0) for n in numbers)


def _number(step: Step, constants: tuple[Tensor | None, ...]) -> float | None:
    """The one number that a step multiplies by."""
    if not isinstance(step.op, ops.Mul | ops.Div):
        return None
    constant = next((c for c in constants if c is not None), None)
    if constant is None or constant.numel() != 1:
        return None
    value = abs(float(constant.reshape(())))
    return value if isinstance(step.op, ops.Mul) else 1 / value if value else math.inf


def _roundings(op: nn.Module) -> int:
    """How many roundings a scale costs: a BatchNorm makes its own first, a divisor becomes a factor."""
    return 1 if isinstance(op, ops.Mul) else 2 if isinstance(op, ops.Div) else 5


@dataclass(frozen=True)
class _Chain:
    """A layer and the scales behind it: ``low`` and ``high`` bound their product, by channel as long as that is clear."""

    layer: int
    weight: Tensor
    channels: int
    rank: int
    """Axes of the output from the channels on; 0 where channels are not known."""
    aligned: bool
    low: Tensor
    high: Tensor
    lost: Tensor
    """``1/s1 + 1/(s1 s2) + ...``: by how much an underflow in folding is larger before the scales than behind them."""
    roundings: int = 0
    moved: tuple[float, float] = (1.0, 1.0)

    def after(self, numbers: tuple[float, ...]) -> _Chain:
        """The layer behind numbers that were multiplied in, the last of them nearest to it: any last few may be moved."""
        products = list(accumulate(reversed(numbers), lambda a, b: a * b))
        return replace(self, moved=(min([1.0, *products]), max([1.0, *products])))

    def scaled(self, scale: Tensor, roundings: int, name: str) -> _Chain:
        """The chain with one scale more. Raises InputRejected where folding may overflow, or is more than slack pays for."""
        scale = scale.reshape(-1)
        by_channel = self.aligned and scale.numel() in (1, self.channels)
        floor, ceiling = (fold_floor(scale), scale) if by_channel else (fold_floor(scale).min(), scale.max())
        low, high = (self.low * floor).clamp_min(TINY64), self.high * ceiling
        if float(self.weight.abs().max()) * float(high.max()) > FLOAT32_MAX:
            raise InputRejected(f"folding the scale of {name} into the weights before it overflows float32.")
        roundings += self.roundings
        if roundings > SLACK - 2:
            raise InputRejected(
                f"{name} is one of so many scales behind one layer that rounding in folding them is not bounded; use "
                "`--arithmetic real`."
            )
        return replace(
            self,
            low=low,
            high=high,
            lost=self.lost + 1 / low,
            roundings=roundings,
        )

    def site(self, rounding: Outward) -> Outward:
        """What the layer may add, all of its scales folded into it."""
        scaled = self.roundings > 0
        return replace(
            rounding,
            carried=0,
            folded_scale=1 / self._by_channel(self.lost) if scaled else None,
            folded_peak=float(self.high.max()),
            moved=self.moved,
        )

    def _by_channel(self, value: Tensor) -> Tensor:
        return value.reshape(-1, *[1] * (self.rank - 1)) if value.numel() > 1 else value.reshape(())


def _layer(step: Step, constants: Mapping[int, Tensor]) -> _Chain | None:
    """The beginning of a chain, where the operator is a layer with weights."""
    if isinstance(step.op, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        weight = step.op.weight
        channels, rank = weight.shape[0], 1 if isinstance(step.op, nn.Linear) else weight.dim() - 1
    elif isinstance(step.op, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        weight = step.op.weight
        channels, rank = step.op.out_channels, weight.dim() - 1
    elif isinstance(step.op, ops.MatMul):
        weight, channels, rank = next(constants[a] for a in step.args if a in constants), 0, 0
    else:
        return None
    one = torch.ones(1, dtype=torch.float64, device=weight.device)
    none = torch.zeros_like(one)
    return _Chain(step.index, weight, channels, rank, rank > 0, one, one, none)


def self_test(device: str = "cpu") -> None:
    """Check that float64 on a device is what the bounds assume; raise EnvironmentFailure (74) where it is not.

    Subnormals are kept (a library in the same process may have switched them off), and a product of length 10,000 and a
    convolution stay within ``gamma(n, w)`` of the correctly rounded sums: an emulation, a Winograd or an FFT kernel would not.
    """
    if float(torch.tensor([2.0**-1060], dtype=torch.float64) * 0.5) == 0.0:
        raise EnvironmentFailure(
            "float64 subnormals are flushed to zero in this process, so bounds cannot be trusted; "
            "start again without `set_denormal` or fast-math libraries."
        )
    if device != "cpu":
        _refuse_emulation()
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(4, 10_000, generator=generator, dtype=torch.float64) for _ in range(2))
    # Large and small terms side by side: what transforms mix, a sum of products keeps apart.
    a[1] *= 2.0 ** torch.randint(-40, 40, (10_000,), generator=generator)
    _compare((a.to(device) @ b.to(device).T).cpu(), a, b, "matrix product")
    x, w = torch.randn(1, 8, 9, 9, generator=generator).double(), torch.randn(8, 8, 3, 3, generator=generator).double()
    x[..., ::3] *= 2.0**40
    y = nn.functional.conv2d(x.to(device), w.to(device), padding=1).cpu()
    patches = nn.functional.unfold(x, 3, padding=1)[0].T
    _compare(y[0].flatten(1).T[::5], patches[::5], w.flatten(1), "convolution")


def _compare(got: Tensor, a: Tensor, b: Tensor, what: str) -> None:
    """Each entry of ``a b^T`` against the correctly rounded sum of its products."""
    size, n = a.abs() @ b.abs().T, a.shape[1]
    for i, x in enumerate(a.tolist()):
        for j, y in enumerate(b.tolist()):
            exact = math.fsum(p * q for p, q in zip(x, y, strict=True))
            if not abs(float(got[i, j]) - exact) <= (gamma(n + 1, U64) + 4 * U64) * float(size[i, j]):
                raise EnvironmentFailure(f"this machine's float64 {what} is not IEEE arithmetic in some order.")


def _refuse_emulation() -> None:
    """cuBLAS may emulate products in other formats, and an override may put TF32 back where it was switched off."""
    for name in ("CUBLAS_EMULATE_DOUBLE_PRECISION", "CUBLAS_EMULATION_STRATEGY", "NVIDIA_TF32_OVERRIDE"):
        if os.environ.get(name, "0") not in ("", "0"):
            raise EnvironmentFailure(f"{name}={os.environ[name]} replaces IEEE arithmetic on CUDA; unset it.")
