"""Digits CNN: the network of the demonstration, for images of 8x8."""

from __future__ import annotations

from torch import nn


class DigitsCNN(nn.Sequential):
    """A 3x3 convolution of 16, a 4x4 one of 32 with stride 2, 64 hidden units, 10 logits; no BatchNorm."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )
