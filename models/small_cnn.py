"""Small CNN: two strided convolutions and a fully connected layer, trained in minutes on a CPU."""

from __future__ import annotations

from torch import nn


class SmallCNN(nn.Sequential):
    """Convolutions of ``width`` and ``2 * width`` (4x4, stride 2, padding 1), ``hidden`` units, ``classes`` logits."""

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (1, 28, 28),
        classes: int = 10,
        *,
        width: int = 16,
        hidden: int = 100,
        bn: bool = False,
    ):
        channels, height, breadth = input_shape
        layers: list[nn.Module] = []
        for out in (width, 2 * width):
            layers += [nn.Conv2d(channels, out, 4, stride=2, padding=1), *[nn.BatchNorm2d(out)] * bn, nn.ReLU()]
            channels, height, breadth = out, height // 2, breadth // 2
        flat = channels * height * breadth
        layers += [nn.Flatten(), nn.Linear(flat, hidden), *[nn.BatchNorm1d(hidden)] * bn, nn.ReLU()]
        super().__init__(*layers, nn.Linear(hidden, classes))
