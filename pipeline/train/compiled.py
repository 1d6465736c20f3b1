"""A compiled objective beside its eager original: which of the two a step uses, and when their gradients are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pipeline.distributed.group import ProcessGroup
from pipeline.train.execution import Execution, Precision

ALIKE: dict[Precision, float] = {"fp32": 0.99, "tf32": 0.95, "bf16": 0.7}
"""The least cosine between the compiled and the eager gradient of one batch, by the precision of products.

At the first radii of a ramp rounding decides which neurons are unstable: there the gradient of CNN-7 in bfloat16 has a cosine of
0.90 with the same gradient rounded in another order, and of 0.51 with float32 (docs/results.md). A wrong one had 0.02.
"""
BRIEF = 2
"""So many epochs at eps zero, or fewer, are not compiled: a graph of their own is not worth its time."""


class Compiled:
    """``eager``, compiled as ``execution`` says. Compilers fail silently, so that gradients are compared.

    PyTorch 2.11 compiled the loss of this package with a wrong gradient, from which a network learns next to nothing.
    """

    def __init__(self, eager: Callable[..., Any], execution: Execution, device: torch.device):
        self.eager, self.compiled = eager, execution.compile(eager, device)
        self.least, self.active = ALIKE[execution.precision], execution.compiled
        self.brief = False
        self._first: int | None = None
        self._last = 0

    def begin(self, epoch: int, ramp: int) -> None:
        """To be called before an epoch; ``ramp`` is the epoch in which eps leaves zero."""
        self.brief = epoch < ramp <= BRIEF + 1

    @property
    def mode(self) -> tuple[bool, bool]:
        """What decides between the two."""
        return self.brief, self.active

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The objective, compiled or eager as this epoch computes it."""
        return (self.eager if self.brief else self.compiled)(*args, **kwargs)

    def due(self, epoch: int) -> bool:
        """Whether gradients are to be compared before the next step.

        They are in the first compiled epoch, in the next, and whenever twice as many epochs have passed: at first some terms
        of the loss have no gradient to compare.
        """
        if not self.active or self.brief:
            return False
        return self._first is None or epoch - self._first >= max(1, 2 * (self._last - self._first))

    def compare(self, epoch: int, compiled: Tensor, eager: Tensor, group: ProcessGroup) -> str:
        """Empty where the gradients have the same direction in every process; else why steps are eager from now on."""
        self._first, self._last = epoch if self._first is None else self._first, epoch
        cosine = torch.cosine_similarity(compiled, eager, dim=0).item()
        # Gradients that are zero have no angle.
        if not group.any(not (cosine > self.least or torch.equal(compiled, eager))):
            return ""
        self.compiled, self.active = self.eager, False
        return (
            f"PyTorch {torch.__version__} compiles these steps into others: the gradient of one batch has a cosine of "
            f"{cosine:.2g} with the eager one. Steps are not compiled; another version of PyTorch may do better."
        )
