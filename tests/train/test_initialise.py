"""Idea 1: deviations by fan-in, told by the graph's paths."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from pipeline.core import ops
from pipeline.core.network import Network
from pipeline.train.full_bn import insert
from pipeline.train.initialise import reinitialise_
from tests.nets import Drawing, conv_net, residual_concat_net


def drawn(network: Network, *, ibp: bool = True, seed: int = 0) -> Network:
    network = copy.deepcopy(network)
    reinitialise_(network, ibp=ibp, generator=torch.Generator().manual_seed(seed))
    return network


def branches() -> Network:
    """Two branches summed, a layer after the sum, a layer that feeds a layer directly, two layers that classify."""
    d = Drawing()
    x = d.input(64)
    a = d(nn.ReLU(), d(nn.Linear(64, 96), x))
    b = d(nn.Linear(96, 96), a)
    s = d(nn.ReLU(), d(ops.Add(), a, b))
    direct = d(nn.Linear(96, 128), s)
    last = d(nn.ReLU(), d(nn.Linear(128, 100), direct))
    return d.finish(d(ops.Add(), d(nn.Linear(100, 80), last), d(nn.Linear(96, 80), s)))


def mean_abs(network: Network) -> list[float]:
    """``n E|W|`` of each layer, in the order of the graph."""
    layers = [s.op for s in network.plan().steps if isinstance(s.op, ops.Layer)]
    return [m.weight[0].numel() * float(m.weight.detach().abs().mean()) for m in layers]


def test_the_mean_of_the_weights_follows_the_paths() -> None:
    network = drawn(branches())
    uniform = math.sqrt(100) / 2, math.sqrt(96) / 2  # n E|W| under PyTorch's default: n / (2 sqrt(n))
    expected = [2, 2, 2 / 2 / 2, 2, *uniform]
    assert mean_abs(network) == pytest.approx(expected, rel=0.05)


def test_groups_and_channels_count_into_the_fan_in() -> None:
    conv = drawn(conv_net(size=16))
    assert mean_abs(conv)[:3] == pytest.approx([2, 2, 2], rel=0.25)


def test_a_sum_halves_through_activations_joins_and_inserted_norms() -> None:
    plain, normed = residual_concat_net(), insert(residual_concat_net())
    for network in (drawn(plain), drawn(normed)):
        layers = [s.op.affine if isinstance(s.op, ops.AffineBN) else s.op for s in network.plan().steps]
        layers = [m for m in layers if isinstance(m, ops.Layer)]
        got = [m.weight[0].numel() * float(m.weight.detach().abs().mean()) for m in layers[:6]]
        assert got == pytest.approx([2, 2, 2, 1, 1, 2], rel=0.25)


def test_vanilla_is_the_default_of_pytorch_with_numbers_from_the_seed() -> None:
    network, again, other = (
        drawn(branches(), ibp=False),
        drawn(branches(), ibp=False),
        drawn(branches(), ibp=False, seed=1),
    )
    for layer in (s.op for s in network.plan().steps if isinstance(s.op, nn.Linear)):
        bound = 1 / math.sqrt(layer.in_features)
        for parameter in (layer.weight, layer.bias):
            assert float(parameter.abs().max()) <= bound
            assert float(parameter.std()) == pytest.approx(bound / math.sqrt(3), rel=0.2)
    assert torch.equal(network.graph.n1.weight, again.graph.n1.weight)
    assert not torch.equal(network.graph.n1.weight, other.graph.n1.weight)


def test_norms_start_anew_and_frozen_parameters_stay() -> None:
    before = conv_net(bn=True)
    frozen = replace(before.provenance, frozen={"n5.weight": "it lies behind a Cast"})
    network = drawn(Network(before.graph, before.inputs, before.outputs, frozen))
    norm = network.graph.n6
    assert norm.weight.eq(1).all()
    assert norm.bias.eq(0).all()
    assert norm.running_mean.eq(0).all()
    assert norm.running_var.eq(1).all()
    assert torch.equal(network.graph.n5.weight, before.graph.n5.weight)
    assert not torch.equal(network.graph.n8.weight, before.graph.n8.weight)
    assert torch.equal(network.graph.n1, before.graph.n1), "constants of preprocessing never move"
