"""CNN-5: three 3x3 convolutions and two fully connected layers, a fifth of the multiply-adds of CNN-7."""

from __future__ import annotations

import math

from torch import nn


class CNN5(nn.Sequential):
    """Convolutions of ``width`` (1, 2 stride 2, 2 stride 2 times), then ``hidden`` units, then ``classes`` logits.

    31 million multiply-adds on 3x32x32 at width 64, where CNN-7 takes 151. ``bn`` puts a BatchNorm between each of the four
    hidden layers and its ReLU.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (3, 32, 32),
        classes: int = 10,
        *,
        width: int = 64,
        hidden: int = 128,
        bn: bool = True,
    ):
        channels, height, breadth = input_shape
        layers: list[nn.Module] = []
        for factor, stride in ((1, 1), (2, 2), (2, 2)):
            layers.append(nn.Conv2d(channels, channels := factor * width, 3, stride=stride, padding=1))
            layers += [nn.BatchNorm2d(channels)] * bn + [nn.ReLU()]
        flat = channels * math.ceil(height / 4) * math.ceil(breadth / 4)
        layers += [nn.Flatten(), nn.Linear(flat, hidden), *[nn.BatchNorm1d(hidden)] * bn, nn.ReLU()]
        super().__init__(*layers, nn.Linear(hidden, classes))
