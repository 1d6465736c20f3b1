"""How the values of settings are written: numbers, radii, amounts with a unit, constants, limits. Raises UsageError."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from pipeline.errors import UsageError
from pipeline.limits import NAMES as LIMITS
from pipeline.limits import Limits
from pipeline.numbers import BLANK, exact, real, whole

SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
BYTES = {"": 2.0**20, "mb": 2.0**20, "gb": 2.0**30}
LARGEST = 2**53 - 1
"""What a report can state exactly: JSON's readers take numbers as doubles."""
AMOUNT = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) *([a-z]*)")


def _whole(value: Any) -> Any:
    number = whole(value) if isinstance(value, str) else value
    if number is None or isinstance(value, bool) or (isinstance(number, int) and abs(number) > LARGEST):
        raise ValueError(f"a whole number is written in the digits 0 to 9, and is at most {LARGEST}")
    return number


def _real(value: Any) -> Any:
    number = real(value) if isinstance(value, str) else value
    if number is None or isinstance(value, bool):
        raise ValueError("a number is written like 0.1 or 1e-3, in digits 0 to 9")
    return number


Whole = Annotated[int, BeforeValidator(_whole)]
Real = Annotated[float, BeforeValidator(_real), Field(allow_inf_nan=False)]
MANY = 10**9


def euclidean(text: str) -> Fraction:
    """A Euclidean radius in units of the pixel range; many pixels together may move further than one of them can."""
    return _at_most_1000(text, "a Euclidean eps is a number in units of the pixel range, such as 0.5 or 128/255")


def multiple(text: str) -> Fraction:
    """How many times its own radius each feature may move."""
    return _at_most_1000(text, "eps is a multiple of each feature's radius or deviation, such as 0.1")


def _at_most_1000(text: str, rule: str) -> Fraction:
    eps = exact(text)
    if eps is None or not 0 <= eps <= 1000:
        raise UsageError(f"{rule}, at most 1000; received {text[:40]!r}.")
    return eps


def constant(text: str) -> tuple[str, Any]:
    """``NAME=1``, ``NAME=0,1,1`` or ``NAME=npz:FILE``. Raises UsageError."""
    name, equals, amount_text = str(text).rpartition("=")
    if not equals or not name or not amount_text:
        raise UsageError(f"--constant is NAME=NUMBER, NAME=NUMBER,... or NAME=npz:FILE; received {str(text)[:60]!r}.")
    numbers = [real(part) for part in amount_text.split(",")]
    if amount_text.startswith("npz:") or None in numbers:
        return name, amount_text
    return name, numbers[0] if len(numbers) == 1 else tuple(numbers)


def amount(value: Any, units: Mapping[str, float], example: str) -> Any:
    """A number with a unit, in the smallest one's measure; numbers that are none already are left to the field."""
    if value is None or isinstance(value, bool):
        return value
    match = AMOUNT.fullmatch(str(value).strip(BLANK).lower())
    if match is None or match[2] not in units:
        raise UsageError(f"a budget is written like {example}; received {str(value)[:40]!r}.")
    return float(match[1]) * units[match[2]]


def limits(values: Mapping[Any, Any]) -> Limits:
    """The table [limits], of whole numbers and sizes. Raises UsageError."""
    if unknown := values.keys() - set(LIMITS):
        raise UsageError(f"[limits] has no {sorted(map(str, unknown))[0][:40]!r}; the limits are {', '.join(LIMITS)}.")
    counts = {k: int(amount(v, BYTES, "800MB or 4GB")) if isinstance(v, str) else v for k, v in values.items()}
    if any(type(v) is not int or v < 1 for v in counts.values()):
        raise UsageError("[limits] holds whole numbers from 1, or sizes such as 800MB or 4GB; mend it.")
    return Limits(**counts)
