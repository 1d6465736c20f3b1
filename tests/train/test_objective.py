"""The loss and its gradients against hand-computed values and a slow, plain reference; the regularisers at their edges."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.bounds.margins import head
from pipeline.core.network import Network
from pipeline.train import recipe
from pipeline.train.full_bn import insert
from pipeline.train.losses.loss import robust_cross_entropy
from pipeline.train.objective import Objective
from pipeline.train.regularise import _Moments, terms_of
from pipeline.train.terms import Phase, Schedule, Terms
from tests.nets import Drawing, conv_net, mlp, residual_concat_net

TAU, FULL = 0.5, Phase(robust=True, tightness=True, balance=True)
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
    ),
]


def batch(network: Network, n: int = 12, classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(n, *network.inputs[0].shape[1:], generator=generator, dtype=torch.float64)
    return x, torch.randint(0, classes, (n,), generator=generator)


def terms(network: Network, x: Tensor, y: Tensor, eps: float, weight: float = 0.4, phase: Phase = FULL) -> Terms:
    return objective(network)(head(network.plan()), x, y, now(x, eps, weight), phase=phase)


def objective(network: Network) -> Objective:
    return Objective(network, recipe("shi2021", input_shape=(1, 8, 8), n_train=100))


def now(x: Tensor, eps: float, weight: float) -> Schedule:
    return Schedule(*(torch.tensor(v, dtype=x.dtype, device=x.device) for v in (eps, weight, 0.0, 1.0)))


def balance(center: Tensor, radius: Tensor) -> Tensor:
    """ReLU balance of one layer; the box that enters the network plays no part in it."""
    return terms_of(torch.stack([_Moments.apply(center, radius)] * 2), tau=TAU)[1]


def reference(network: Network, x: Tensor, y: Tensor, eps: float, weight: float, phase: Phase) -> Tensor:
    """Lower and upper ends through W+ and W-, statistics from a clean pass, ratios by plain division, margins by a loop."""
    clean, low, up = x, (x - eps).clamp(min=0), (x + eps).clamp(max=1)
    input_radius, tight, balanced = ((up - low) / 2).mean(), [], []

    def scaled(v: tuple[Tensor, Tensor, Tensor], s: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b = v[1] * s + t, v[2] * s + t
        return v[0] * s + t, torch.minimum(a, b), torch.maximum(a, b)

    modules = [s.op for s in network.plan().steps]
    for op in modules[:-1]:
        if isinstance(op, nn.ReLU):
            c, r = (low + up) / 2, (up - low) / 2
            tight.append(F.relu(TAU - input_radius / r.mean()) / TAU)
            on, off, d = low > 0, up < 0, (c - c.mean()) ** 2
            if bool(off.any()):
                q = (c * on).mean() / -(c * off).mean(), (d * on).sum() / (d * off).sum()
                balanced.append(sum(F.relu(TAU - (p if bool(p < 1) else 1 / p)) for p in q) / TAU)
            else:
                balanced.append(c.sum() * 0)
            clean, low, up = clean.relu(), low.relu(), up.relu()
        else:
            layer, bn = op.affine, op.bn
            plus, minus, b = layer.weight.clamp(min=0), layer.weight.clamp(max=0), layer.bias
            clean, low, up = (
                clean @ layer.weight.T + b,
                low @ plus.T + up @ minus.T + b,
                up @ plus.T + low @ minus.T + b,
            )
            mean, var = clean.mean(0), clean.var(0, unbiased=False)
            s = bn.weight / torch.sqrt(var + bn.eps)
            clean, low, up = scaled((clean, low, up), s, bn.bias - s * mean)
    last, losses = modules[-1], []
    for i in range(len(x)):
        worst = []
        for j in range(last.out_features):
            w = last.weight[y[i]] - last.weight[j]
            worst.append(w.clamp(min=0) @ low[i] + w.clamp(max=0) @ up[i] + last.bias[y[i]] - last.bias[j])
        losses.append(torch.logsumexp(torch.stack([-m for m in worst]), 0))
    robust, natural = torch.stack(losses).mean(), F.cross_entropy(clean @ last.weight.T + last.bias, y)
    loss = robust if phase.robust else natural
    loss = loss + weight * torch.stack(tight).mean() * phase.tightness
    return loss + weight * torch.stack(balanced).mean() * phase.balance


@pytest.mark.parametrize("eps", [1e-6, 0.02, 0.3])
@pytest.mark.parametrize(
    "phase",
    [FULL, Phase(robust=True), Phase(robust=False, tightness=True, balance=True), Phase(robust=True, balance=True)],
)
def test_loss_and_gradients_are_those_of_the_plain_reference(eps: float, phase: Phase) -> None:
    """With BatchNorm in train mode, through its batch statistics, in every parameter."""
    network = insert(mlp(12, 16, 14, 5)).double().train()
    with torch.no_grad():
        for step in network.plan().steps[:-1]:
            if hasattr(step.op, "bn"):
                step.op.bn.weight.copy_(torch.linspace(-1.5, 1.2, len(step.op.bn.weight)))
    x, y = batch(network)
    parameters = list(network.parameters())
    got = terms(network, x, y, eps, phase=phase).loss
    want = reference(network, x, y, eps, 0.4, phase)
    assert torch.allclose(got, want, rtol=1e-10)
    pairs = zip(torch.autograd.grad(got, parameters), torch.autograd.grad(want, parameters), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-8) for a, b in pairs)


def test_without_statistics_the_first_layers_bias_would_have_a_gradient() -> None:
    """A bias before a BatchNorm moves the mean and nothing else: its gradient vanishes only if the mean is not detached."""
    network = insert(mlp()).double().train()
    terms(network, *batch(network), 0.1).loss.backward()
    assert network.graph.n1.affine.bias.grad.abs().max() < 1e-12
    assert network.graph.n1.affine.weight.grad.abs().max() > 1e-4


@pytest.mark.parametrize("device", DEVICES)
def test_by_hand(device: str) -> None:
    """x = 1/2, eps = 1/5: hidden [1/2 ± 2/5, -1/2 ± 2/5], after ReLU [1/2 ± 2/5, 0]; z_0 - z_1 = 3 h_0 - h_1 + 1."""
    d = Drawing()
    first, last = nn.Linear(1, 2), nn.Linear(2, 2)
    network = d.finish(d(last, d(nn.ReLU(), d(first, d.input(1)))))
    with torch.no_grad():
        for parameter, value in zip(
            (first.weight, first.bias, last.weight, last.bias),
            ([[2.0], [-2.0]], [-0.5, 0.5], [[1.0, 0.0], [-2.0, 1.0]], [1.0, 0.0]),
            strict=True,
        ):
            parameter.copy_(torch.tensor(value))
    network.to(device).train()
    x, y = torch.full((1, 1), 0.5, device=device), torch.zeros(1, dtype=torch.long, device=device)
    got = terms(network, x, y, 0.2)
    # h_0 in [1/10, 9/10], h_1 = 0: the least margin is 1.3. Radii are 2/5 against 1/5: tightness (0.5 - 0.5)/0.5 = 0. The
    # active and the inactive center are as far from zero, and from their mean.
    assert float(got.robust) == pytest.approx(math.log(1 + math.exp(-1.3)), rel=1e-6)
    assert float(got.natural) == pytest.approx(math.log(1 + math.exp(-2.5)), rel=1e-6)
    assert [float(v) for v in (got.tightness, got.balance)] == pytest.approx([0, 0], abs=1e-6)
    assert [float(v) for v in (got.correct, got.certified)] == [1, 1]
    got.loss.backward()
    # d loss/d margin = -sigmoid(-1.3); the margin's lower bound is 3 (2 (x - eps) - 1/2) + 1, h_0 being active.
    slope = -1 / (1 + math.exp(1.3))
    assert last.bias.grad.tolist() == pytest.approx([slope, -slope], rel=1e-6)
    assert first.bias.grad.tolist() == pytest.approx([3 * slope, 0], rel=1e-6)
    assert first.weight.grad.flatten().tolist() == pytest.approx([3 * slope * 0.3, 0], rel=1e-6, abs=1e-7)


def test_the_robust_cross_entropy_is_that_of_the_margins() -> None:
    margins = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    logits = torch.cat([torch.zeros(1, 2), -margins]).T
    want = F.cross_entropy(logits, torch.zeros(2, dtype=torch.long), reduction="sum")
    assert torch.allclose(robust_cross_entropy(margins), want)


@pytest.mark.parametrize("phase", [Phase(robust=False), Phase(robust=False, tightness=True, balance=True)])
def test_before_the_ramp_the_loss_is_natural(phase: Phase) -> None:
    network = insert(conv_net()).double().train()
    x, y = batch(network)
    got = terms(network, x, y, 1e-6, weight=0.0, phase=phase)
    assert torch.allclose(got.loss, F.cross_entropy(network(x), y))
    assert float(got.robust) == float(got.certified) == 0


@pytest.mark.parametrize("make", [conv_net, residual_concat_net])
def test_running_statistics_move_once_a_step_as_torch_moves_them(make: object) -> None:
    a, b = (insert(make()).double().train() for _ in range(2))
    x, y = batch(a, classes=4)
    terms(a, x, y, 0.1)
    b(x)
    buffers = dict(b.named_buffers())
    moved = [n for n in buffers if n.rpartition(".")[2] in ("running_mean", "running_var")]
    assert moved
    assert all(torch.allclose(dict(a.named_buffers())[n], buffers[n]) for n in moved)


@pytest.mark.parametrize("shift", [-50.0, 50.0, 0.0], ids=["none active", "none inactive", "none stable"])
def test_one_sided_layers_have_finite_gradients(shift: float) -> None:
    radius = 0.1 if shift else 99.0
    c = (torch.randn(4, 6, generator=torch.Generator().manual_seed(0)) + shift).requires_grad_()
    r = torch.full_like(c, radius).requires_grad_()
    value = balance(c, r)
    value.backward()
    assert float(value.detach()) == (2 / TAU * TAU if shift < 0 else 0)
    assert c.grad.isfinite().all()

    network = insert(mlp()).double().train()
    with torch.no_grad():
        network.graph.n1.bn.bias.fill_(shift)
    got = terms(network, *batch(network), 0.1)
    got.loss.backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_balanced_layers_cost_nothing_and_lopsided_ones_the_formula() -> None:
    c = torch.tensor([[3.0, -3.0, 1.0, -1.0]])
    assert float(balance(c, torch.full_like(c, 0.5))) == 0
    c = torch.tensor([[8.0, -1.0, 0.0, -3.0]])  # m+ = 8, m- = 4; mean 1; v+ = 49, v- = 4 + 16
    want = (0 + (TAU - 20 / 49)) / TAU
    assert float(balance(c, torch.full_like(c, 0.5))) == pytest.approx(want, rel=1e-6)


def test_tightness_reads_the_box_that_enters_the_first_layer() -> None:
    """A normalisation inside the graph changes nothing: the same terms as for normalised data in a wider range."""
    inside = insert(conv_net()).double().train()
    outside = copy.deepcopy(inside)
    nodes = {n.name: n for n in outside.graph.graph.nodes}
    nodes["n4"].replace_all_uses_with(nodes["n0"])
    outside.graph.graph.eliminate_dead_code()
    outside.graph.recompile()
    x, y = batch(inside)
    got = terms(inside, x, y, 0.03)
    top, z = head(outside.plan()), (x - 0.4) / 0.3
    want = objective(outside)(top, z, y, now(x, 0.03 / 0.3, 0.4), phase=FULL, low=-0.4 / 0.3, high=0.6 / 0.3)
    assert float(got.tightness) > 0
    for name in ("loss", "robust", "tightness", "balance"):
        assert torch.allclose(getattr(got, name), getattr(want, name), rtol=1e-5)
