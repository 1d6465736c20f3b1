"""Idea 2: BatchNorm after every hidden layer of an imported graph, and the way back to the graph as it was."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.bounds import walk
from pipeline.core.network import Network, Plan, Provenance
from pipeline.core.ops import AffineBN, BatchNorm, Layer
from pipeline.errors import InputRejected
from pipeline.train.layers import consumers, hidden, layer_of, layers


@dataclass(frozen=True)
class Placement:
    """What full BN means for one layer.

    ``covered``: its only reader is the BatchNorm ``bn``; ``inserted``: it gets one, whose value all its readers read instead;
    ``classifier``: no nonlinearity follows; ``left``: it stays without one, for the ``reason`` given.
    """

    node: str
    status: Literal["covered", "inserted", "classifier", "left"]
    bn: str | None = None
    reason: str = ""


def placements(network: Network, sample: Tensor | None = None, *, keep: bool = False) -> tuple[Placement, ...]:
    """Where BatchNorm is and where it would be inserted, for each layer in the order of the graph.

    ``sample`` is a batch of inputs, needed only where other dimensions than the batch are free. ``keep`` says that inserted
    BatchNorms remain nodes: a layer with frozen weights can have such a node after it, but none folded into it.
    """
    plan = network.plan()
    ranks, inner, readers = _ranks(network, plan, sample), hidden(plan), consumers(plan)
    result = []
    for step in layers(plan):
        layer, after = layer_of(step.op), readers[step.index]
        over_channels = not isinstance(layer, nn.Linear) or ranks[step.index] == 2
        if len(after) == 1 and isinstance(after[0].op, BatchNorm) and step.index not in plan.outputs and over_channels:
            result.append(Placement(step.name, "covered", bn=after[0].name))
        elif step.index not in inner:
            result.append(Placement(step.name, "classifier"))
        elif step.index in plan.outputs:
            result.append(Placement(step.name, "left", reason="its value is an output of the graph"))
        elif not over_channels:
            result.append(
                Placement(step.name, "left", reason=f"a Linear layer over values of rank {ranks[step.index]}")
            )
        elif _is_a_part(network, step.name):
            result.append(Placement(step.name, "left", reason="the file does not have its product by itself"))
        elif not keep and (frozen := _frozen(network, step.name)):
            result.append(Placement(step.name, "left", reason=f"its weights are frozen ({frozen})"))
        else:
            result.append(Placement(step.name, "inserted"))
    return tuple(result)


def insert(network: Network, sample: Tensor | None = None, *, keep: bool = False) -> Network:
    """The training form: a copy in which each hidden layer is one AffineBN; its nodes are those of the original.

    An inserted BatchNorm computes the identity until it is given statistics or initialised. One that the file has moves from its
    own node, which becomes an Identity meanwhile, into the layer's. ``provenance`` follows the parameters to their new names;
    its ``inserted`` names the modules that the file does not have. Raises InputRejected (3) where a weight that several nodes
    share would have to be folded in several ways, unless ``keep``.
    """
    places = placements(network, sample, keep=keep)
    if not keep:
        _refuse_tied(network, [p.node for p in places if p.status == "inserted"])
    network = copy.deepcopy(network)
    root = network.graph
    new_paths: dict[str, str] = {}
    inserted: dict[str, str] = {}
    for p in places:
        layer = layer_of(root.get_submodule(p.node))
        assert layer is not None
        if p.status == "covered":
            assert p.bn is not None
            bn = root.get_submodule(p.bn)
            assert isinstance(bn, BatchNorm)
            root.set_submodule(p.node, AffineBN(layer, bn))
            root.set_submodule(p.bn, nn.Identity())
            new_paths |= {p.node: f"{p.node}.affine", p.bn: f"{p.node}.bn"}
        elif p.status == "inserted":
            root.set_submodule(p.node, AffineBN(layer, _identity(layer)))
            new_paths[p.node] = f"{p.node}.affine"
            inserted[f"{p.node}.bn"] = p.node
    return Network(root, network.inputs, network.outputs, _rename(network.provenance, new_paths, inserted))


def fold(network: Network, *, keep: bool = False) -> Network:
    """The way back from the training form, as a copy in eval mode: exactly the nodes that were imported.

    Inserted BatchNorms fold into their layers, which gain a bias where they had none (a parameter without an entry in
    ``provenance.weights``); those of the file return to their own nodes with trained values, unfolded. With ``keep`` inserted
    ones become nodes after their layers, named in ``provenance.inserted``.
    """
    network = copy.deepcopy(network)
    root, was_inserted = network.graph, network.provenance.inserted
    new_paths: dict[str, str] = {}
    inserted: dict[str, str] = {}
    for node in list(root.graph.nodes):
        op = root.get_submodule(node.target) if node.op == "call_module" else None
        if not isinstance(op, AffineBN):
            continue
        new_paths[f"{node.name}.affine"] = node.name
        if f"{node.name}.bn" not in was_inserted:
            (reader,) = node.users
            root.set_submodule(node.target, op.affine)
            root.set_submodule(reader.target, op.bn)
            new_paths[f"{node.name}.bn"] = reader.name
        elif keep:
            root.set_submodule(node.target, op.affine)
            name = _free_name(root, f"{node.name}_bn")
            root.add_module(name, op.bn)
            with root.graph.inserting_after(node):
                after = root.graph.create_node("call_module", name, (node,), name=name)
            node.replace_all_uses_with(after, delete_user_cb=lambda user, after=after: user is not after)
            inserted[name] = node.name
        else:
            root.set_submodule(node.target, op.fold())
    root.graph.lint()
    root.recompile()
    return Network(root, network.inputs, network.outputs, _rename(network.provenance, new_paths, inserted))


def _identity(layer: Layer) -> BatchNorm:
    """A BatchNorm for a layer's channels that computes the identity in eval mode."""
    kind = (
        nn.BatchNorm2d
        if isinstance(layer, nn.Conv2d)
        else nn.BatchNorm3d
        if isinstance(layer, nn.Conv3d)
        else nn.BatchNorm1d
    )
    bn = kind(layer.weight.shape[0], dtype=layer.weight.dtype, device=layer.weight.device)
    with torch.no_grad():
        bn.weight.fill_((1 + bn.eps) ** 0.5)
    return bn.eval()


