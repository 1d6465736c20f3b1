"""Types of options whose values are numbers: click's own read what other languages call digits, underscores and ``nan``."""

from __future__ import annotations

from typing import Any

import click

from pipeline.numbers import real, whole


class Whole(click.ParamType[int]):
    """A whole number, from ``least`` on where that is given."""

    name = "integer"

    def __init__(self, least: int | None = None):
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number = value if isinstance(value, int) else whole(str(value))
        if number is None or (self.least is not None and number < self.least):
            start = "" if self.least is None else f" from {self.least}"
            self.fail(f"a whole number{start} has at most 18 digits 0 to 9; received {str(value)[:40]!r}.", param, ctx)
        return number


class Real(click.ParamType[float]):
    """A finite decimal number."""

    name = "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = value if isinstance(value, float) else real(str(value))
        if number is None:
            self.fail(
                f"a number is written like 0.1 or 1e-3, in digits 0 to 9; received {str(value)[:40]!r}.", param, ctx
            )
        return number


WHOLE, REAL = Whole(), Real()
