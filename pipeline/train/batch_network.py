"""The network of one batch: each BatchNorm in train mode as the affine map that it is under the statistics of the clean batch.

Such a network has no statistics left, and every walk takes it: points of an attack, boxes of a part of the batch, linear forms
backwards. Gradients flow through its weights into the statistics, and through these into the clean values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pipeline.network import Plan, Step
from pipeline.ops import AffineBN, BatchNorm, Layer
from pipeline.propagate import walk
from pipeline.rules.batchnorm import batch_statistics, scale_shift


@dataclass(frozen=True, eq=False)
class BatchNetwork:
    """The plan of one batch's network, its layers that were BatchNorms (by index), and the logits of the clean batch."""

    plan: Plan
    layers: Mapping[int, Layer]
    logits: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Weights and biases that depend on the statistics."""
        return tuple(t for layer in self.layers.values() for t in (layer.weight, layer.bias) if t is not None)

    def with_leaves(self) -> tuple[Plan, tuple[Tensor, ...]]:
        """The plan on copies of ``tensors``, in their order, that end the graph of gradients; and the copies."""
        layers = {
            i: layer_with(
                layer,
                layer.weight.detach().requires_grad_(),
                None if layer.bias is None else layer.bias.detach().requires_grad_(),
            )
            for i, layer in self.layers.items()
        }
        return _with(self.plan, layers), BatchNetwork(self.plan, layers, self.logits).tensors


@dataclass(frozen=True, eq=False)
class _Clean:
    """A clean value: no tensor, so that the walker asks what to do with it."""

    value: Tensor


def batch_network(plan: Plan, x: Tensor) -> BatchNetwork:
    """One pass of the clean batch, which also moves the running statistics as torch.nn does.

    With ``s = gamma / sqrt(var + eps)``: a layer with its BatchNorm becomes the layer ``s W, s (b - mean) + beta``, a BatchNorm
    alone the layer ``s, beta - s mean`` of each channel. BatchNorms in eval mode stay as they are.
    """
    layers: dict[int, Layer] = {}

    def apply(step: Step, *xs: _Clean | Tensor) -> _Clean:
        values = [v.value if isinstance(v, _Clean) else v for v in xs]
        op = step.op
        bn = op.bn if isinstance(op, AffineBN) else op
        if not isinstance(bn, BatchNorm) or not bn.training:
            return _Clean(op(*values))
        before = op.affine(*values) if isinstance(op, AffineBN) else values[0]
        scale, shift = scale_shift(bn, *batch_statistics(bn, before))
        layers[step.index] = (
            _scaled(op.affine, scale, shift) if isinstance(op, AffineBN) else _alone(before, scale, shift)
        )
        rows = (1, -1, *[1] * (before.dim() - 2))
        # Layers may compute in bfloat16, statistics never do.
        value = torch.addcmul(shift.reshape(rows), before.to(scale.dtype), scale.reshape(rows))
        return _Clean(value.to(before.dtype))

    (output,) = plan.outputs
    logits = walk.forward(plan, [_Clean(x)], apply)[output]
    return BatchNetwork(_with(plan, layers), layers, logits.value if isinstance(logits, _Clean) else logits)


def layer_with(like: Layer, weight: Tensor, bias: Tensor | None, **sizes: int) -> Layer:
    """A layer of the same kind that computes with tensors that belong to others."""
    layer = type(like).__new__(type(like))  # torch.compile follows neither copy.copy nor a constructor
    layer.__dict__.update(like.__dict__, _parameters={}, **sizes)
    layer.weight, layer.bias = weight, bias  # type: ignore[assignment]
    return layer


def _scaled(layer: Layer, scale: Tensor, shift: Tensor) -> Layer:
    weight = layer.weight * scale.reshape(-1, *[1] * (layer.weight.dim() - 1))
    return layer_with(layer, weight, shift if layer.bias is None else shift + scale * layer.bias)


_POINTWISE = (nn.Linear(1, 1), nn.Conv1d(1, 1, 1), nn.Conv2d(1, 1, 1), nn.Conv3d(1, 1, 1))
"""By how many dimensions come after the channels."""


def _alone(before: Tensor, scale: Tensor, shift: Tensor) -> Layer:
    """A BatchNorm as a layer: a diagonal one over features, one of a single pixel for each channel over images."""
    channels, rank = before.shape[1], before.dim() - 2
    if rank == 0:
        return layer_with(_POINTWISE[0], torch.diag(scale), shift, in_features=channels, out_features=channels)
    sizes = {"in_channels": channels, "out_channels": channels, "groups": channels}
    return layer_with(_POINTWISE[rank], scale.reshape(-1, 1, *[1] * rank), shift, **sizes)


def _with(plan: Plan, layers: Mapping[int, Layer]) -> Plan:
    return replace(plan, steps=tuple(replace(s, op=layers.get(s.index, s.op)) for s in plan.steps))
