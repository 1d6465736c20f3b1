"""Idea 1: an initialisation under which interval bounds neither explode nor vanish on their way through the network."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.core.network import Network
from pipeline.core.ops import BatchNorm
from pipeline.rules.affine import fan_in
from pipeline.train.layers import feeds_layers_only_directly, follows_sum, hidden, layer_of, layers, rescale


@torch.no_grad()
def reinitialise_(
    network: Network, *, ibp: bool, generator: torch.Generator, masks: Mapping[str, Tensor] | None = None
) -> None:
    """Initialise every trainable weight, bias and BatchNorm, in place, by idea 1 if ``ibp``, else by PyTorch's defaults.

    A hidden layer of fan-in ``n`` (per group) takes ``W ~ N(0, 2 pi / n^2)``, so that ``E|W| = 2/n``: the radius sums to
    ``n r E|W| = 2 r`` and the ReLU halves it (Shi et al., arXiv 2103.17268, section 3.1). By the same argument:

    - after a sum of two values that both vary (a residual Add), radii have doubled, and the weights are halved;
    - a hidden layer that feeds the next layers without a nonlinearity between has nothing to halve its radius: it takes
      half the deviation, ``N(0, pi / (2 n^2))``;
    - before an activation other than ReLU the rule for ReLU is used without change.

    A layer that classifies (no nonlinearity after it on any path) keeps PyTorch's default, since smaller logits would only
    flatten the loss; so do all biases (uniform within ``1/sqrt(n)``). BatchNorms start at ``gamma = 1``, ``beta = 0`` with
    empty statistics. Frozen parameters and constants stay as they are; a tied weight is drawn once. Where ``masks`` has one
    for a weight (by name), the entries where it is zero are zero, and ``n`` counts the others of each row. Numbers are drawn on
    the CPU, so that every device starts from the same weights.
    """
    plan, frozen = network.plan(), set(network.provenance.frozen)
    names = {id(p): n for n, p in network.graph.named_parameters()}
    inner = hidden(plan)
    visited: set[int] = set()

    def is_new(parameter: Tensor) -> bool:
        if id(parameter) in visited or names.get(id(parameter)) in frozen:
            return False
        visited.add(id(parameter))
        return True

    for step in layers(plan):
        layer = layer_of(step.op)
        assert layer is not None
        n = fan_in(layer)
        assert n is not None
        if is_new(layer.weight):
            halving = ibp and step.index in inner
            if halving:
                deviation = math.sqrt(2 * math.pi) / n
                deviation /= 2 if follows_sum(plan, step) else 1
                deviation /= 2 if feeds_layers_only_directly(plan, step) else 1
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * deviation)
            else:
                # kaiming_uniform_ with a = sqrt(5): uniform within 1/sqrt(n).
                layer.weight.copy_(_uniform(layer.weight, n, generator))
            mask = (masks or {}).get(names.get(id(layer.weight), ""))
            if mask is not None:
                layer.weight.mul_(rescale(mask, 1.0 if halving else 0.5))
        if layer.bias is not None and is_new(layer.bias):
            layer.bias.copy_(_uniform(layer.bias, n, generator))
    for name, module in network.graph.named_modules():
        if isinstance(module, BatchNorm) and not {f"{name}.weight", f"{name}.bias"} & frozen:
            module.reset_parameters()


def _uniform(like: Tensor, n: int, generator: torch.Generator) -> Tensor:
    return (2 * torch.rand(like.shape, generator=generator) - 1) / math.sqrt(n)
