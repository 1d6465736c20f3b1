"""CNN-7: five 3x3 convolutions and two fully connected layers, the network most results in certified training are about."""

from __future__ import annotations

import math

from torch import nn


class CNN7(nn.Sequential):
    """Convolutions of ``width`` (1, 1, 2 stride 2, 2, 2 times), then ``hidden`` units, then ``classes`` logits.

    For images of 64 pixels and more the last convolution has stride 2 as well, as the paper has it on TinyImageNet. ``bn`` puts
    a BatchNorm between each of the six hidden layers and its ReLU. The paper's width is 64, its hidden 512.
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
        last = 2 if min(height, breadth) >= 64 else 1
        for factor, stride in ((1, 1), (1, 1), (2, 2), (2, 1), (2, last)):
            layers.append(nn.Conv2d(channels, channels := factor * width, 3, stride=stride, padding=1))
            layers += [nn.BatchNorm2d(channels)] * bn + [nn.ReLU()]
        shrunk = 2 * last
        flat = channels * math.ceil(height / shrunk) * math.ceil(breadth / shrunk)
        layers += [nn.Flatten(), nn.Linear(flat, hidden), *[nn.BatchNorm1d(hidden)] * bn, nn.ReLU()]
        super().__init__(*layers, nn.Linear(hidden, classes))
