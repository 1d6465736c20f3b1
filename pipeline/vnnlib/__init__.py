"""Properties in VNN-LIB 1.0 and 2.0: a file states the unsafe set, and a network that never meets it has the property.

The parser reads a file into boxes and linear constraints for a proof. It shares no code with ``certify/witness.py``, which
reads the same file once more to judge a counterexample.
"""

from __future__ import annotations

import re

from pipeline.vnnlib.numbers import above32, above64, below32, below64, nearest32
from pipeline.vnnlib.parser import Reader
from pipeline.vnnlib.parser2 import Reader2
from pipeline.vnnlib.property import Case, Conjunction, Constraint, Declared, Property
from pipeline.vnnlib.source import PropertyText, load, read
from pipeline.vnnlib.writer import counterexample, exact, robustness

_NEWER = re.compile(r"(?:\s|;[^\r\n]*)*\(\s*vnnlib-version\b")


def parse(text: str) -> Property:
    """The unsafe set that a file states, in VNN-LIB 1.0, or in 2.0 where it begins with ``(vnnlib-version``.

    Raises InputRejected (3), naming the line, for a file that is malformed or beyond the limits, an input without bounds, or
    another kind of constraint.
    """
    return (Reader2() if _NEWER.match(text) else Reader()).read(text)


__all__ = [
    "Case",
    "Conjunction",
    "Constraint",
    "Declared",
    "Property",
    "PropertyText",
    "above32",
    "above64",
    "below32",
    "below64",
    "counterexample",
    "exact",
    "load",
    "nearest32",
    "parse",
    "read",
    "robustness",
]
