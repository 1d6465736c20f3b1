"""The flags of a recipe are its fields: each has one, which sets it, and whose help says the default that holds."""

from __future__ import annotations

import math
import re
from typing import Any

import click
import pytest

from pipeline.cli.options import flags_of
from pipeline.cli.recipe_options import ELSEWHERE, FIELDS, GroupedCommand
from pipeline.cli.retrain import command
from pipeline.train import NAMES, Recipe, recipe
from pipeline.train.hyperparameters import GROUPS
from pipeline.train.losses import LOSSES
from pipeline.train.recipes import DATA, defaults

OPTIONS = {option.name: option for option in command.params if isinstance(option, click.Option)}


def test_every_field_has_a_flag_or_a_reason() -> None:
    assert FIELDS.keys() | ELSEWHERE.keys() == Recipe.model_fields.keys()
    assert FIELDS.keys() <= OPTIONS.keys()
    for field, why in ELSEWHERE.items():
        other = why.split()[0]
        assert other in {flag for option in OPTIONS.values() for flag in option.opts}, f"{field}: {why}"


def arguments(made: Recipe) -> list[str]:
    """Every setting of a recipe as flags."""
    given = []
    for name in FIELDS:
        value, flag = getattr(made, name), "--" + name.replace("_", "-")
        if isinstance(value, bool):
            given += [flag if value else f"--no-{flag[2:]}"]
        else:
            several = value if isinstance(value, tuple) else (value,)
            given += [word for one in several if one is not None for word in (flag, str(one))]
    return given


@pytest.mark.parametrize("name", NAMES)
def test_flags_make_of_another_recipe_the_one_that_they_were_taken_from(name: str) -> None:
    (shape, count), *_ = DATA
    whole = recipe(name, input_shape=shape, n_train=count, micro_batch=32, init="keep", select="held-out")
    parsed = flags_of(command.make_context("retrain", ["model.onnx", *arguments(whole)]).params)
    flags = {field: parsed[field] for field in FIELDS if field in parsed}
    for other in NAMES:
        assert recipe(other, input_shape=(1, 8, 8), n_train=1000, **flags) == whole.model_copy(update={"name": other})


def stated(name: str, of: str) -> str:
    """The default that the help of a flag states for a recipe."""
    text = OPTIONS[name].help
    assert text is not None
    (inside,) = re.findall(r"  \[(.*)\]$", text)
    found = {}
    for part in inside.split("; "):
        names, colon, default = part.partition(": ")
        if part.startswith("else "):
            found["else"] = part.removeprefix("else ")
        elif colon:
            found |= dict.fromkeys(names.split(", "), default)
        else:
            found.setdefault("else", part)
    return found[of] if of in found else found["else"]


def says(text: str, value: Any) -> bool:
    if text == "by the data":
        return True
    if isinstance(value, bool) or value is None:
        return text == {True: "on", False: "off", None: "none"}[value]
    if isinstance(value, str):
        return text == value
    low, _, high = text.removesuffix(" by the data").partition(" to ")
    return float(low) <= value <= float(high or low) or math.isclose(value, float(low))


@pytest.mark.parametrize("name", NAMES)
def test_the_help_states_the_defaults_that_hold(name: str) -> None:
    for shape, count in DATA:
        made = recipe(name, input_shape=shape, n_train=count)
        wrong = [field for field in FIELDS if not says(stated(field, name), getattr(made, field))]
        assert not wrong
    assert {field for field in FIELDS if stated(field, name) == "by the data"} == {"decay_epochs", "flip"}


def test_the_help_states_what_it_is_meant_to() -> None:
    told = {name: (OPTIONS[name].help or "").rpartition("  ")[2] for name in FIELDS}
    assert told["epochs"] == "[60 to 160 by the data; x>=1]"
    assert told["ema"] == "[fast, distil: 0.999; else 0; 0<=x<1]"
    assert told["tightness"] == "[vanilla-ibp, crown-ibp, pgd: off; else on]"
    assert (told["init"], told["micro_batch"], told["tau"]) == ("[reinit]", "[none; x>=1]", "[0.5; x>0]")
    assert all(name in (OPTIONS["recipe"].help or "") for name in NAMES)
    assert all(name in (OPTIONS["loss"].help or "") for name in LOSSES)


def test_every_kind_of_data_with_defaults_of_its_own_is_in_the_help() -> None:
    for name in NAMES:
        kinds = [defaults(name, *data) for data in DATA]
        for shape in ((3, 32, 32), (3, 64, 64), (3072,), (1, 28, 28), (3, 224, 224), (784,), (1, 8, 8)):
            for count in (10, 9_999, 10_000, 10**6):
                found = defaults(name, shape, count)
                assert all(value in [kind.get(field) for kind in kinds] for field, value in found.items())


def test_the_help_has_a_section_for_each_group(pipeline) -> None:
    code, out, _ = pipeline("retrain", "--help")
    assert code == 0
    parts = re.split(rf"^(?:{'|'.join(GROUPS)}):$", out, flags=re.MULTILINE)
    assert len(parts) == 1 + len(GROUPS)
    rest, everyday, advanced = parts
    assert "--data" in rest
    assert "--help" in rest
    assert ("--epochs " in everyday, "--tau " in everyday) == (True, False)
    assert ("--epochs " in advanced, "--tau " in advanced) == (False, True)
    assert not [name for name in FIELDS if f"\n  --{name.replace('_', '-')} " in rest]


def test_a_command_without_groups_has_one_section() -> None:
    plain = GroupedCommand("plain", params=[click.Option(["--one"], help="A flag.")])
    shown = plain.get_help(click.Context(plain))
    assert shown.count("Options:") == 1
    assert "A flag." in shown
