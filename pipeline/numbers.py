"""Numbers as people write them in flags, settings and files: in ASCII digits, finite, and short enough to be computed with.

Python reads more: other scripts' digits, underscores, ``nan``, ``inf``. What is read here is what everybody sees.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

from pipeline.errors import UsageError

_WHOLE = re.compile(r"[-+]?[0-9]{1,18}")
# Few digits, and an exponent of two: the exact fraction of "1e999999999" would take hours to write down.
_DECIMAL = re.compile(r"[-+]?(?:[0-9]{1,20}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][-+]?[0-9]{1,2})?")
BLANK = " \t\r\n"


def whole(text: str) -> int | None:
    """``"12"`` as a whole number of at most 18 digits; None for anything else."""
    text = text.strip(BLANK)
    return int(text) if _WHOLE.fullmatch(text) else None


def exact(text: str) -> Fraction | None:
    """``"8/255"``, ``"0.1"`` or ``"1e-3"`` as an exact fraction; None for anything else, however long."""
    numerator, slash, denominator = text[:200].strip(BLANK).partition("/")
    parts = (numerator.strip(BLANK), denominator.strip(BLANK) if slash else "1")
    if len(text) > 200 or not all(map(_DECIMAL.fullmatch, parts)):
        return None
    top, bottom = map(Fraction, parts)
    return top / bottom if bottom else None


def parse_eps(text: str) -> Fraction:
    """``"8/255"`` or ``"0.1"`` as an exact fraction, in units of the pixel range [0, 1]; UsageError (2) for anything else."""
    eps = exact(text)
    if eps is None:
        raise UsageError(f"eps is a fraction of the pixel range such as 8/255 or 0.1; received {text[:40]!r}.")
    if eps < 0:
        raise UsageError(f"eps is a radius and cannot be negative; received {text!r}.")
    if eps > 1:
        likely = f": did you mean {text.strip()}/255?" if eps.denominator == 1 and eps < 256 else "."
        raise UsageError(f"eps is in units of the pixel range, at most 1; received {text[:40]!r}{likely}")
    return eps


def parse_shard(text: str) -> tuple[int, int]:
    """``"3/16"`` as (3, 16): the third of sixteen shares. UsageError (2) for anything else."""
    number, _, of = (whole(part) for part in text[:40].partition("/"))
    if number is None or of is None or not 1 <= number <= of:
        raise UsageError(f"--shard is one of N shares, written from 1/N to N/N, such as 3/16; received {text[:40]!r}.")
    return number, of


def real(text: str) -> float | None:
    """``"0.1"`` or ``"1e-3"`` as the nearest float64, which is finite; None for anything else."""
    found = float(text) if len(text) <= 200 and _DECIMAL.fullmatch(text := text.strip(BLANK)) else math.nan
    return found if math.isfinite(found) else None
