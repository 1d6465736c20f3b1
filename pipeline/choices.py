"""The words by which arithmetics, methods and levels are asked for, by flags and settings as by walks. Imports no tensors."""

from __future__ import annotations

from typing import Literal, get_args

Mode = Literal["float32-any-order", "real", "none"]
MODES: tuple[Mode, ...] = get_args(Mode)
Method = Literal["ibp", "crown-ibp", "crown", "alpha-crown"]
METHODS: tuple[Method, ...] = get_args(Method)
"""Cheapest first; each is met with those before it."""
Choice = Literal["auto", Method]
CHOICES: tuple[Choice, ...] = ("auto", *METHODS)
"""What a user may ask for: a method stands for every rung up to it, ``auto`` for as many as are worth their time."""
Optimization = Literal["off", "basic", "extended", "all"]
LEVELS: tuple[Optimization, ...] = get_args(Optimization)
"""Of ONNX Runtime's graph optimisation, lowest first."""
