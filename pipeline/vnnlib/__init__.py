"""Properties in VNN-LIB 1.0: a file states the unsafe set, and a network that never meets it has the property.

The parser reads a file into boxes and linear constraints for a proof. It shares no code with ``certify/witness.py``, which
reads the same file once more to judge a counterexample.
"""

from __future__ import annotations

from pipeline.vnnlib.numbers import above32, above64, below32, below64, nearest32
from pipeline.vnnlib.parser import parse
from pipeline.vnnlib.property import Case, Conjunction, Constraint, Property
from pipeline.vnnlib.source import PropertyText, load, read
from pipeline.vnnlib.writer import counterexample, exact, robustness

__all__ = [
    "Case",
    "Conjunction",
    "Constraint",
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
