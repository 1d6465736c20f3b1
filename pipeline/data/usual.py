"""The usual normalisations of published models: mean and standard deviation of pixels in [0, 1], by channel."""

from __future__ import annotations

import numpy as np

Usual = tuple[tuple[float, ...], tuple[float, ...]]
USUAL: dict[str, Usual] = {
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "MNIST": ((0.1307,), (0.3081,)),
    "[-1, 1]": ((0.5,), (0.5,)),
}
SLACK = 0.02
"""How far rounding, of values and of the written deviation, may put values beyond the ends."""


def flags(usual: Usual) -> str:
    """The flags --mean and --std of a normalisation."""
    mean, std = (",".join(f"{v:g}" for v in values) for values in usual)
    return f"--mean {mean} --std {std}"


def normalised_by(low: np.ndarray, high: np.ndarray) -> str | None:
    """The normalisation that may have made values with these smallest and largest values by channel, or None.

    Of several, it is the one whose images of pixels 0 and 1 enclose them most tightly.
    """
    distance: dict[str, float] = {}
    for name, (mean, std) in USUAL.items():
        if len(mean) not in (1, len(low)):
            continue
        black, white = -np.asarray(mean) / std, (1 - np.asarray(mean)) / std
        if (low >= black - SLACK).all() and (high <= white + SLACK).all():
            distance[name] = float(np.abs(low - black).sum() + np.abs(high - white).sum())
    return min(distance, key=lambda name: distance[name], default=None)
