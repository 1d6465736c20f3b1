"""Pruned weights stay pruned: their masks, and the fan-in that remains of a layer."""

from __future__ import annotations

from torch import Tensor

from pipeline.core.network import Network
from pipeline.train.layers import layer_of, layers


def masks(network: Network) -> dict[str, Tensor]:
    """For each layer's weight with zeros, by its name: a mask that is zero where the weight is exactly zero, else one."""
    names = {id(p): n for n, p in network.graph.named_parameters()}
    weights = [layer.weight for s in layers(network.plan()) if (layer := layer_of(s.op)) is not None]
    by_name = {names[id(w)]: (w.detach() != 0).to(w.dtype) for w in weights if id(w) in names}
    return {name: mask for name, mask in by_name.items() if not bool(mask.all())}


def rescale(mask: Tensor, power: float) -> Tensor:
    """The factor of an initial weight: zero where the mask is, else ``(n / k)^power`` in a row with ``k`` of ``n`` entries."""
    count = mask.flatten(1).sum(1).clamp(min=1)
    return mask * ((mask[0].numel() / count) ** power).reshape(-1, *[1] * (mask.dim() - 1))
