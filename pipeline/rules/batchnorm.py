"""BatchNorm, alone and joined with the layer before it. In training, gradients flow through the clean batch's statistics."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core.floating_point import SLACK, TINY32
from pipeline.core.interval import Interval, Lockstep, at_least_float32
from pipeline.core.ops import AffineBN, BatchNorm, Layer
from pipeline.core.rounding import EXACT, Rounding
from pipeline.distributed.sync_batch import WHOLE, Batch
from pipeline.rules.affine import correlate
from pipeline.rules.affine_rule import Affine
from pipeline.rules.relax import Chain, Relaxation, Window
from pipeline.rules.rule import Example, Value, fold_floor, rule, rule_for


def scale_shift(bn: BatchNorm, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """``s = gamma / sqrt(var + eps)`` and ``t = beta - s mean``, per channel."""
    scale = torch.rsqrt(var + bn.eps)
    scale = scale if bn.weight is None else bn.weight * scale
    return scale, (0 if bn.bias is None else bn.bias) - scale * mean


def batch_statistics(bn: BatchNorm, clean: Tensor, batch: Batch = WHOLE) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel of the whole clean batch; in eval mode the running statistics.

    In training they move the running statistics, the running variance by the unbiased estimate, as in torch.nn.
    """
    return _statistics(bn, clean, batch)[:2]


