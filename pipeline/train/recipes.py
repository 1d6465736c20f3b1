"""Recipes by name, scaled to the data: the paper's and its baselines, those of other papers, and ours.

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

GIVEN = "given"
"""The teacher that is the network of the given file."""
WITHOUT = {"ibp_init": False, "full_bn": False, "tightness": False, "balance": False}
"""The three ideas switched off: the network as it is, drawn as PyTorch draws it."""
OURS: dict[str, Any] = {
    **{"optimiser": "adamw", "weight_decay": 0.01, "decay_factor": 0.1},
    **{"alpha": 0.8, "l1": 5e-7, "ema": 0.999, "population_bn": True},
}
CHANGES: dict[str, dict[str, Any]] = {
    "shi2021": {},
    "vanilla-ibp": WITHOUT,
    # Zhang et al., arXiv 1906.06316, section 4: beta goes from 1 to 0 while eps grows.
    "crown-ibp": WITHOUT | {"loss": "crown-ibp", "crown_start": 1.0},
    # De Palma et al., arXiv 2305.13991, at 8/255: one step to a corner of the box.
    "mtl-ibp": {"loss": "mtl-ibp", "alpha": 0.5, "l1": 1e-7},
    # Madry et al., arXiv 1706.06083: seven steps of a quarter of the radius.
    "pgd": WITHOUT | {"loss": "pgd", "adversary_steps": 7, "adversary_step": 0.25},
    # Ours: the three ideas, and improvements published since; larger steps and later decays, see ``defaults``.
    "fast": OURS | {"loss": "mtl-ibp"},
    # The same with a teacher in place of the labels of the attack's loss (arXiv 2606.31653): the network that the user gave.
    "distil": OURS | {"loss": "distil", "teacher": GIVEN},
}
"""The settings in which each recipe differs from the paper's."""
NAMES = tuple(CHANGES)
DEFAULT = "fast"
"""The recipe where none is named; docs/results.md compares it with the others."""


def recipe(name: str = DEFAULT, *, input_shape: Sequence[int], n_train: int, **overrides: Any) -> Recipe:
    """The recipe of that name for samples of shape ``input_shape`` and ``n_train`` of them.

    Where ``overrides`` give other ``epochs``, the ramp and the decays keep their share of the run unless given too.
    Raises UsageError (2) for an unknown name or setting, a value out of range, or settings that contradict each other.
    """
    if name not in NAMES:
        raise UsageError(f"a recipe is one of {', '.join(NAMES)}; received {name!r}.")
    settings = defaults(name, tuple(input_shape), n_train)
    epochs = overrides.get("epochs", settings["epochs"])
    if isinstance(epochs, int) and epochs >= 1:
        _rescale(settings, epochs)
    settings["batch_size"] = min(settings["batch_size"], max(n_train, 1))
    try:
        result = Recipe(name=name, **(settings | overrides))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg'].lower()}" for e in error.errors())
        raise UsageError(f"the recipe {name} cannot be run as asked: {wrong}.") from None
    _check_loss(result)
    if result.warmup_end > result.epochs:
        raise UsageError(
            f"eps must reach its full value within the run; the ramp ends with epoch {result.warmup_end} of {result.epochs}. "
            "Give more epochs or a shorter ramp."
        )
    if result.select == "held-out" and not result.held_out:
        raise UsageError(
            "select held-out needs a held-out part; received held_out 0. Leave one, or select the final weights."
        )
    return result


def _check_loss(recipe: Recipe) -> None:
    """Raise UsageError (2) for an unknown loss, one without its teacher, or a setting, not its default, that it does not read."""
    from pipeline.train.losses import LOSSES

    if recipe.loss not in LOSSES:
        raise UsageError(f"a loss is one of {', '.join(LOSSES)}; received {recipe.loss!r}.")
    if LOSSES[recipe.loss].taught and recipe.teacher == "none":
        raise UsageError(
            f"the loss {recipe.loss} learns from a teacher; name one: --teacher {GIVEN}, the network as given, or an ONNX file."
        )
    for field in dict.fromkeys(name for kind in LOSSES.values() for name in kind.settings):
        unread = field not in LOSSES[recipe.loss].settings
        if unread and getattr(recipe, field) != Recipe.model_fields[field].default:
            readers = [name for name, kind in LOSSES.items() if field in kind.settings]
            raise UsageError(
                f"the loss {recipe.loss} of the recipe {recipe.name} does not read {field}, which is"
                f" {getattr(recipe, field)}; these do: {', '.join(readers)}. Name one with --loss, or leave {field} out."
            )


