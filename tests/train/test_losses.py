"""Losses of several shares against a plain formula; the attack within its box; micro-batches against the whole batch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.bounds.ibp import lockstep
from pipeline.bounds.margins import MarginBounds, head
from pipeline.core import ops
from pipeline.core.network import Network
from pipeline.core.threat import Box, clipped_box
from pipeline.train import recipe
from pipeline.train.adversary import adversarial_points
from pipeline.train.batch_network import batch_network
from pipeline.train.full_bn import insert
from pipeline.train.losses import LOSSES, LossInput
from pipeline.train.losses.crown_ibp import CrownIBP
from pipeline.train.losses.loss import logits
from pipeline.train.objective import Objective
from pipeline.train.terms import Phase, Schedule, Terms
from tests.nets import Drawing, conv_net, mlp, residual_concat_net

FULL, EPS, WEIGHT = Phase(robust=True, tightness=True, balance=True), 0.06, 0.4
Layers = list[tuple[Tensor, Tensor]]


def preactivated() -> Network:
    """BatchNorms that no layer precedes: of the image, after a sum, of flat features; and one layer without any."""
    d = Drawing()
    x = d(nn.BatchNorm2d(3), d.input(3, 6, 6))
    stem = d(nn.Conv2d(3, 4, 3, padding=1, bias=False), x)
    inner = d(nn.Conv2d(4, 4, 3, padding=1), d(nn.ReLU(), d(nn.BatchNorm2d(4), stem)))
    both = d(nn.ReLU(), d(nn.BatchNorm2d(4), d(ops.Add(), inner, stem)))
    flat = d(nn.BatchNorm1d(16), d(nn.Flatten(), d(nn.AvgPool2d(3), both)))
    return d.finish(d(nn.Linear(9, 4), d(nn.ReLU(), d(nn.Linear(16, 9), flat))), shapes=((None, 4),))


NETS: dict[str, Callable[[], Network]] = {
    "mlp": lambda: insert(mlp(12, 9, 8, 4)),
    "conv": lambda: insert(conv_net(classes=4)),
    "residual": lambda: insert(residual_concat_net()),
    "pre-activated": preactivated,
    "without BatchNorm": lambda: conv_net(classes=4),
}


def batch(network: Network, n: int = 12, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(n, *network.inputs[0].shape[1:], generator=generator, dtype=torch.float64)
    return x, torch.randint(0, classes, (n,), generator=generator)


def objective(network: Network, kappa: float = 0.3, beta: float = 0.6, **settings: Any) -> Objective:
    """With a share of the natural loss and of linear margins that do not move with eps."""
    shares = {"natural_start": kappa, "natural_end": kappa}
    if settings.get("loss") in ("crown-ibp", "mtl-ibp", "distil"):
        shares |= {"crown_start": beta, "crown_end": beta}
    teacher = mlp(12, 7, 4).double() if settings.get("loss") == "distil" else None
    made = recipe("shi2021", input_shape=(1, 8, 8), n_train=100, **shares, **settings)
    return Objective(network, made, teacher)


def terms(of: Objective, x: Tensor, y: Tensor, *, phase: Phase = FULL) -> Terms:
    kappa = of.recipe.natural_start
    now = Schedule(*(torch.tensor(v, dtype=x.dtype) for v in (EPS, WEIGHT, kappa, 0.7)))
    draw = torch.rand(x.shape, generator=torch.Generator().manual_seed(7), dtype=x.dtype)
    linear = phase.robust and of.loss.linear(0.7)
    return of(head(of.network.plan()), x, y, now, draw, phase=replace(phase, linear=linear))


def linear_margins(network: Network, samples: LossInput) -> Tensor:
    settings = recipe("crown-ibp", input_shape=(1, 8, 8), n_train=100)
    return CrownIBP(network, settings).linear_margins(samples)


def effective(network: Network, x: Tensor) -> Layers:
    """The layers of an MLP with BatchNorm under the statistics of the batch, by the definition of BatchNorm."""
    layers, h = [], x
    for op in (s.op for s in network.plan().steps):
        if isinstance(op, nn.ReLU):
            h = h.relu()
            continue
        layer, bn = (op, None) if isinstance(op, nn.Linear) else (op.affine, op.bn)
        weight, bias = layer.weight, layer.bias
        if bn is not None:
            z = h @ weight.T + bias
            s = bn.weight / ((z - z.mean(0)).square().mean(0) + bn.eps).sqrt()
            weight, bias = s[:, None] * weight, s * (bias - z.mean(0)) + bn.bias
        layers.append((weight, bias))
        h = h @ weight.T + bias
    return layers


def parts(terms_of_batch: Terms) -> list[Tensor]:
    return list(vars(terms_of_batch).values())


def run_mlp(layers: Layers, x: Tensor) -> Tensor:
    for weight, bias in layers[:-1]:
        x = (x @ weight.T + bias).relu()
    return x @ layers[-1][0].T + layers[-1][1]


def ends(layers: Layers, low: Tensor, up: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Before each ReLU, by W+ and W-."""
    boxes = []
    for weight, bias in layers[:-1]:
        plus, minus = weight.clamp(min=0), weight.clamp(max=0)
        low, up = low @ plus.T + up @ minus.T + bias, up @ plus.T + low @ minus.T + bias
        boxes.append((low, up))
        low, up = low.relu(), up.relu()
    return boxes


