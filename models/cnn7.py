"""CNN-7: five 3x3 convolutions and two fully connected layers, the network most results in certified training are about."""

from __future__ import annotations

import math

from torch import nn


class CNN7(nn.Sequential):
    """Convolutions of ``width`` (1, 1, 2 stride 2, 2, 2 times), then ``hidden`` units, then ``classes`` logits.

    ``bn`` puts a BatchNorm between each of the six hidden layers and its ReLU. The paper's width is 64, its hidden 512.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (3, 32, 32),
        classes: int = 10,
        *,
        width: int = 64,
        hidden: int = 512,
        bn: bool = True,
    ):
        channels, height, breadth = input_shape
        layers: list[nn.Module] = []
        for factor, stride in ((1, 1), (1, 1), (2, 2), (2, 1), (2, 1)):
            layers.append(nn.Conv2d(channels, channels := factor * width, 3, stride=stride, padding=1))
            layers += [nn.BatchNorm2d(channels)] * bn + [nn.ReLU()]
        flat = channels * math.ceil(height / 2) * math.ceil(breadth / 2)
        layers += [nn.Flatten(), nn.Linear(flat, hidden), *[nn.BatchNorm1d(hidden)] * bn, nn.ReLU()]
        super().__init__(*layers, nn.Linear(hidden, classes))
