"""Every setting of a training run in one frozen object; the paper's by name, scaled to the data at hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import UsageError

NAMES = ("shi2021", "vanilla-ibp")


class Recipe(BaseModel):
    """The settings of one run (Shi et al., arXiv 2103.17268). Epochs count from one; lengths are in epochs.

    ``warmup_start`` is the epoch in which eps leaves zero and ``warmup_length`` the epochs it takes to the full eps;
    ``decay_epochs`` are the epochs after which the learning rate is multiplied by ``decay_factor``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    decay_epochs: tuple[int, ...] = ()
    decay_factor: float = Field(default=0.2, gt=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0)
    clip_norm: float = Field(default=10.0, gt=0)

    warmup_start: int = Field(ge=1)
    warmup_length: int = Field(ge=0)
    beta: float = Field(default=4.0, ge=1)
    mid: float = Field(default=0.25, ge=0, lt=1)

    ibp_init: bool = True
    """Idea 1: weights of variance 2 pi / n^2, under which bounds neither explode nor vanish."""
    full_bn: bool = True
    """Idea 2: BatchNorm after every hidden layer."""
    tightness: bool = True
    """Idea 3, first term: bounds that do not widen from input to layer."""
    balance: bool = True
    """Idea 3, second term: ReLU layers with active and inactive neurons of like weight."""
    reg_weight: float = Field(default=0.5, ge=0)
    tau: float = Field(default=0.5, gt=0)
    eps_floor: float = Field(default=1e-6, gt=0)
    """The radius of the boxes that the regulariser reads while eps is below it, as a fraction of the pixel range."""

    init: Literal["reinit", "keep"] = "reinit"
    bn: Literal["fold", "keep"] = "fold"
    population_bn: bool = False
    """Whether BatchNorm statistics are taken anew from one pass over the training data when training ends."""

    crop: int = Field(default=0, ge=0)
    flip: bool = False
    held_out: float = Field(default=0.1, ge=0, lt=1)
    """The fraction of the training data on which progress is shown; nothing is selected by it."""
    seed: int = Field(default=0, ge=0)

    @property
    def regularised(self) -> bool:
        """Whether any term of idea 3 is on."""
        return self.reg_weight > 0 and (self.tightness or self.balance)

    @property
    def warmup_end(self) -> int:
        """The last epoch of the ramp: from the next one on eps is whole and the regulariser is gone."""
        return self.warmup_start + self.warmup_length - 1


def recipe(name: str = "shi2021", *, input_shape: Sequence[int], n_train: int, **overrides: Any) -> Recipe:
    """The recipe of that name for inputs of one sample's shape and a number of training samples.

    Where ``overrides`` give other ``epochs``, the ramp and the decays keep their share of the run unless given too.
    Raises UsageError for an unknown name or setting, or a value out of range.
    """
    if name not in NAMES:
        raise UsageError(f"a recipe is one of {', '.join(NAMES)}; received {name!r}.")
    settings = _defaults(tuple(input_shape), n_train)
    epochs = overrides.get("epochs", settings["epochs"])
    if isinstance(epochs, int) and epochs >= 1:
        _rescale(settings, epochs)
    settings["batch_size"] = min(settings["batch_size"], max(n_train, 1))
    if name == "vanilla-ibp":
        settings |= {"ibp_init": False, "full_bn": False, "tightness": False, "balance": False}
    try:
        made = Recipe(name=name, **(settings | overrides))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg'].lower()}" for e in error.errors())
        raise UsageError(f"the recipe {name} cannot be run as asked: {wrong}.") from None
    if made.warmup_end > made.epochs:
        raise UsageError(
            f"eps must reach its full value within the run; the ramp ends with epoch {made.warmup_end} of {made.epochs}. "
            "Give more epochs or a shorter ramp."
        )
    return made


def _defaults(shape: tuple[int, ...], n_train: int) -> dict[str, Any]:
    """What the paper uses for data of this size (its section 4 and code), and our choice where it used none."""
    size, flat = math.prod(shape), len(shape) < 3
    if size == 3 * 32 * 32:
        found = {"epochs": 160, "batch_size": 128, "learning_rate": 5e-4, "decay_epochs": (120, 140)}
        return found | {"warmup_start": 2, "warmup_length": 80} | ({} if flat else {"crop": 2, "flip": True})
    if size == 3 * 64 * 64:
        found = {"epochs": 80, "batch_size": 128, "learning_rate": 5e-4, "decay_epochs": (61, 71), "reg_weight": 0.2}
        return found | {"warmup_start": 2, "warmup_length": 20} | ({} if flat else {"crop": 4, "flip": True})
    if n_train >= 10_000:
        found = {"epochs": 70, "batch_size": 256, "learning_rate": 5e-4, "decay_epochs": (50, 60)}
        return found | {"warmup_start": 1, "warmup_length": 20}
    found = {"epochs": 60, "batch_size": 128, "learning_rate": 2e-3, "decay_epochs": (43, 51)}
    return found | {"warmup_start": 1, "warmup_length": 20}


def _rescale(settings: dict[str, Any], epochs: int) -> None:
    """Shorten or stretch a run: ramp and decays keep their share of it.

    A shortened run always has one epoch at eps zero, where the paper's long run on MNIST has none: with a ramp of three epochs
    in ten, that epoch raised certified accuracy at 0.3 by three points.
    """
    share = epochs / settings["epochs"]
    settings["decay_epochs"] = tuple(max(1, round(d * share)) for d in settings["decay_epochs"])
    start = settings["warmup_start"] if share >= 1 else max(2, settings["warmup_start"])
    settings["warmup_start"] = min(start, epochs)
    room = epochs - settings["warmup_start"] + 1
    settings["warmup_length"] = min(max(1, round(settings["warmup_length"] * share)), room)
    settings["epochs"] = epochs
