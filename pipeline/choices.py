"""The words by which arithmetics and levels are asked for, by flags and settings as by walks. Imports no tensors."""

from __future__ import annotations

from typing import Literal, get_args

Mode = Literal["float32-any-order", "real", "none"]
MODES: tuple[Mode, ...] = get_args(Mode)
Optimization = Literal["off", "basic", "extended", "all"]
LEVELS: tuple[Optimization, ...] = get_args(Optimization)
"""Of ONNX Runtime's graph optimisation, lowest first."""
