"""The flags of ``Recipe``, made of its fields: name, type, help, bounds and the defaults that hold, in groups of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from pipeline.cli.numbers import REAL, WHOLE
from pipeline.train.hyperparameters import Recipe
from pipeline.train.recipes import DATA, DEFAULT, NAMES, defaults

F = TypeVar("F", bound=Callable[..., Any])
ELSEWHERE = {"name": "--recipe names the recipe", "seed": "--seed is that of every random choice"}
"""Fields without a flag of their own, and why."""
FIELDS = {name: field for name, field in Recipe.model_fields.items() if name not in ELSEWHERE}
SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
TYPES: dict[Any, Any] = {int: WHOLE, float: REAL, str: click.STRING}


class RecipeOption(click.Option):
    """An option that ``--help`` shows under the heading ``group``."""

    def __init__(self, *args: Any, group: str, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.group = group


class GroupedCommand(click.Command):
    """A command whose help has a section for each group of options, those without one first."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {"Options": []}
        for option in self.get_params(ctx):
            if record := option.get_help_record(ctx):
                groups.setdefault(getattr(option, "group", "Options"), []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def recipe_options(function: F) -> F:
    """Declare an option for each field, the groups as they come first among the fields."""
    for name, field in reversed(FIELDS.items()):
        function = _option(name, field)(function)
    return function


def _option(name: str, field: FieldInfo) -> Callable[[F], F]:
    flag, kind, extra = "--" + name.replace("_", "-"), field.annotation, field.json_schema_extra
    assert isinstance(extra, dict)
    how: dict[str, Any] = {"metavar": extra["metavar"], "help": described(name, field), "group": extra["group"]}
    if kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", default=None, cls=RecipeOption, **how)
    if get_origin(kind) is Literal:
        return click.option(flag, type=click.Choice(get_args(kind)), cls=RecipeOption, **how)
    several = get_origin(kind) is tuple
    (alone,) = {one for one in get_args(kind) if one not in (NoneType, Ellipsis)} or {kind}
    return click.option(flag, type=TYPES[alone], multiple=several, cls=RecipeOption, **how)


def described(name: str, field: FieldInfo) -> str:
    """The help of a field: what it is, its default by recipe, and its bounds."""
    remarks = [by_recipe(name, field), *([bounds] if (bounds := _bounds(field)) else [])]
    return f"{field.description}  [{'; '.join(remarks)}]"


def by_recipe(name: str, field: FieldInfo) -> str:
    """The default that holds, said once where all recipes share it, and else what most have last."""
    recipes: dict[str, list[str]] = {}
    for recipe in NAMES:
        text = _format([defaults(recipe, *data).get(name, field.default) for data in DATA])
        recipes.setdefault(text, []).append(recipe)
    most = max(recipes, key=lambda text: (len(recipes[text]), DEFAULT in recipes[text]))
    some = [f"{', '.join(names)}: {text}" for text, names in recipes.items() if text != most]
    return "; ".join([*some, f"else {most}"]) if some else most


def _format(values: Sequence[Any]) -> str:
    """A default for each kind of data, as help says it."""
    first = values[0]
    if any(value != first for value in values):
        number = isinstance(first, int | float) and not isinstance(first, bool)
        return f"{min(values):g} to {max(values):g} by the data" if number else "by the data"
    if isinstance(first, bool):
        return "on" if first else "off"
    return "none" if first is None else f"{first:g}" if isinstance(first, int | float) else str(first)


def _bounds(field: FieldInfo) -> str:
    """As click says them: ``0<=x<1``, ``x>=1``."""
    ends = {name: getattr(bound, name) for bound in field.metadata for name in SIGNS if hasattr(bound, name)}
    remarks = {SIGNS[name]: f"{end:g}" for name, end in ends.items()}
    if len(remarks) < 2:
        return "".join(f"x{sign}{end}" for sign, end in remarks.items())
    (low, least), (high, most) = remarks.items()
    return f"{least}{low.replace('>', '<')}x{high}{most}"