def _ranks(network: Network, plan: Plan, sample: Tensor | None) -> list[int]:
    """The rank of every node's value, from running the graph once."""
    weight = next(network.graph.parameters(), torch.zeros(()))
    if sample is None:
        shapes = [(2, *(d or 1 for d in port.shape[1:])) for port in network.inputs]
        inputs = [torch.zeros(s, dtype=weight.dtype, device=weight.device) for s in shapes]
    else:
        inputs = [sample[:2].to(weight)]
    with torch.no_grad():
        values = walk.forward(plan, inputs, lambda *_: None, keep=walk.EVERYTHING)
    return [v.dim() for v in values]


def _is_a_part(network: Network, node: str) -> bool:
    """Whether a layer is one of several that one node of the file became, such as a Gemm with ``alpha``: no value of it there."""
    origin = network.provenance.nodes.get(node)
    return origin is not None and not origin.output


def _frozen(network: Network, node: str) -> str:
    reasons = (network.provenance.frozen.get(f"{node}.{p}") for p in ("weight", "bias"))
    return next((r for r in reasons if r), "")


def _refuse_tied(network: Network, nodes: list[str]) -> None:
    """Raise InputRejected if a layer that would be folded shares a parameter with another node."""
    owners: dict[int, list[str]] = {}
    for name, parameter in network.graph.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name.rpartition(".")[0])
    for shared in owners.values():
        if len(shared) > 1 and set(shared) & set(nodes):
            raise InputRejected(
                "a weight that several nodes share cannot take up the BatchNorm of each; "
                f"{' and '.join(network.origin(n) for n in shared)} share one. Use `--bn keep`, which leaves BatchNorm as "
                "nodes of its own, or train without it."
            )


def _rename(provenance: Provenance, new_paths: Mapping[str, str], inserted: Mapping[str, str]) -> Provenance:
    """The same table after modules moved from old paths to new ones."""

    def rename(name: str) -> str:
        module, _, parameter = name.rpartition(".")
        return f"{new_paths[module]}.{parameter}" if module in new_paths else name

    return replace(
        provenance,
        weights={rename(n): weight for n, weight in provenance.weights.items()},
        frozen={rename(n): reason for n, reason in provenance.frozen.items()},
        inserted=dict(inserted),
    )


def _free_name(root: nn.Module, name: str) -> str:
    while hasattr(root, name):
        name += "_"
    return name
