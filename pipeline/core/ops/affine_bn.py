"""A layer and its batch normalisation, which training bounds as one affine operator."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


class AffineBN(nn.Module):
    """A layer and the BatchNorm after it as one operator: ``s (W x + b - mean) + beta``, ``s = gamma / sqrt(var + eps)``."""

    affine: Layer
    bn: BatchNorm

    def __init__(self, affine: Layer, bn: BatchNorm):
        super().__init__()
        self.affine, self.bn = affine, bn

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.affine(x))

    def fold(self) -> Layer:
        """The affine layer alone that computes the same function in eval mode; it gains a bias where it had none.

        ``W' = s W``, ``b' = s (b - mean) + beta`` (Jacob et al., Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference, CVPR 2018, eq. 14), computed in float64.
        """
        affine, bn = copy.deepcopy(self.affine), self.bn
        assert bn.running_mean is not None
        assert bn.running_var is not None
        weight = affine.weight.detach()
        scale = (bn.weight.double() / torch.sqrt(bn.running_var.double() + bn.eps)).detach()
        bias = torch.zeros_like(scale) if affine.bias is None else affine.bias.detach().double()
        shift = scale * (bias - bn.running_mean.double()) + bn.bias.detach().double()
        rows = scale.reshape(-1, *[1] * (weight.dim() - 1))
        affine.weight = nn.Parameter((weight.double() * rows).to(weight.dtype))
        affine.bias = nn.Parameter(shift.to(weight.dtype))
        return affine