def least_margin(layers: Layers, low: Tensor, up: Tensor, y: int, j: int, *, crown: bool) -> Tensor:
    """Of one sample, ``z_y - z_j`` from below: at the last ReLU by IBP, or walked back to the input by CROWN's lines."""
    weight, bias = layers[-1]
    a, constant = weight[y] - weight[j], bias[y] - bias[j]
    boxes = ends(layers, low[None], up[None])
    if not crown:
        lo, hi = (v[0].relu() for v in boxes[-1])
        return a.clamp(min=0) @ lo + a.clamp(max=0) @ hi + constant
    for (weight, bias), (lo, hi) in zip(layers[-2::-1], boxes[::-1], strict=True):
        coeff = []
        for k, (below, u) in enumerate(zip(lo[0], hi[0], strict=True)):
            if below >= 0:
                coeff.append(a[k])
            elif u <= 0:
                coeff.append(a[k] * 0)
            elif a[k] > 0:
                coeff.append(a[k] * float(u > -below))
            else:
                coeff.append(a[k] * u / (u - below))
                constant = constant - a[k] * u * below / (u - below)
        a = torch.stack(coeff)
        constant, a = constant + a @ bias, a @ weight
    return a.clamp(min=0) @ low + a.clamp(max=0) @ up + constant


def reference(
    network: Network,
    x: Tensor,
    y: Tensor,
    alpha: float,
    kappa: float,
    beta: float,
    steps: int,
    step: float,
    teacher: Network | None,
) -> Tensor:
    layers = effective(network, x)
    low, up = (x - EPS).clamp(min=0), (x + EPS).clamp(max=1)
    draw = torch.rand(x.shape, generator=torch.Generator().manual_seed(7), dtype=x.dtype)
    fixed = [(w.detach(), b.detach()) for w, b in layers]
    point = low + draw * (up - low)
    for _ in range(steps):
        point = point.detach().requires_grad_()
        F.cross_entropy(run_mlp(fixed, point), y).backward()
        point = (point.detach() + step * (up - low) / 2 * point.grad.sign()).clamp(low, up)
    losses = []
    for i in range(len(x)):
        worst = []
        for j in range(4):
            both = [least_margin(layers, low[i], up[i], int(y[i]), j, crown=c) for c in (False, True)]
            worst.append(-(1 - beta) * both[0] - beta * both[1])
        losses.append(torch.logsumexp(torch.stack(worst), 0))
    attacked = F.cross_entropy(run_mlp(layers, point), y)
    if teacher is not None:
        p = teacher(x).softmax(1).detach()
        attacked = (p * (p.log() - run_mlp(layers, point).log_softmax(1))).sum(1).mean()
    robust = alpha * torch.stack(losses).mean() + (1 - alpha) * attacked
    return kappa * F.cross_entropy(run_mlp(layers, x), y) + (1 - kappa) * robust


