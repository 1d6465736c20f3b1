"""Facts about rounding that belong to the graph or the machine, not to one operator."""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import nn

from pipeline.arithmetic import FLOAT32_MAX, U64, Outward, gamma
from pipeline.errors import EnvironmentFailure, InputRejected
from pipeline.network import Plan
from pipeline.rules.rule import fold_floor, rule_for


@torch.no_grad()
def sites(plan: Plan, rounding: Outward) -> dict[int, Outward]:
    """What each operator may add, with the scale that a runtime may fold into its weights from the operator after it.

    Folding multiplies every weight by ``s`` in float32: relative errors are paid for by the slack of the layer, but a
    product ``W s`` may also underflow (an absolute error, which ``folded_scale`` carries) or overflow (refused here).
    """
    readers = Counter(a for s in plan.steps for a in s.args)
    constants = {index: getattr(owner, name) for index, owner, name in plan.constants}
    producers = {s.index: s for s in plan.steps}
    found: dict[int, Outward] = {}
    for step in plan.steps:
        rule = rule_for(step.op)
        varying = [a for a in step.args if a not in constants]
        if rule is None or len(varying) != 1 or varying[0] not in producers or readers[varying[0]] != 1:
            continue
        before = producers[varying[0]]
        weight = getattr(before.op, "weight", None)
        scale = rule.folds_into_producer(step.op, tuple(constants.get(a) for a in step.args))
        if scale is None or weight is None or not isinstance(before.op, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            continue
        if float(weight.abs().max()) * float(scale.max()) > FLOAT32_MAX:
            raise InputRejected(f"folding the scale of {step.name} into the weights before it overflows float32.")
        rank = 1 if isinstance(before.op, nn.Linear) else weight.dim() - 1
        per_channel = scale.numel() in (1, weight.shape[0])
        scale = scale.reshape(-1, *[1] * (rank - 1)) if per_channel else scale.min()
        found[before.index] = rounding.at(carried=0, folded_scale=fold_floor(scale))
    return found


def self_test() -> None:
    """Check that this machine's float64 is what the bounds assume; raise EnvironmentFailure (74) where it is not.

    Subnormals are kept (a library in the same process may have switched them off), and a product of length 10,000 stays
    within ``gamma(n, w)`` of the correctly rounded sum.
    """
    if float(torch.tensor([2.0**-1060], dtype=torch.float64) * 0.5) == 0.0:
        raise EnvironmentFailure(
            "float64 subnormals are flushed to zero in this process, so bounds cannot be trusted; "
            "start again without `set_denormal` or fast-math libraries."
        )
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(4, 10_000, generator=generator, dtype=torch.float64) for _ in range(2))
    got = (a @ b.T).tolist()
    for i in range(4):
        for j in range(4):
            exact = math.fsum(x * y for x, y in zip(a[i].tolist(), b[j].tolist(), strict=True))
            size = float(a[i].abs() @ b[j].abs())
            if abs(got[i][j] - exact) > (gamma(10_001, U64) + 4 * U64) * size:
                raise EnvironmentFailure("this machine's float64 matrix product is not IEEE arithmetic in some order.")
