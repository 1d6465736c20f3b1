"""Idea 2: BatchNorm after every hidden layer of a graph we did not draw, and the way back to the graph as it was."""

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

    ``covered``: its only reader is the BatchNorm ``bn``; ``inserted``: it gets one, which all its readers take over;
    ``classifier``: no nonlinearity follows; ``left``: it stays as it is, ``why`` says for what reason.
    """

    node: str
    status: Literal["covered", "inserted", "classifier", "left"]
    bn: str | None = None
    why: str = ""


def placements(network: Network, sample: Tensor | None = None, *, keep: bool = False) -> tuple[Placement, ...]:
    """Where BatchNorm stands and where it would go, for each layer in the order of the graph.

    ``sample`` is a batch of inputs, needed only where the graph leaves more than the batch free. ``keep`` says that inserted
    BatchNorms remain nodes, which a frozen layer can bear and a folded one cannot.
    """
    plan = network.plan()
    ranks, inner, readers = _ranks(network, plan, sample), hidden(plan), consumers(plan)
    found = []
    for step in layers(plan):
        layer, after = layer_of(step.op), readers[step.index]
        over_channels = not isinstance(layer, nn.Linear) or ranks[step.index] == 2
        if len(after) == 1 and isinstance(after[0].op, BatchNorm) and step.index not in plan.outputs and over_channels:
            found.append(Placement(step.name, "covered", bn=after[0].name))
        elif step.index not in inner:
            found.append(Placement(step.name, "classifier"))
        elif step.index in plan.outputs:
            found.append(Placement(step.name, "left", why="its value is an output of the graph"))
        elif not over_channels:
            found.append(Placement(step.name, "left", why=f"a Linear layer over values of rank {ranks[step.index]}"))
        elif _is_a_part(network, step.name):
            found.append(Placement(step.name, "left", why="the file does not have its product by itself"))
        elif not keep and (frozen := _frozen(network, step.name)):
            found.append(Placement(step.name, "left", why=f"its weights are frozen ({frozen})"))
        else:
            found.append(Placement(step.name, "inserted"))
    return tuple(found)


def insert(network: Network, sample: Tensor | None = None, *, keep: bool = False) -> Network:
    """The training form: a copy whose hidden layers each are one AffineBN; its nodes are those of the original.

    An inserted BatchNorm computes the identity until it is given statistics or drawn anew. A covering one moves from its own
    node, which passes its value on meanwhile, into the layer's. ``provenance`` follows the parameters to their new names;
    its ``inserted`` names the modules that the file does not have. Raises InputRejected where a weight that several nodes
    share would have to be folded in several ways, unless ``keep``.
    """
    found = placements(network, sample, keep=keep)
    if not keep:
        _refuse_tied(network, [p.node for p in found if p.status == "inserted"])
    network = copy.deepcopy(network)
    root = network.graph
    moved: dict[str, str] = {}
    inserted: dict[str, str] = {}
    for p in found:
        layer = layer_of(root.get_submodule(p.node))
        assert layer is not None
        if p.status == "covered":
            assert p.bn is not None
            bn = root.get_submodule(p.bn)
            assert isinstance(bn, BatchNorm)
            root.set_submodule(p.node, AffineBN(layer, bn))
            root.set_submodule(p.bn, nn.Identity())
            moved |= {p.node: f"{p.node}.affine", p.bn: f"{p.node}.bn"}
        elif p.status == "inserted":
            root.set_submodule(p.node, AffineBN(layer, _identity(layer)))
            moved[p.node] = f"{p.node}.affine"
            inserted[f"{p.node}.bn"] = p.node
    return Network(root, network.inputs, network.outputs, _renamed(network.provenance, moved, inserted))


def fold(network: Network, *, keep: bool = False) -> Network:
    """The way back from the training form, as a copy in eval mode: exactly the nodes that were imported.

    Inserted BatchNorms fold into their layers, which gain a bias where they had none (a parameter without an entry in
    ``provenance.weights``); covering ones return to their own nodes with trained values, unfolded. With ``keep`` inserted ones
    become nodes after their layers, named in ``provenance.inserted``.
    """
    network = copy.deepcopy(network)
    root, was_inserted = network.graph, network.provenance.inserted
    moved: dict[str, str] = {}
    inserted: dict[str, str] = {}
    for node in list(root.graph.nodes):
        op = root.get_submodule(node.target) if node.op == "call_module" else None
        if not isinstance(op, AffineBN):
            continue
        moved[f"{node.name}.affine"] = node.name
        if f"{node.name}.bn" not in was_inserted:
            (reader,) = node.users
            root.set_submodule(node.target, op.affine)
            root.set_submodule(reader.target, op.bn)
            moved[f"{node.name}.bn"] = reader.name
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
    return Network(root, network.inputs, network.outputs, _renamed(network.provenance, moved, inserted))


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
    """Whether a layer is one of several that a node of the file became, such as a Gemm with ``alpha``: no value is its own."""
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


def _renamed(provenance: Provenance, moved: Mapping[str, str], inserted: Mapping[str, str]) -> Provenance:
    """The same table after modules moved from one path to another."""

    def renamed(name: str) -> str:
        module, _, parameter = name.rpartition(".")
        return f"{moved[module]}.{parameter}" if module in moved else name

    return replace(
        provenance,
        weights={renamed(n): w for n, w in provenance.weights.items()},
        frozen={renamed(n): why for n, why in provenance.frozen.items()},
        inserted=dict(inserted),
    )


def _free_name(root: nn.Module, name: str) -> str:
    while hasattr(root, name):
        name += "_"
    return name