@pytest.mark.parametrize(
    ("name", "alpha", "kappa", "beta", "steps", "step"),
    [
        ("crown-ibp", 1.0, 0.0, 1.0, 1, 10.0),
        ("crown-ibp", 1.0, 0.0, 0.4, 1, 10.0),
        ("mtl-ibp", 0.6, 0.0, 0.0, 1, 10.0),
        ("ibp", 1.0, 0.3, 0.0, 1, 10.0),
        ("pgd", 0.0, 0.0, 0.0, 3, 0.5),
        ("mtl-ibp", 0.5, 0.2, 0.7, 2, 0.8),
        ("distil", 0.4, 0.2, 0.7, 2, 0.8),
    ],
    ids=["CROWN-IBP", "mixed margins", "MTL-IBP", "natural share", "PGD", "all", "a teacher"],
)
def test_loss_and_gradients_are_those_of_the_plain_formula(
    name: str, alpha: float, kappa: float, beta: float, steps: int, step: float
) -> None:
    """With BatchNorm in train mode, through its batch statistics, in every parameter."""
    network = insert(mlp(12, 9, 8, 4)).double().train()
    with torch.no_grad():
        network.graph.n1.bn.weight.copy_(torch.linspace(-1.5, 1.2, 9))
    x, y = batch(network)
    parameters = list(network.parameters())
    given = {"alpha": alpha, "adversary_steps": steps, "adversary_step": step, "teacher": "given"}
    loss = objective(network, kappa, beta, loss=name, **{k: v for k, v in given.items() if k in LOSSES[name].settings})
    got = terms(loss, x, y, phase=Phase(robust=True)).loss
    teacher = mlp(12, 7, 4).double() if name == "distil" else None
    want = reference(network, x, y, alpha, kappa, beta, steps, step, teacher)
    assert torch.allclose(got, want, rtol=1e-10)
    pairs = zip(torch.autograd.grad(got, parameters), torch.autograd.grad(want, parameters), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-7, atol=1e-9) for a, b in pairs)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(
    "phase", [FULL, Phase(robust=True), Phase(robust=False, tightness=True, balance=True)], ids=str
)
def test_one_walk_and_two_give_the_same(name: str, phase: Phase) -> None:
    """The loss of IBP, boxes beside the clean batch or on its network; the running statistics move once, as torch moves them."""
    a, b = (NETS[name]().double().train() for _ in range(2))
    x, y = batch(a)
    got = terms(objective(a, micro_batch=len(x)), x, y, phase=phase)
    want = terms(objective(b), x, y, phase=phase)
    assert all(torch.allclose(g, w, rtol=1e-10) for g, w in zip(parts(got), parts(want), strict=True))
    got.loss.backward()
    want.loss.backward()
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        assert p.grad is None or torch.allclose(p.grad, q.grad, rtol=1e-8, atol=1e-11)
    assert all(torch.allclose(p.double(), q.double()) for p, q in zip(a.buffers(), b.buffers(), strict=True))


@pytest.mark.pairwise
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("micro_batch", [1, 5, 12])
@pytest.mark.parametrize("phase", [FULL, Phase(robust=False, tightness=True, balance=True)], ids=["ramp", "before"])
@pytest.mark.parametrize("settings", [{}, {"loss": "mtl-ibp", "alpha": 0.6}], ids=["ibp", "mtl-ibp"])
def test_micro_batches_have_the_gradient_of_the_whole(
    name: str, micro_batch: int, phase: Phase, settings: dict[str, Any]
) -> None:
    network = NETS[name]().double().train()
    x, y = batch(network)
    results = []
    for size in (None, micro_batch):
        state = copy.deepcopy(network.state_dict())
        got = terms(objective(network, micro_batch=size, **settings), x, y, phase=phase)
        network.zero_grad()
        got.loss.backward()
        results.append([*parts(got), *(torch.zeros(()) if p.grad is None else p.grad for p in network.parameters())])
        results[-1] += [b.double() for b in network.buffers()]
        network.load_state_dict(state)
    for whole, summed in zip(*results, strict=True):
        assert float((whole - summed).abs().max()) <= 1e-10 * max(1.0, float(whole.abs().max()))


