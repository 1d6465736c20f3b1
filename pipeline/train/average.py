"""A running mean of the weights, delivered in their place where a recipe says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from pipeline.core.network import Network


class Average:
    """``w' <- d w' + (1 - d) w`` at step ``n`` from 0, of weights and BatchNorm statistics; ``d = min(decay, n / (n + 9))``.

    ``d`` rises so that the mean of a short run does not rest on its first weights (Polyak, Juditsky 1992; the ramp of ``d`` as
    in TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, model: Network):
        self.model, self.steps = model, 0
        # Found once: a step has no time for it, and loading weights leaves the tensors in place.
        state = model.graph.state_dict(keep_vars=True)
        self.moving = {n: t.detach() for n, t in state.items() if t.is_floating_point()}
        self.mean = {n: t.clone() for n, t in self.moving.items()}

    @torch.no_grad()
    def update(self, weight: float | Tensor) -> None:
        """Move the mean by this ``weight`` towards the model's weights (``mean_weight``); the first update sets it to them.

        As a tensor the weight is read on the device when the update runs there.
        """
        mean, moving = list(self.mean.values()), list(self.moving.values())
        torch._foreach_lerp_(mean, moving, [weight] * len(mean) if isinstance(weight, Tensor) else weight)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model has the mean for its weights, or its own before the first update; afterwards its own again."""
        if not self.steps:
            yield
            return
        own = {n: t.clone() for n, t in self.moving.items()}
        self.load(self.mean)
        try:
            yield
        finally:
            self.load(own)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Give the model these weights and statistics."""
        for name, tensor in self.moving.items():
            tensor.copy_(tensors[name])

    def state(self) -> dict[str, object]:
        """The state to save in a checkpoint."""
        return {"steps": self.steps, "mean": self.mean}

    def restore(self, state: Mapping[str, object]) -> None:
        """Take over a saved ``state``."""
        steps, mean = state["steps"], state["mean"]
        assert isinstance(steps, int)
        assert isinstance(mean, dict)
        self.steps = steps
        for name, tensor in mean.items():
            self.mean[name].copy_(tensor)
