"""Facts about rounding that belong to the graph or the machine, not to one operator."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pipeline import ops
from pipeline.arithmetic import FLOAT32_MAX, SLACK, TINY64, U64, Outward, gamma
from pipeline.errors import EnvironmentFailure, InputRejected
from pipeline.network import Plan, Step
from pipeline.rules.rule import Rearrange, fold_floor, rule_for


@torch.no_grad()
def sites(plan: Plan, rounding: Outward) -> dict[int, Outward]:
    """What each operator may add, with the scales that a runtime may fold into its weights from the operators after it.

    Folding multiplies every weight by ``s`` in float32, once for each scale of a chain (BatchNorm, Mul; moved entries and
    added constants do not end it). Relative errors are paid for by the slack of the layer, as far as it goes; a product
    ``W s`` may also underflow (an absolute error, which ``folded_scale`` carries) or overflow (refused here).
    """
    readers = Counter(a for s in plan.steps for a in s.args)
    constants = {index: getattr(owner, name) for index, owner, name in plan.constants}
    chains: dict[int, _Chain] = {}
    for step in plan.steps:
        rule = rule_for(step.op)
        varying = [a for a in step.args if a not in constants]
        if rule is None or len(varying) != 1:
            continue
        layer = _layer(step, constants)
        before = chains.get(varying[0]) if readers[varying[0]] == 1 else None
        if layer is not None:
            chains[step.index] = layer
        elif before is not None:
            scale = rule.folds_into_producer(step.op, tuple(constants.get(a) for a in step.args))
            moves = isinstance(rule, Rearrange)
            if scale is not None:
                roundings = 1 if isinstance(step.op, ops.Mul) else 5  # a BatchNorm makes its scale first
                chains[step.index] = before.scaled(scale, roundings, step.name)
            elif moves or isinstance(step.op, ops.Add | ops.Sub):
                chains[step.index] = replace(before, aligned=before.aligned and not moves)
    # The last link of a chain knows all of it, and comes last.
    return {c.layer: c.site(rounding) for c in chains.values() if c.roundings}


@dataclass(frozen=True)
class _Chain:
    """A layer and the scales behind it: ``low`` and ``high`` bound their product, by channel as long as that is clear."""

    layer: int
    weight: Tensor
    rank: int
    """Axes of the output from the channels on; 0 where channels are not known."""
    aligned: bool
    low: Tensor
    high: Tensor
    lost: Tensor
    """``1/s1 + 1/(s1 s2) + ...``: by how much an underflow in folding is larger before the scales than behind them."""
    roundings: int = 0

    def scaled(self, scale: Tensor, roundings: int, name: str) -> _Chain:
        """The chain with one scale more. Raises InputRejected where folding may overflow, or is more than slack pays for."""
        scale = scale.reshape(-1)
        by_channel = self.aligned and scale.numel() in (1, self.weight.shape[0])
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
        return replace(self, low=low, high=high, lost=self.lost + 1 / low, roundings=roundings)

    def site(self, rounding: Outward) -> Outward:
        """What the layer may add, all of its scales folded into it."""
        lost = self.lost.reshape(-1, *[1] * (self.rank - 1)) if self.lost.numel() > 1 else self.lost.reshape(())
        return replace(rounding, carried=0, folded_scale=1 / lost, folded_peak=float(self.high.max()))


def _layer(step: Step, constants: Mapping[int, Tensor]) -> _Chain | None:
    """The beginning of a chain, where the operator is a layer with weights."""
    if isinstance(step.op, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        weight = step.op.weight
        rank = 1 if isinstance(step.op, nn.Linear) else weight.dim() - 1
    elif isinstance(step.op, ops.MatMul):
        weight, rank = next(constants[a] for a in step.args if a in constants), 0
    else:
        return None
    one = torch.ones(1, dtype=torch.float64, device=weight.device)
    return _Chain(step.index, weight, rank, rank > 0, one, one, torch.zeros_like(one))


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
