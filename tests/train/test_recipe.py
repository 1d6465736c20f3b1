"""Recipes: the paper's figures by shape of the data, scaled runs, refusals."""

from __future__ import annotations

from pathlib import Path

import pydantic
import pytest

from pipeline.errors import UsageError
from pipeline.settings import settle
from pipeline.train import NAMES, Recipe, as_toml, describe, recipe


def test_the_papers_figures() -> None:
    cifar = recipe("shi2021", input_shape=(3, 32, 32), n_train=50_000)
    assert (cifar.epochs, cifar.batch_size, cifar.learning_rate, cifar.decay_epochs) == (160, 128, 5e-4, (120, 140))
    assert (cifar.warmup_start, cifar.warmup_length, cifar.warmup_end, cifar.crop, cifar.flip) == (2, 80, 81, 2, True)
    assert (cifar.reg_weight, cifar.tau, cifar.beta, cifar.mid, cifar.clip_norm, cifar.decay_factor) == (
        0.5,
        0.5,
        4,
        0.25,
        10,
        0.2,
    )
    mnist = recipe("shi2021", input_shape=(1, 28, 28), n_train=60_000)
    assert (mnist.epochs, mnist.batch_size, mnist.decay_epochs, mnist.warmup_start) == (70, 256, (50, 60), 1)
    assert (mnist.warmup_length, mnist.crop, mnist.flip) == (20, 0, False)
    digits = recipe("shi2021", input_shape=(1, 8, 8), n_train=1400)
    assert (digits.epochs, digits.batch_size, digits.learning_rate, digits.warmup_length) == (60, 128, 2e-3, 20)


def test_vanilla_lacks_the_three_ideas_and_nothing_else() -> None:
    full, plain = (recipe(name, input_shape=(1, 28, 28), n_train=60_000) for name in ("shi2021", "vanilla-ibp"))
    differ = {k for k, v in full.model_dump().items() if v != getattr(plain, k)}
    assert differ == {"name", "ibp_init", "full_bn", "tightness", "balance"}
    assert full.regularised
    assert not plain.regularised


@pytest.mark.parametrize(
    ("epochs", "start", "ramp", "decays"),
    [(140, 1, 40, (100, 120)), (35, 2, 10, (25, 30)), (10, 2, 3, (7, 9)), (2, 2, 1, (1, 2)), (1, 1, 1, (1, 1))],
)
def test_a_run_of_another_length_keeps_its_shares(epochs: int, start: int, ramp: int, decays: tuple[int, ...]) -> None:
    scaled = recipe("shi2021", input_shape=(1, 28, 28), n_train=60_000, epochs=epochs)
    assert (scaled.warmup_start, scaled.warmup_length, scaled.decay_epochs) == (start, ramp, decays)
    explicit = recipe(
        "shi2021", input_shape=(1, 28, 28), n_train=60_000, epochs=30, warmup_length=10, decay_epochs=(1,)
    )
    assert (explicit.warmup_length, explicit.decay_epochs) == (10, (1,))


def test_flat_images_are_not_cropped_and_small_data_makes_small_batches() -> None:
    flat = recipe("shi2021", input_shape=(3072,), n_train=70)
    assert (flat.crop, flat.flip, flat.batch_size) == (0, False, 70)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"epochs": 0}, "epochs"),
        ({"rate": 1}, "rate"),
        ({"tau": float("nan")}, "tau"),
        ({"epochs": 2, "warmup_length": 5}, "ramp"),
        ({"alpha": 1.5}, "alpha"),
        ({"alpha": 0.6}, "loss ibp .* does not read alpha.*mtl-ibp"),
        ({"loss": "best"}, "a loss is one of .*mtl-ibp"),
        ({"loss": "distil"}, "learns from a teacher.*--teacher given"),
        ({"teacher": "given"}, "loss ibp .* does not read teacher.*distil"),
        ({"ema": 1.0}, "ema"),
        ({"select": "held-out", "held_out": 0}, "held-out part"),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(overrides: dict[str, float], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        recipe("shi2021", input_shape=(1, 8, 8), n_train=100, **overrides)


def test_the_recipes_of_others_differ_from_the_paper_by_what_they_are() -> None:
    by_name = {name: recipe(name, input_shape=(1, 28, 28), n_train=60_000).model_dump() for name in NAMES}
    control = by_name.pop("shi2021")
    differ = {name: {k: v for k, v in other.items() if v != control[k]} for name, other in by_name.items()}
    off = {"ibp_init": False, "full_bn": False, "tightness": False, "balance": False}
    ours = {
        **{"optimiser": "adamw", "weight_decay": 0.01, "learning_rate": 1e-3, "decay_factor": 0.1},
        **{"decay_epochs": (56, 63), "alpha": 0.8, "l1": 5e-7, "ema": 0.999, "population_bn": True},
    }
    assert differ == {
        "vanilla-ibp": {"name": "vanilla-ibp", **off},
        "crown-ibp": {"name": "crown-ibp", **off, "loss": "crown-ibp", "crown_start": 1.0},
        "mtl-ibp": {"name": "mtl-ibp", "loss": "mtl-ibp", "l1": 1e-7},
        "pgd": {"name": "pgd", **off, "loss": "pgd", "adversary_steps": 7, "adversary_step": 0.25},
        "fast": ours | {"name": "fast", "loss": "mtl-ibp"},
        "distil": ours | {"name": "distil", "loss": "distil", "teacher": "given"},
    }
    cifar = recipe("fast", input_shape=(3, 32, 32), n_train=50_000)
    assert (cifar.learning_rate, cifar.batch_size, cifar.decay_epochs, cifar.warmup_length) == (
        1e-3,
        256,
        (128, 144),
        80,
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_written_down_is_the_recipe_read_back(name: str, tmp_path: Path) -> None:
    whole = recipe(name, input_shape=(3, 32, 32), n_train=50_000, epochs=30, seed=7, micro_batch=32)
    (tmp_path / "pipeline.toml").write_text(as_toml(whole))
    settings, source = settle(tmp_path / "model.onnx", {"retrain": {}}, {})
    values = {"seed": settings.seed, **settings.retrain}
    assert values.pop("recipe") == name
    assert recipe(name, input_shape=(1, 8, 8), n_train=10**6, **values) == whole
    assert source["seed"] == "pipeline.toml"
    changed, _ = settle(tmp_path / "model.onnx", {"retrain": {"epochs": 31}}, {})
    assert changed.retrain == settings.retrain | {"epochs": 31}
    other, _ = settle(tmp_path / "model.onnx", {"retrain": {"recipe": "another"}}, {})
    assert other.retrain == {"recipe": "another"}, "another recipe's settings are not this one's"


def test_every_setting_is_told() -> None:
    whole = recipe("distil", input_shape=(1, 8, 8), n_train=100)
    lines = describe(whole)
    assert all(f"{key} " in ", ".join(lines) for key in Recipe.model_fields if key not in ("name", "micro_batch"))
    assert max(map(len, lines)) <= 150


def test_unknown_names_and_changes_afterwards() -> None:
    with pytest.raises(UsageError, match="shi2021"):
        recipe("best", input_shape=(1, 8, 8), n_train=100)
    with pytest.raises(pydantic.ValidationError):
        recipe("shi2021", input_shape=(1, 8, 8), n_train=100).epochs = 3
