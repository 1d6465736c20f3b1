"""One network of all the new families: transposed and plain convolutions, a pool, LayerNorm, attention, a gate."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from pipeline.bounds.margins import MarginBounds
from pipeline.core import ops
from pipeline.core.interval import Interval
from pipeline.core.network import Network
from pipeline.core.outward import Outward
from pipeline.methods import METHODS
from pipeline.rules import unsupported
from tests.nets import Drawing


def network() -> Network:
    d = Drawing(0)
    x = d(ops.Reshape((0, 3, 2, 1)), d.input(6))
    x = d(nn.ReLU(), d(nn.ConvTranspose2d(3, 8, 4, stride=2), x))
    x = d(nn.ReLU(), d(nn.Conv2d(8, 8, 3, stride=2, padding=1), x))
    x = d(nn.Flatten(), d(nn.MaxPool2d(2, stride=1), x))
    tokens = d(ops.Reshape((0, 3, 4)), d(nn.LayerNorm(12), d(nn.Linear(16, 12), x)))
    scores = d(ops.MatrixProduct(), tokens, d(ops.Transpose((0, 2, 1)), tokens))
    mixed = d(ops.MatrixProduct(), d(nn.Softmax(-1), scores), tokens)
    gated = d(ops.Max(), d(ops.Product(), mixed, tokens), d(nn.ReLU(), tokens))
    return d.finish(d(nn.Linear(12, 4), d(nn.Flatten(), gated)), shapes=((None, 4),))


@pytest.mark.parametrize("eps", [0.1, 1e-3])
@torch.no_grad()
def test_margins_hold_dense_samples_and_walking_on_is_tighter(eps):
    net = network().in_float64()
    assert unsupported(net) == ()
    generator = torch.Generator().manual_seed(0)
    center = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    labels = net(center).argmax(1)
    box = Interval(center, torch.full_like(center, eps))
    sampled = torch.full((3,), torch.inf, dtype=torch.float64)
    for i in range(300):
        weight = torch.rand(3, 6, generator=generator, dtype=torch.float64) * 2 - 1
        logits = net(center + eps * (weight.sign() if i % 2 else weight))
        others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
        sampled = torch.minimum(sampled, logits.gather(1, labels[:, None])[:, 0] - others)
    found = [MarginBounds(net, Outward(deployed=False), method=m).least(box, labels) for m in METHODS]
    for least in found:
        assert bool((least <= sampled + 1e-12).all())
    for looser, tighter in pairwise(found):
        assert bool((tighter >= looser - 1e-9).all())
    if eps < 0.01:
        assert bool((sampled - found[-1] < 0.01 * (sampled - found[0])).all())
