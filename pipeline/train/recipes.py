"""Recipes by name, scaled to the data at hand: the paper's and its baselines, those of others, and ours.

Imports no tensors before a recipe is made: the help of ``retrain`` shows the defaults.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from pipeline.errors import UsageError
from pipeline.train.hyperparameters import Recipe

WITHOUT = {"ibp_init": False, "full_bn": False, "tightness": False, "balance": False}
"""The three ideas switched off: the network as it is, drawn as PyTorch draws it."""
CHANGES: dict[str, dict[str, Any]] = {
    "shi2021": {},
    "vanilla-ibp": WITHOUT,
    # Zhang et al., arXiv 1906.06316, section 4: beta goes from 1 to 0 while eps grows.
    "crown-ibp": WITHOUT | {"loss": "crown-ibp", "crown_start": 1.0},
    # De Palma et al., arXiv 2305.13991, at 8/255: one step to a corner of the box.
    "mtl-ibp": {"loss": "mtl-ibp", "alpha": 0.5, "l1": 1e-7},
    # Madry et al., arXiv 1706.06083: seven steps of a quarter of the radius.
    "pgd": WITHOUT | {"loss": "pgd", "adversary_steps": 7, "adversary_step": 0.25},
    # Ours: the three ideas, and what others found since; its steps are longer and its decays later, see ``recipe``.
    "fast": {
        **{"optimiser": "adamw", "weight_decay": 0.01, "decay_factor": 0.1},
        **{"loss": "mtl-ibp", "alpha": 0.8, "l1": 5e-7, "ema": 0.999, "population_bn": True},
    },
}
"""What each recipe changes in the paper's."""
NAMES = tuple(CHANGES)
DEFAULT = "fast"
"""What is followed where no recipe is named: see docs/results.md for what it is worth."""


def recipe(name: str = DEFAULT, *, input_shape: Sequence[int], n_train: int, **overrides: Any) -> Recipe:
    """The recipe of that name for inputs of one sample's shape and a number of training samples.

    Where ``overrides`` give other ``epochs``, the ramp and the decays keep their share of the run unless given too.
    Raises UsageError for an unknown name or setting, or a value out of range.
    """
    if name not in NAMES:
        raise UsageError(f"a recipe is one of {', '.join(NAMES)}; received {name!r}.")
    settings = defaults(name, tuple(input_shape), n_train)
    epochs = overrides.get("epochs", settings["epochs"])
    if isinstance(epochs, int) and epochs >= 1:
        _rescale(settings, epochs)
    settings["batch_size"] = min(settings["batch_size"], max(n_train, 1))
    try:
        made = Recipe(name=name, **(settings | overrides))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg'].lower()}" for e in error.errors())
        raise UsageError(f"the recipe {name} cannot be run as asked: {wrong}.") from None
    _check_loss(made)
    if made.warmup_end > made.epochs:
        raise UsageError(
            f"eps must reach its full value within the run; the ramp ends with epoch {made.warmup_end} of {made.epochs}. "
            "Give more epochs or a shorter ramp."
        )
    if made.select == "held-out" and not made.held_out:
        raise UsageError(
            "select held-out needs a held-out part; received held_out 0. Leave one, or select the final weights."
        )
    return made


def _check_loss(made: Recipe) -> None:
    """Every setting that is given means something to the loss. Raises UsageError."""
    from pipeline.train.losses import LOSSES

    if made.loss not in LOSSES:
        raise UsageError(f"a loss is one of {', '.join(LOSSES)}; received {made.loss!r}.")
    for field in dict.fromkeys(name for kind in LOSSES.values() for name in kind.settings):
        unread = field not in LOSSES[made.loss].settings
        if unread and getattr(made, field) != Recipe.model_fields[field].default:
            readers = [name for name, kind in LOSSES.items() if field in kind.settings]
            raise UsageError(
                f"the loss {made.loss} of the recipe {made.name} does not read {field}, which is"
                f" {getattr(made, field)}; these do: {', '.join(readers)}. Name one with --loss, or leave {field} out."
            )


def defaults(name: str, shape: tuple[int, ...], n_train: int) -> dict[str, Any]:
    """What a recipe sets for such data; what it leaves out is the default of ``Recipe``."""
    settings = _papers(shape, n_train)
    if name == "fast":
        settings["learning_rate"] *= 2
        settings["decay_epochs"] = tuple(round(share * settings["epochs"]) for share in (0.8, 0.9))
        settings["batch_size"] = 256 if n_train >= 10_000 else settings["batch_size"]
    return settings | CHANGES[name]


DATA: tuple[tuple[tuple[int, ...], int], ...] = (
    *(((3, 32, 32), 50_000), ((3, 64, 64), 100_000), ((1, 28, 28), 60_000), ((1, 8, 8), 1_000)),
)
"""A shape and a number of samples of each kind of data that has defaults of its own."""


def _papers(shape: tuple[int, ...], n_train: int) -> dict[str, Any]:
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


def told(recipe: Recipe) -> list[str]:
    """Every setting but the name, in lines that a terminal shows whole."""
    # No line ends between a setting and its value.
    joined = ", ".join(f"{key} {json.dumps(value)}".replace(" ", "\xa0") for key, value in _said(recipe).items())
    return [line.replace("\xa0", " ") for line in textwrap.wrap(joined, 150)]


def as_toml(recipe: Recipe) -> str:
    """The recipe as ``pipeline.toml`` takes it: the seed, which is also that of other choices, and the table ``retrain``."""
    said = _said(recipe)
    # Numbers, booleans, lists and these strings are written alike in JSON and in TOML.
    lines = [f"seed = {said.pop('seed')}", "", "[retrain]", f"recipe = {json.dumps(recipe.name)}"]
    return "\n".join([*lines, *(f"{key} = {json.dumps(value)}" for key, value in said.items())]) + "\n"


def _said(recipe: Recipe) -> dict[str, Any]:
    """Every setting but the name, and those that the loss does not read."""
    from pipeline.train.losses import LOSSES

    unread = {name for kind in LOSSES.values() for name in kind.settings} - set(LOSSES[recipe.loss].settings)
    return recipe.model_dump(mode="json", exclude={"name", *unread}, exclude_none=True)