def _statistics(bn: BatchNorm, clean: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """``batch_statistics``, and the deviation from the mean; on a CPU ``var_mean`` takes ten times as long."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    if not bn.training:
        return bn.running_mean, bn.running_var, at_least_float32(clean) - _channels(bn.running_mean, clean)
    dims = [d for d in range(clean.dim()) if d != 1]
    mean = batch.mean(at_least_float32(clean).mean(dims))
    deviation = at_least_float32(clean) - _channels(mean, clean)
    var = batch.mean(deviation.square().mean(dims))
    with torch.no_grad():
        n = batch.count(clean.numel() // clean.shape[1])
        momentum = 0.1 if bn.momentum is None else bn.momentum
        bn.running_mean.lerp_(mean, momentum)
        bn.running_var.lerp_(var * (n / max(n - 1, 1)), momentum)
    return mean, var, deviation


def _normalised(bn: BatchNorm, clean: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """The value of the BatchNorm on the clean batch, and its ``s`` and ``t``.

    It is computed from the deviation, which the gradient of the variance saves anyway; from ``clean``, autograd would save both.
    """
    mean, var, deviation = _statistics(bn, clean, batch)
    scale, shift = scale_shift(bn, mean, var)
    bias = torch.zeros_like(scale) if bn.bias is None else bn.bias
    value = torch.addcmul(_channels(bias, clean), deviation, _channels(scale, clean))
    return value.to(clean.dtype), scale, shift


def _running(bn: BatchNorm) -> tuple[Tensor, Tensor]:
    """``scale_shift`` of the running statistics."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    return scale_shift(bn, bn.running_mean, bn.running_var)


def _channels(value: Tensor, like: Tensor) -> Tensor:
    return value.reshape(1, -1, *[1] * (like.dim() - 2))


@rule(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
class BatchNormRule(Affine[BatchNorm]):
    """``y = s x + (beta - s mean)`` per channel; the half-width is ``|s| r``."""

    def radius(self, op: BatchNorm, *xs: Value) -> Tensor:
        (x,) = xs
        assert isinstance(x, Interval)
        scale, _ = _running(op)
        return _channels(scale.abs(), x.radius) * x.radius

    def terms(self, op: BatchNorm, *xs: Value) -> int:
        return 6  # var + eps, sqrt, the quotient, the difference, the product, the sum

    def transpose(self, op: BatchNorm, coeff: Tensor, *xs: Value) -> tuple[Tensor | None, ...]:
        return (coeff * _channels(_running(op)[0], coeff[0]),)

    def window(self, op: BatchNorm, *xs: Value) -> Window | None:
        scale, _ = _running(op)
        return lambda coeff, origin: [(coeff * _channels(scale, coeff[0]), origin)]

    def deployed_terms(self, op: BatchNorm, terms: int, carried: int) -> int:
        return carried + SLACK + 1

    def offset(self, op: BatchNorm, *xs: Value) -> Tensor | float:
        """``|s mean| + |beta|``: never ``|beta - s mean|``, in which the rounding of both terms may cancel from view."""
        (x,) = xs
        assert isinstance(x, Interval)
        scale, _ = _running(op)
        mean = (scale * op.running_mean).abs() if op.running_mean is not None else torch.zeros_like(scale)
        return _channels(mean if op.bias is None else mean + op.bias.abs(), x.center)

    def flush(self, op: BatchNorm, *xs: Value) -> Tensor | float:
        """``tiny (1 + 1/sqrt(v)) (|x| + |mean| + 1)`` with ``v = var + eps``.

        A subnormal ``gamma``, ``s`` or ``mean`` read as zero changes ``s x`` and ``s mean`` by at most that. Infinite where
        ``v < 2^-96``: there a flushed ``var`` or ``eps`` may change ``s`` by more than the roundings that ``SLACK`` allows for.
        """
        (x,) = xs
        assert isinstance(x, Interval)
        assert op.running_mean is not None
        assert op.running_var is not None
        spread = op.running_var + op.eps
        factor = torch.where(spread < 2.0**-96, torch.inf, TINY32 * (1 + torch.rsqrt(spread.abs())))
        return _channels(factor, x.center) * (x.magnitude + _channels(op.running_mean.abs(), x.center) + 1)

    def carries(self, op: BatchNorm, carried: int, *xs: Value) -> int:
        return carried + 1

    def folds_into_producer(self, op: BatchNorm, constants: tuple[Tensor | None, ...]) -> Tensor | None:
        return _running(op)[0].abs()

    def lockstep(self, op: BatchNorm, *xs: Lockstep | Tensor, batch: Batch = WHOLE) -> Lockstep:
        (x,) = xs
        assert isinstance(x, Lockstep)
        clean, scale, shift = _normalised(op, x.clean, batch)
        scale, shift = _channels(scale, clean), _channels(shift, clean)
        return Lockstep(clean, x.center * scale + shift, x.radius * scale.abs())

    def examples(self) -> Iterator[Example]:
        for module, shape in (
            (nn.BatchNorm1d, (3, 8)),
            (nn.BatchNorm2d, (3, 8, 4, 3)),
            (nn.BatchNorm3d, (2, 8, 2, 3, 2)),
        ):
            yield Example(module(8), (shape,))


@rule(AffineBN)
class AffineBNRule(Affine[AffineBN]):
    """A layer with its BatchNorm; in training the scale is multiplied into a convolution's ``W`` and ``|W|``, not its outputs."""

    def interval(self, op: AffineBN, *xs: Value, rounding: Rounding = EXACT) -> Interval:
        inner = _layer(op).interval(op.affine, *xs, rounding=self._before(op, rounding))
        return _BN.interval(op.bn, inner, rounding=self._after(op, rounding, *xs))

    def relax(self, op: AffineBN, *xs: Value, rounding: Rounding = EXACT) -> Relaxation:
        inner = _layer(op).interval(op.affine, *xs, rounding=self._before(op, rounding))
        return Chain(
            before=_layer(op).relax(op.affine, *xs, rounding=self._before(op, rounding)),
            after=_BN.relax(op.bn, inner, rounding=self._after(op, rounding, *xs)),
        )

    def carries(self, op: AffineBN, carried: int, *xs: Value) -> int:
        return _layer(op).carries(op.affine, carried, *xs) + 1

    def _before(self, op: AffineBN, rounding: Rounding) -> Rounding:
        scale = _running(op.bn)[0].abs()
        shape = (-1, *[1] * max(op.affine.weight.dim() - 2, 0))
        return rounding.at(carried=rounding.carried, folded_scale=fold_floor(scale).reshape(shape))

    def _after(self, op: AffineBN, rounding: Rounding, *xs: Value) -> Rounding:
        return rounding.at(carried=_layer(op).carries(op.affine, 0, *xs))

    def lockstep(self, op: AffineBN, *xs: Lockstep | Tensor, batch: Batch = WHOLE) -> Lockstep:
        (x,) = xs
        assert isinstance(x, Lockstep)
        affine = op.affine
        if isinstance(affine, nn.Linear):
            # It has many more weights than outputs: scale the outputs, and read the weights once for two products.
            before, center = affine(torch.cat((x.clean, x.center))).chunk(2)
            radius = F.linear(x.radius, affine.weight.abs())
            clean, scale, shift = _normalised(op.bn, before, batch)
            scale, shift = _channels(scale, clean), _channels(shift, clean)
            return Lockstep(clean, center * scale + shift, radius * scale.abs())
        clean, scale, shift = _normalised(op.bn, affine(x.clean), batch)
        weight = affine.weight * scale.reshape(-1, *[1] * (affine.weight.dim() - 1))
        bias = shift if affine.bias is None else shift + scale * affine.bias
        center = correlate(affine, x.center, weight, bias)
        return Lockstep(clean, center, correlate(affine, x.radius, weight.abs(), None))

    def examples(self) -> Iterator[Example]:
        yield Example(AffineBN(nn.Linear(6, 8), nn.BatchNorm1d(8)), ((3, 6),))
        yield Example(AffineBN(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)), ((2, 3, 5, 4),))


_BN = BatchNormRule()


def _layer(op: AffineBN) -> Affine[Layer]:
    layer_rule = rule_for(op.affine)
    assert isinstance(layer_rule, Affine)
    return layer_rule
