"""Idea 2 on graphs we did not draw: where BatchNorm goes, and that the way there and back keeps function and names."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pipeline.core import ops
from pipeline.core.network import Network
from pipeline.errors import InputRejected
from pipeline.train.full_bn import fold, insert, placements
from pipeline.train.statistics import population_statistics_, start_from_statistics_
from tests.nets import Drawing, conv_net, mlp, residual_concat_net


def preactivation_net() -> Network:
    """BatchNorm at the input and after a residual sum, before the ReLU: used as it stands."""
    d = Drawing(1)
    x = d(nn.BatchNorm2d(3), d.input(3, 6, 6))
    stem = d(nn.Conv2d(3, 8, 3, padding=1, bias=False), x)
    inner = d(nn.ReLU(), d(nn.BatchNorm2d(8), stem))
    joined = d(ops.Add(), d(nn.Conv2d(8, 8, 3, padding=1), inner), stem)
    x = d(nn.Flatten(), d(nn.ReLU(), d(nn.BatchNorm2d(8), joined)))
    return d.finish(d(nn.Linear(8 * 36, 4), x))


def tied_net() -> Network:
    d = Drawing(2)
    x = d.input(9)
    first, second = nn.Linear(9, 9), nn.Linear(9, 9, bias=False)
    second.weight = first.weight
    x = d(nn.ReLU(), d(first, x))
    x = d(nn.ReLU(), d(second, x))
    return d.finish(d(nn.Linear(9, 4), x))


def sequence_net() -> Network:
    """A Linear layer over the last of three axes, whose channels BatchNorm would not see."""
    d = Drawing(3)
    x = d(nn.ReLU(), d(nn.Linear(6, 8), d.input(5, 6)))
    return d.finish(d(nn.Linear(40, 4), d(nn.Flatten(), x)))


NETS = {
    "mlp": mlp,
    "mlp without bias": lambda: mlp(bias=False),
    "mlp with covering norms": lambda: mlp(bn=True),
    "conv": conv_net,
    "conv with covering norms": lambda: conv_net(bn=True),
    "residual, concat, used twice": residual_concat_net,
    "pre-activation": preactivation_net,
    "linear of rank 3": sequence_net,
}


def sample(network: Network, n: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.rand(n, *network.inputs[0].shape[1:], generator=generator, dtype=torch.float64)


def trained(network: Network) -> Network:
    """As after training: every BatchNorm with parameters and statistics of its own, both signs."""
    generator = torch.Generator().manual_seed(4)
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, ops.BatchNorm):
            shape, like = module.weight.shape, module.weight
            module.weight.data = torch.randn(shape, generator=generator).to(like)
            module.bias.data = torch.randn(shape, generator=generator).to(like)
            module.running_mean.copy_(torch.randn(shape, generator=generator))
            module.running_var.copy_(torch.rand(shape, generator=generator) + 0.3)
    return network


def nodes(network: Network) -> list[tuple[str, str, tuple[str, ...]]]:
    graph = network.graph
    kinds = {n.name: type(graph.get_submodule(n.target)).__name__ for n in graph.graph.nodes if n.op == "call_module"}
    return [(n.name, kinds.get(n.name, n.op), tuple(str(a) for a in n.args)) for n in graph.graph.nodes]


@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_inserting_and_folding_keep_function_nodes_and_provenance(make: object) -> None:
    network = make().double()
    before, x = copy.deepcopy(network), sample(network)
    model = insert(network)
    assert torch.allclose(model(x), network(x), rtol=0, atol=1e-10), "an inserted BatchNorm starts as the identity"
    assert nodes(network) == nodes(before), "the network given is left as it was"
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), before.state_dict().values(), strict=True)
    )

    model = trained(model)
    back = fold(model)
    assert torch.allclose(back(x), model(x), rtol=1e-10, atol=1e-10)
    assert nodes(back) == nodes(network)
    assert back.provenance == network.provenance
    assert not back.training
    names = {n for n, _ in back.graph.named_parameters()}
    gained = names - {n for n, _ in network.graph.named_parameters()}
    assert all(n.endswith(".bias") and n not in back.provenance.weights for n in gained)

    kept = fold(insert(network, keep=True), keep=True)
    added = {n for n, _, _ in nodes(kept)} - {n for n, _, _ in nodes(network)}
    assert added == set(kept.provenance.inserted)
    assert torch.allclose(kept(x), network(x), rtol=0, atol=1e-10)
    assert names - gained <= {n for n, _ in kept.graph.named_parameters()}


@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_provenance_follows_every_parameter(make: object) -> None:
    network = make()
    model = insert(network)
    by_file = {w.initializer: n for n, w in network.provenance.weights.items()}
    parameters, originals = (dict(n.graph.named_parameters()) for n in (model, network))
    assert len(model.provenance.weights) == len(network.provenance.weights)
    for name, weight in model.provenance.weights.items():
        assert torch.equal(parameters[name], originals[by_file[weight.initializer]])


def statuses(network: Network, **settings: bool) -> list[tuple[str, str | None]]:
    return [(p.status, p.bn) for p in placements(network, **settings)]


def test_where_it_goes() -> None:
    assert statuses(mlp()) == [("inserted", None), ("inserted", None), ("classifier", None)]
    assert statuses(mlp(bn=True)) == [("covered", "n2"), ("covered", "n5"), ("classifier", None)]
    assert [s for s, _ in statuses(residual_concat_net())] == ["inserted"] * 6 + ["classifier"]
    # The stem is read by a BatchNorm and by the sum: not covered, so that it gets one of its own.
    assert [s for s, _ in statuses(preactivation_net())] == ["inserted", "inserted", "classifier"]
    (left, classifier) = placements(sequence_net())
    assert (left.status, classifier.status) == ("left", "classifier")
    assert "rank 3" in left.reason


def test_not_where_the_value_is_an_output() -> None:
    d = Drawing()
    first = d(nn.Linear(6, 8), d.input(6))
    last = d(nn.Linear(8, 3), d(nn.ReLU(), first))
    network = d.finish(first, last, shapes=((None, 8), (None, 3)))
    assert [p.status for p in placements(network)] == ["left", "classifier"]


def test_a_softmax_at_the_end_makes_no_layer_hidden() -> None:
    d = Drawing()
    x = d(nn.ReLU(), d(nn.Linear(6, 8), d.input(6)))
    network = d.finish(d(nn.Softmax(1), d(nn.Linear(8, 3), x)))
    assert [p.status for p in placements(network)] == ["inserted", "classifier"]


def test_frozen_weights_cannot_take_up_a_norm() -> None:
    network = mlp()
    frozen = replace(network.provenance, frozen={"n1.weight": "it lies behind a Cast"})
    network = Network(network.graph, network.inputs, network.outputs, frozen)
    assert [s for s, _ in statuses(network)] == ["left", "inserted", "classifier"]
    assert [s for s, _ in statuses(network, keep=True)] == ["inserted", "inserted", "classifier"]
    assert insert(network, keep=True).provenance.frozen == {"n1.affine.weight": "it lies behind a Cast"}


def test_a_tied_weight_is_not_folded_twice() -> None:
    with pytest.raises(InputRejected, match="--bn keep"):
        insert(tied_net())
    network = tied_net().double()
    model = trained(insert(network, keep=True))
    back = fold(model, keep=True)
    assert back.graph.n1.weight is back.graph.n3.weight
    assert back.provenance.inserted == {"n1_bn": "n1", "n3_bn": "n3"}
    x = sample(network)
    assert torch.allclose(back(x), model(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_kept_weights_start_from_the_data_s_statistics(make: object) -> None:
    network = make().double()
    x = sample(network, 64)
    model = insert(network)
    start_from_statistics_(model, x.split(20))
    assert torch.allclose(model(x), network(x), rtol=1e-10, atol=1e-10)
    for name in model.provenance.inserted:
        bn = model.graph.get_submodule(name)
        assert torch.allclose(bn.running_var + bn.eps, bn.weight.square())
    if model.provenance.inserted and not any(isinstance(m, ops.BatchNorm) for m in network.modules()):
        model.train()
        # gamma undoes the variance of the data, so that normalising by this very batch changes nothing either.
        assert torch.allclose(model(x), network(x), rtol=1e-6, atol=1e-6)


def test_population_statistics_are_means_over_the_batches() -> None:
    model = insert(mlp()).double()
    x = sample(model, 60)
    population_statistics_(model, x.split(20))
    z = model.graph.n1.affine(x)
    assert torch.allclose(model.graph.n1.bn.running_mean, z.mean(0))
    assert torch.allclose(model.graph.n1.bn.running_var, torch.stack([b.var(0) for b in z.split(20)]).mean(0))
    assert model.graph.n1.bn.momentum == 0.1
    assert not model.training