@pytest.mark.parametrize("name", NETS)
def test_the_network_of_a_batch_is_the_trained_one_and_its_linear_bounds_hold(name: str) -> None:
    """Under one clean batch's statistics, a point inside a box keeps its margins; BatchNorm moves no statistics for it."""
    network = NETS[name]().double().train()
    x, y = batch(network)
    top = head(network.plan())
    clean = batch_network(top.plan, x)
    here = head(clean.plan)
    assert torch.allclose(clean.logits, logits(here, x))
    assert torch.allclose(clean.logits, network(x))
    moved = [b.clone() for b in network.buffers()]
    box = clipped_box(x, EPS)
    values = lockstep(clean.plan, x, box)
    with torch.no_grad():
        crown = linear_margins(network, LossInput(here, x, box, y, values, torch.ones(())))
        for share in torch.rand(50, *x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype):
            z = logits(here, box.center + (2 * share - 1).sign() * box.radius)
            others = z.scatter(1, y[:, None], -torch.inf)
            assert bool(
                ((z.gather(1, y[:, None]) - others.amax(1, keepdim=True)).flatten() >= crown.amin(0) - 1e-9).all()
            )
    assert all(torch.equal(a, b) for a, b in zip(moved, network.buffers(), strict=True))


def test_in_eval_mode_the_margins_are_those_that_certify() -> None:
    network = residual_concat_net().double()
    x, y = batch(network)
    box = clipped_box(x, EPS)
    top = head(network.plan())
    clean = batch_network(top.plan, x)
    got = linear_margins(network, LossInput(top, x, box, y, lockstep(clean.plan, x, box), torch.ones(())))
    want = MarginBounds(network, method="crown-ibp", meet=False).rows(Box(box), y)
    assert torch.allclose(got, want, rtol=1e-10, atol=1e-12)


def test_dead_and_pointlike_neurons_have_finite_gradients() -> None:
    network = mlp(12, 9, 8, 4)
    with torch.no_grad():
        network.graph.n1.weight[:3] = 0.0
        network.graph.n1.bias[:3] = torch.tensor([0.0, 1.0, -1.0])
    x, y = batch(network)
    terms(objective(network, beta=1.0, loss="crown-ibp"), x.float(), y, phase=Phase(robust=True)).loss.backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(("steps", "step"), [(1, 10.0), (5, 0.5)])
def test_the_attack_stays_in_the_box_and_gains(steps: int, step: float) -> None:
    network = conv_net()
    x, y = batch(network, 64, classes=5)
    x = x.float()
    box, top = clipped_box(x, 0.1), head(network.plan())
    draw = torch.rand(x.shape, generator=torch.Generator().manual_seed(0))

    def attack(count: int) -> Tensor:
        return adversarial_points(top, box, y, draw, steps=count, step=step)

    point = attack(steps)
    slack = 1e-6
    assert bool(((point - box.center).abs() <= box.radius + slack).all())
    assert bool((point >= -slack).all())
    assert bool((point <= 1 + slack).all())
    if step == 10:
        corners = torch.minimum((point - box.center + box.radius).abs(), (point - box.center - box.radius).abs())
        gradient_there = corners < slack
        assert float(gradient_there.float().mean()) > 0.95
    loss = {k: float(F.cross_entropy(network(p), y)) for k, p in (("clean", x), ("attacked", point))}
    assert loss["attacked"] > loss["clean"]
    assert all(p.grad is None for p in network.parameters())
