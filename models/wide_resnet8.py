"""Wide-ResNet-8: a stem and three residual blocks, widened, with a fully connected hidden layer instead of pooling."""

from __future__ import annotations

import math

from torch import Tensor, nn


def _norm(channels: int, bn: bool) -> nn.Module:
    return nn.BatchNorm2d(channels) if bn else nn.Identity()


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, a 1x1 convolution where the shape changes; ReLU after the sum."""

    def __init__(self, channels: int, out: int, stride: int, bn: bool):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride=stride, padding=1),
            _norm(out, bn),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, padding=1),
            _norm(out, bn),
        )
        same = stride == 1 and channels == out
        self.shortcut = nn.Identity() if same else nn.Sequential(nn.Conv2d(channels, out, 1, stride), _norm(out, bn))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.body(x) + self.shortcut(x))


class WideResNet8(nn.Sequential):
    """Stem of ``base`` channels, blocks of ``base * widen`` (1, 2 stride 2, 4 stride 2 times), ``hidden``, ``classes``.

    The paper's base is 16, its widening 8, its hidden layer 512.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (3, 32, 32),
        classes: int = 10,
        *,
        base: int = 16,
        widen: int = 8,
        hidden: int = 512,
        bn: bool = True,
    ):
        channels, height, breadth = input_shape
        layers: list[nn.Module] = [nn.Conv2d(channels, base, 3, padding=1), _norm(base, bn), nn.ReLU()]
        channels = base
        for factor, stride in ((1, 1), (2, 2), (4, 2)):
            layers.append(Block(channels, channels := base * widen * factor, stride, bn))
        flat = channels * math.ceil(height / 4) * math.ceil(breadth / 4)
        layers += [nn.Flatten(), nn.Linear(flat, hidden), *[nn.BatchNorm1d(hidden)] * bn, nn.ReLU()]
        super().__init__(*layers, nn.Linear(hidden, classes))
