"""The network of one batch: each BatchNorm in train mode replaced by its affine map under the statistics of the clean batch.

No layer of it depends on other samples, so that any walk can pass through it: points of an attack, boxes of a part of the batch,
linear forms backwards. Gradients flow through its weights into the statistics, and through these into the clean values.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pipeline.bounds import walk
from pipeline.core.network import Plan, Step
from pipeline.core.ops import AffineBN, Layer
from pipeline.distributed.sync_batch import WHOLE, Batch
from pipeline.rules.batchnorm import batch_statistics, scale_shift

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
"""``BatchNorm`` as a tuple, for the reason of ``layers.LAYERS``."""
Shells = Mapping[int, tuple[Layer, ...]]
"""For each BatchNorm, by the index of its node, the layer that it becomes, without weights: for one joined with its layer a
single shell, for one alone a shell for each number of dimensions after the channels. They are made beforehand because
torch.compile can set the weights of a layer, but cannot trace its construction."""


@dataclass(frozen=True, eq=False)
class BatchNetwork:
    """The plan of one batch's network, its layers that replace BatchNorms (by index), and the logits of the clean batch."""

    plan: Plan
    layers: Mapping[int, Layer]
    logits: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The weights and biases that depend on the statistics."""
        return tuple(t for layer in self.layers.values() for t in (layer.weight, layer.bias) if t is not None)

    def with_leaves(self) -> tuple[Plan, tuple[Tensor, ...]]:
        """The plan over detached copies of ``tensors``, leaves of the autograd graph; and these copies, in the same order."""
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
    """A clean value, wrapped so that the walk calls ``apply`` for every step that it reaches."""

    value: Tensor


def batch_network(plan: Plan, x: Tensor, shells: Shells | None = None, *, batch: Batch = WHOLE) -> BatchNetwork:
    """One pass of the clean batch, which also moves the running statistics as torch.nn does; it fills ``shells`` where given.

    With ``s = gamma / sqrt(var + eps)``: a layer with its BatchNorm becomes the layer of weight ``s W`` and bias
    ``s (b - mean) + beta``, a BatchNorm alone a layer of weight ``s`` and bias ``beta - s mean`` in each channel. BatchNorms in
    eval mode stay as they are.
    """
    layers: dict[int, Layer] = {}
    shells = shells or shells_of(plan)

    def apply(step: Step, *xs: _Clean | Tensor) -> _Clean:
        values = [v.value if isinstance(v, _Clean) else v for v in xs]
        op = step.op
        bn = op.bn if isinstance(op, AffineBN) else op
        if not isinstance(bn, NORMS) or not bn.training:
            return _Clean(op(*values))
        before = op.affine(*values) if isinstance(op, AffineBN) else values[0]
        scale, shift = scale_shift(bn, *batch_statistics(bn, before, batch))
        shell = shells[step.index]
        layers[step.index] = (
            _scaled(shell[0], op.affine, scale, shift)
            if isinstance(op, AffineBN)
            else _diagonal(shell, before, scale, shift)
        )
        rows = (1, -1, *[1] * (before.dim() - 2))
        # Layers may compute in bfloat16, statistics never do.
        value = torch.addcmul(shift.reshape(rows), before.to(scale.dtype), scale.reshape(rows))
        return _Clean(value.to(before.dtype))

    (output,) = plan.outputs
    logits = walk.forward(plan, [_Clean(x)], apply)[output]
    return BatchNetwork(_with(plan, layers), layers, logits.value if isinstance(logits, _Clean) else logits)


def shells_of(plan: Plan) -> Shells:
    """The layers that the BatchNorms of a plan become, without weights."""
    shells: dict[int, tuple[Layer, ...]] = {}
    for step in plan.steps:
        if isinstance(step.op, AffineBN):
            shells[step.index] = (_shell(step.op.affine),)
        elif isinstance(step.op, NORMS):
            n = step.op.num_features
            pixelwise = (kind(n, n, 1, groups=n, device="meta") for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d))
            shells[step.index] = tuple(map(_shell, (nn.Linear(n, n, device="meta"), *pixelwise)))
    return shells


def empty_(shells: Shells) -> None:
    """Take the weights out again: a compiled step would count those left in a shell among its outputs."""
    for layer in itertools.chain.from_iterable(shells.values()):
        _fill(layer, None, None)


def layer_with(like: Layer, weight: Tensor, bias: Tensor | None) -> Layer:
    """A layer of the same kind over the given tensors, which need be no parameters."""
    return _fill(_shell(like), weight, bias)


def _shell(like: Layer) -> Layer:
    layer = copy.copy(like)
    layer._parameters = {}
    return _fill(layer, None, None)


def _fill(shell: Layer, weight: Tensor | None, bias: Tensor | None) -> Layer:
    shell.weight, shell.bias = weight, bias  # type: ignore[assignment]
    return shell


def _scaled(shell: Layer, layer: Layer, scale: Tensor, shift: Tensor) -> Layer:
    weight = layer.weight * scale.reshape(-1, *[1] * (layer.weight.dim() - 1))
    return _fill(shell, weight, shift if layer.bias is None else shift + scale * layer.bias)


def _diagonal(shells: tuple[Layer, ...], x: Tensor, scale: Tensor, shift: Tensor) -> Layer:
    """A BatchNorm alone as a layer: a diagonal Linear over features, a depthwise 1x1 convolution over images."""
    rank = x.dim() - 2
    return _fill(shells[rank], scale.reshape(-1, 1, *[1] * rank) if rank else torch.diag(scale), shift)


def _with(plan: Plan, layers: Mapping[int, Layer]) -> Plan:
    return replace(plan, steps=tuple(replace(s, op=layers.get(s.index, s.op)) for s in plan.steps))
