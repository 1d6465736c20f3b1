"""ResNeXt: three residual blocks of grouped convolutions, with a fully connected hidden layer instead of pooling."""

from __future__ import annotations

import math

from torch import Tensor, nn


def _conv(channels: int, out: int, kernel: int, bn: bool, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(channels, out, kernel, stride=stride, padding=kernel // 2, groups=groups)
    return [conv, *[nn.BatchNorm2d(out)] * bn]


class Block(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolutions beside a shortcut; the result has twice the channels of the groups."""

    def __init__(self, channels: int, width: int, cardinality: int, stride: int, bn: bool):
        super().__init__()
        self.body = nn.Sequential(
            *_conv(channels, width, 1, bn),
            nn.ReLU(),
            *_conv(width, width, 3, bn, stride=stride, groups=cardinality),
            nn.ReLU(),
            *_conv(width, 2 * width, 1, bn),
        )
        same = stride == 1 and channels == 2 * width
        self.shortcut = nn.Sequential(*([] if same else _conv(channels, 2 * width, 1, bn, stride=stride)))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.body(x) + self.shortcut(x))


class ResNeXt(nn.Sequential):
    """Stem of ``stem`` channels, blocks of ``cardinality`` groups of ``width`` (doubling), ``hidden``, ``classes``.

    The paper's stem is 64, its groups 2 of width 32, its hidden layer 512.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (3, 32, 32),
        classes: int = 10,
        *,
        stem: int = 64,
        cardinality: int = 2,
        width: int = 32,
        hidden: int = 512,
        bn: bool = True,
    ):
        channels, height, breadth = input_shape
        layers: list[nn.Module] = [*_conv(channels, stem, 3, bn), nn.ReLU()]
        channels = stem
        for factor, stride in ((1, 1), (2, 2), (4, 2)):
            group_width = cardinality * width * factor
            layers.append(Block(channels, group_width, cardinality, stride, bn))
            channels = 2 * group_width
        flat = channels * math.ceil(height / 4) * math.ceil(breadth / 4)
        layers += [nn.Flatten(), nn.Linear(flat, hidden), *[nn.BatchNorm1d(hidden)] * bn, nn.ReLU()]
        super().__init__(*layers, nn.Linear(hidden, classes))
