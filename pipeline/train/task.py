"""The task of a training run, and its network in the form in which it trains."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline import rules
from pipeline.core.network import Network
from pipeline.errors import InputRejected
from pipeline.train.execution import Execution
from pipeline.train.full_bn import insert
from pipeline.train.hyperparameters import Recipe
from pipeline.train.initialise import reinitialise_
from pipeline.train.layers import masks
from pipeline.train.statistics import start_from_statistics_


@runtime_checkable
class Batches(Protocol):
    """Training data: the same number of batches ``(x, y)`` of one shape in every epoch, on the device, in pixel units.

    The batches of an epoch depend on its number alone, so that an interrupted run sees the same ones as an uninterrupted run.
    """

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, /) -> Iterable[tuple[Tensor, Tensor]]: ...


@dataclass(frozen=True, eq=False)
class Task:
    """A network, the data it is trained on, and the radius of the perturbations that it is to withstand.

    Raises InputRejected (3) for a network that cannot be trained.
    """

    network: Network
    batches: Batches
    recipe: Recipe
    eps: Fraction
    """As a fraction of the valid range ``[low, high]`` of the data."""
    held_out: tuple[Float[Tensor, " n *features"], Int[Tensor, " n"]] | None = None
    """Samples and labels to measure accuracy on after each epoch; never trained on."""
    low: float = 0.0
    high: float = 1.0
    identity: Mapping[str, str] = field(default_factory=dict)
    """Digests of everything else that must be the same for a run to resume (the data, the file)."""
    teacher: Network | None = None
    """The accurate network that a loss such as ``distil`` learns from, over the same inputs and classes."""

    def __post_init__(self) -> None:
        inputs, outputs = self.network.inputs, self.network.outputs
        if len(inputs) != 1 or len(outputs) != 1:
            raise InputRejected(
                f"training needs one input and one output; this network has {len(inputs)} and {len(outputs)}: name the "
                "logits with `--output`."
            )
        rules.require(self.network)
        if self.teacher is not None:
            _require_alike(self.teacher, self.network)

    @property
    def sample(self) -> Tensor:
        """Two samples, from which shapes are read."""
        return next(iter(self.batches.epoch(1)))[0][:2]

    def teacher_on(self, device: torch.device | str) -> Network | None:
        """A copy of the teacher on a device, in eval mode, that never trains."""
        if self.teacher is None:
            return None
        return copy.deepcopy(self.teacher).to(device).eval().requires_grad_(False)

    def configuration(self, execution: Execution) -> dict[str, Any]:
        """Everything that the trained weights depend on: a checkpoint belongs to one such configuration."""
        recipe = {f"recipe.{k}": v for k, v in self.recipe.model_dump(mode="json").items()}
        data = {"eps": str(self.eps), "range": [self.low, self.high], "steps_per_epoch": len(self.batches)}
        arithmetic = {"precision": execution.precision, "channels_last": execution.channels_last}
        networks = {"model": digest(self.network)}
        networks |= {} if self.teacher is None else {"teacher": digest(self.teacher)}
        return recipe | dict(self.identity) | data | networks | arithmetic


def _require_alike(teacher: Network, network: Network) -> None:
    """Raise InputRejected (3) where a teacher has other inputs or classes."""
    for what in ("inputs", "outputs"):
        one, two = ([list(port.shape[1:]) for port in getattr(net, what)] for net in (teacher, network))
        if one != two:
            raise InputRejected(
                f"a teacher speaks of the same samples and classes as its student; its {what} have the shapes {one}, the "
                f"student's {two}. Name another file with --teacher."
            )


def prepare(
    task: Task,
    *,
    device: torch.device | str = "cpu",
    fresh: bool = True,
    masks: Mapping[str, Tensor] | None = None,
) -> Network:
    """A copy of the network on ``device`` in its training form, with BatchNorm inserted and weights drawn as the recipe says.

    ``fresh``: whether the run begins, so that weights and statistics are initialised; a checkpoint restores them otherwise.
    ``masks``: one or zero for each entry of a pruned weight, by its name in the training form (see ``masks_of``).
    """
    recipe = task.recipe
    model = _with_batch_norm(task)
    if fresh and recipe.init == "reinit":
        reinitialise_(model, ibp=recipe.ibp_init, generator=torch.Generator().manual_seed(recipe.seed), masks=masks)
    model.to(device)
    if fresh and recipe.init == "keep":
        start_from_statistics_(model, (x for x, _ in task.batches.epoch(0)))
    return model


def masks_of(task: Task) -> dict[str, Tensor]:
    """The masks of the weights whose zeros the recipe keeps, by their names in the training form."""
    return masks(_with_batch_norm(task)) if task.recipe.keep_sparsity else {}


def _with_batch_norm(task: Task) -> Network:
    """A copy of the network, with BatchNorm inserted where the recipe says so."""
    if not task.recipe.full_bn:
        return copy.deepcopy(task.network)
    return insert(task.network, task.sample, keep=task.recipe.bn == "keep")


def digest(network: Network) -> str:
    """SHA-256 of a Network: its graph and every tensor in it."""
    sha, plan = hashlib.sha256(), network.plan()
    sha.update(repr([(s.name, repr(s.op), s.args) for s in plan.steps]).encode())
    for name, tensor in network.graph.state_dict().items():
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