def defaults(name: str, shape: tuple[int, ...], n_train: int) -> dict[str, Any]:
    """The settings of a recipe for ``n_train`` samples of a shape; the rest are the defaults of ``Recipe``."""
    settings = _of_the_paper(shape, n_train)
    if name in ("fast", "distil"):
        settings["learning_rate"] *= 2
        settings["decay_epochs"] = tuple(round(share * settings["epochs"]) for share in (0.8, 0.9))
        settings["batch_size"] = 256 if n_train >= 10_000 else settings["batch_size"]
    return settings | CHANGES[name]


DATA: tuple[tuple[tuple[int, ...], int], ...] = (
    *(((3, 32, 32), 50_000), ((3, 64, 64), 100_000), ((1, 28, 28), 60_000), ((1, 8, 8), 1_000)),
)
"""An example of each kind of data with defaults of its own: the shape of a sample and the number of samples."""


def _of_the_paper(shape: tuple[int, ...], n_train: int) -> dict[str, Any]:
    """The paper's settings for data of this size (its section 4 and code), and our choice where it has none."""
    size, flat = math.prod(shape), len(shape) < 3
    if size == 3 * 32 * 32:
        run = {"epochs": 160, "batch_size": 128, "learning_rate": 5e-4, "decay_epochs": (120, 140)}
        return run | {"warmup_start": 2, "warmup_length": 80} | ({} if flat else {"crop": 2, "flip": True})
    if size == 3 * 64 * 64:
        run = {"epochs": 80, "batch_size": 128, "learning_rate": 5e-4, "decay_epochs": (61, 71), "reg_weight": 0.2}
        return run | {"warmup_start": 2, "warmup_length": 20} | ({} if flat else {"crop": 4, "flip": True})
    if n_train >= 10_000:
        run = {"epochs": 70, "batch_size": 256, "learning_rate": 5e-4, "decay_epochs": (50, 60)}
        return run | {"warmup_start": 1, "warmup_length": 20}
    run = {"epochs": 60, "batch_size": 128, "learning_rate": 2e-3, "decay_epochs": (43, 51)}
    return run | {"warmup_start": 1, "warmup_length": 20}


def _rescale(settings: dict[str, Any], epochs: int) -> None:
    """Change the length of a run in place; ramp and decays keep their share of it.

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


def describe(recipe: Recipe) -> list[str]:
    """Every setting but the name and those that the loss does not read, in lines of up to 150 characters."""
    # No line breaks between a setting and its value.
    text = ", ".join(f"{key} {json.dumps(value)}".replace(" ", "\xa0") for key, value in _settings(recipe).items())
    return [line.replace("\xa0", " ") for line in textwrap.wrap(text, 150)]


def as_toml(recipe: Recipe) -> str:
    """The recipe as text for ``pipeline.toml``: the seed, which other choices share, and the table ``retrain``."""
    settings = _settings(recipe)
    # Numbers, booleans, lists and these strings are written alike in JSON and in TOML.
    lines = [f"seed = {settings.pop('seed')}", "", "[retrain]", f"recipe = {json.dumps(recipe.name)}"]
    return "\n".join([*lines, *(f"{key} = {json.dumps(value)}" for key, value in settings.items())]) + "\n"


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Every setting but the name and those that the loss does not read."""
    from pipeline.train.losses import LOSSES

    unread = {name for kind in LOSSES.values() for name in kind.settings} - set(LOSSES[recipe.loss].settings)
    return recipe.model_dump(mode="json", exclude={"name", *unread}, exclude_none=True)
