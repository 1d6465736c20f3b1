"""Pruned weights stay pruned: which they are, and what is left of a layer's fan-in."""

from __future__ import annotations

from torch import Tensor

from pipeline.core.network import Network
from pipeline.train.layers import layer_of, layers


def masks(network: Network) -> dict[str, Tensor]:
    """One for each weight of a layer that is not exactly zero, zero for each that is, by the parameter's name.

    Weights without a zero have no mask.
    """
    names = {id(p): n for n, p in network.graph.named_parameters()}
    weights = [layer.weight for s in layers(network.plan()) if (layer := layer_of(s.op)) is not None]
    found = {names[id(w)]: (w.detach() != 0).to(w.dtype) for w in weights if id(w) in names}
    return {name: mask for name, mask in found.items() if not bool(mask.all())}


def rescale(mask: Tensor, power: float) -> Tensor:
    """What a drawn weight is multiplied by: zero where it is masked, ``(n / k)^power`` in a row that keeps ``k`` of ``n``."""
    left = mask.flatten(1).sum(1).clamp(min=1)
    return mask * ((mask[0].numel() / left) ** power).reshape(-1, *[1] * (mask.dim() - 1))
