"""Adam (Kingma and Ba, arXiv 1412.6980, algorithm 1) for searches for slopes, bit by bit as ``torch.optim.Adam`` takes its steps.

Any ``torch.optim`` optimiser imports torch's compiler, seconds of CPU in each process that certifies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

FIRST, SECOND, EPSILON = 0.9, 0.999, 1e-8


class Adam:
    """Moves tensors in place against their gradients, each at a rate of its own that falls by ``decay`` with every step."""

    def __init__(self, tensors: Sequence[Tensor], rates: Sequence[float], decay: float):
        self.tensors, self.rates, self.decay = list(tensors), list(rates), decay
        self.means = [torch.zeros_like(x) for x in tensors]
        self.squares = [torch.zeros_like(x) for x in tensors]
        self.steps = 0

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """One step; a tensor without a gradient stays where it is."""
        self.steps += 1
        for i, (x, gradient) in enumerate(zip(self.tensors, gradients, strict=True)):
            if gradient is not None:
                self.means[i].lerp_(gradient, 1 - FIRST)
                self.squares[i].mul_(SECOND).addcmul_(gradient, gradient, value=1 - SECOND)
                size = self.squares[i].sqrt() / math.sqrt(1 - SECOND**self.steps)
                x.addcdiv_(self.means[i], size.add_(EPSILON), value=-self.rates[i] / (1 - FIRST**self.steps))
            self.rates[i] *= self.decay
