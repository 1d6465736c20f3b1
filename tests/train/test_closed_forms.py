"""Gradients in closed form against what autograd makes of the plain formulation, in float64; values to the last bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pipeline.core.interval import Lockstep
from pipeline.core.ops import AffineBN
from pipeline.rules import rule_for
from pipeline.train.regularise import TINY, regularisers
from tests.nets import mlp


def boxes(dtype: torch.dtype = torch.float64, *, spread: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    center = torch.randn(6, 4, 5, 5, generator=generator, dtype=dtype)
    radius = spread * torch.rand(6, 4, 5, 5, generator=generator, dtype=dtype)
    return center.requires_grad_(), radius.requires_grad_()


def plain_relu(center: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    active, half = center >= radius, torch.relu((center + radius) / 2)
    return torch.where(active, center, half), torch.where(active, radius, half)


@pytest.mark.parametrize("spread", [0.0, 1e-9, 1.0, 10.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_relu_of_a_box(dtype: torch.dtype, spread: float) -> None:
    center, radius = boxes(dtype, spread=spread)
    got = rule_for(nn.ReLU()).lockstep(nn.ReLU(), Lockstep(center, center, radius))
    want = plain_relu(center, radius)
    assert torch.equal(got.center, want[0])
    assert torch.equal(got.radius, want[1])
    weights = [torch.randn_like(v) for v in want]
    of_ours = torch.autograd.grad((got.center * weights[0] + got.radius * weights[1]).sum(), (center, radius))
    of_plain = torch.autograd.grad((want[0] * weights[0] + want[1] * weights[1]).sum(), (center, radius))
    assert all(torch.allclose(a, b) for a, b in zip(of_ours, of_plain, strict=True))


def plain_terms(center: Tensor, radius: Tensor, reference: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    active, inactive = (center > radius).to(center), (center < -radius).to(center)
    deviation = (center - center.mean()) ** 2
    ratios = [
        (center * active).sum() / -(center * inactive).sum(),
        (deviation * active).sum() / (deviation * inactive).sum(),
    ]
    balance = sum(torch.relu(tau - torch.minimum(q, 1 / q.clamp(min=TINY))) / tau for q in ratios)
    return torch.relu(tau - reference / radius.mean()) / tau, balance


@pytest.mark.parametrize("shift", [-0.6, 0.2, 0.7])
def test_the_regularisers(shift: float) -> None:
    plan = mlp(12, 9, 5).plan()
    center, radius = boxes()
    entering = Lockstep(center.detach(), center.detach(), torch.full_like(center, 0.1))
    hidden = center + shift
    values = [entering, Lockstep(hidden, hidden, radius), *[entering] * 2]
    got = regularisers(plan, values, tau=0.9)
    want = plain_terms(hidden, radius, entering.radius.mean(), 0.9)
    for a, b in zip(got, want, strict=True):
        assert float(b.detach()) > 0
        assert torch.allclose(a, b, rtol=1e-12)
        grads = (torch.autograd.grad(v, (center, radius), retain_graph=True, allow_unused=True) for v in (a, b))
        for x, y in zip(*grads, strict=True):
            assert torch.allclose(x, torch.zeros_like(x) if y is None else y, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("layer", [nn.Linear(7, 8), nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, bias=False)])
@pytest.mark.parametrize("training", [True, False])
def test_a_layer_with_its_batchnorm(layer: nn.Linear | nn.Conv2d, training: bool) -> None:
    """Values, statistics and gradients are those of the layer, then of torch.nn's own BatchNorm as an affine map."""
    torch.manual_seed(1)
    kind = nn.BatchNorm1d if isinstance(layer, nn.Linear) else nn.BatchNorm2d
    op = AffineBN(layer, kind(8)).double().train(training)
    with torch.no_grad():
        op.bn.weight.copy_(torch.linspace(-1.5, 1.2, 8))
        op.bn.bias.normal_()
        op.bn.running_mean.normal_()
    shape = (6, 7) if isinstance(layer, nn.Linear) else (6, 3, 5, 4)
    clean, center, radius = (torch.randn(shape, dtype=torch.float64).requires_grad_() for _ in range(3))
    buffers = {n: b.clone() for n, b in op.bn.named_buffers()}
    got = rule_for(op).lockstep(op, Lockstep(clean, center, radius.abs()))
    moved = {n: b.clone() for n, b in op.bn.named_buffers()}
    for name, buffer in op.bn.named_buffers():
        if training:
            buffer.copy_(buffers[name])

    before = layer(clean)
    over = [d for d in range(before.dim()) if d != 1]
    rows = (1, -1, *[1] * (before.dim() - 2))
    mean = before.mean(over) if training else op.bn.running_mean
    var = before.var(over, unbiased=False) if training else op.bn.running_var
    scale = op.bn.weight / torch.sqrt(var + op.bn.eps)
    shift, scale = (op.bn.bias - scale * mean).reshape(rows), scale.reshape(rows)
    wide = (
        nn.functional.linear(radius.abs(), layer.weight.abs())
        if isinstance(layer, nn.Linear)
        else layer._conv_forward(radius.abs(), layer.weight.abs(), None)
    )
    want = Lockstep(op.bn(before), layer(center) * scale + shift, wide * scale.abs())
    if training:
        assert all(torch.allclose(moved[n].double(), b.double()) for n, b in op.bn.named_buffers() if "num" not in n)

    inputs = [clean, center, radius, *op.parameters()]
    weights = [torch.randn_like(v) for v in (want.clean, want.center, want.radius)]
    grads = []
    for value in (got, want):
        parts = (value.clean, value.center, value.radius)
        grads.append(torch.autograd.grad(sum((w * v).sum() for w, v in zip(weights, parts, strict=True)), inputs))
    for name in ("clean", "center", "radius"):
        assert torch.allclose(getattr(got, name), getattr(want, name), rtol=1e-10)
    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-10) for a, b in zip(*grads, strict=True))
