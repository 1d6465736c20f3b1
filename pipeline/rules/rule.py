"""What an operator means for boxes and linear forms: one class an operator, enrolled by ``@rule``.

To add an operator, add one file to this folder: every file here is imported, and ``examples`` enrols the operator in the laws
of ``tests/laws.py``. What an operator computes on tensors is its module's ``forward``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from pipeline.core.interval import Interval, Lockstep
from pipeline.core.rounding import EXACT, Rounding
from pipeline.distributed.sync_batch import WHOLE, Batch
from pipeline.errors import InputRejected, PipelineError
from pipeline.rules.relax import Relaxation

Value = Interval | Tensor
Op = TypeVar("Op", bound=nn.Module)

_RULES: dict[type[nn.Module], Rule[Any]] = {}


@dataclass(frozen=True)
class Example:
    """An operator with parameters of both signs, and its inputs: a shape, batch first, or a tensor for a constant."""

    op: nn.Module
    inputs: tuple[tuple[int, ...] | Tensor, ...]
    domain: tuple[float, float] | None = None
    """The range that the boxes of the inputs are drawn from; None for a range around zero."""


class Rule(ABC, Generic[Op]):
    """What one operator means. Its inputs ``xs`` are an Interval where the value varies, a tensor where it is constant."""

    assumes: str | None = None
    """What the account of its float32 evaluation assumes of a kernel's steps, a sentence for reports; None for nothing."""

    def refuses(self, op: Op, abstract: tuple[bool, ...]) -> str | None:
        """Why this application has no sound rule, in words, or None; ``abstract`` says of each input whether it varies."""
        return None

    @abstractmethod
    def interval(self, op: Op, *xs: Value, rounding: Rounding = EXACT) -> Interval:
        """A box that contains the image of the boxes ``xs``."""

    def relax(self, op: Op, *xs: Value, rounding: Rounding = EXACT) -> Relaxation | None:
        """The operator between linear functions over the boxes ``xs``; None where none is better than its own box."""
        return None

    def loose(self, op: Op, x: Interval) -> Tensor:
        """Which entries of the input would give better bounds if their box were tighter; boolean, of its shape."""
        return x.radius > 0

    def lockstep(self, op: Op, *xs: Lockstep | Tensor, batch: Batch = WHOLE) -> Lockstep:
        """The clean value and the box together; statistics of a batch are those of the whole ``batch``."""
        clean = op(*(x.clean if isinstance(x, Lockstep) else x for x in xs))
        box = self.interval(op, *(x.box if isinstance(x, Lockstep) else x for x in xs))
        return Lockstep(clean, box.center, box.radius)

    def carries(self, op: Op, carried: int, *xs: Value) -> int:
        """How many products and additions a fused accumulator holds after this operator, from the ``carried`` before it."""
        return 0

    def folds_into_producer(self, op: Op, constants: tuple[Tensor | None, ...]) -> Tensor | None:
        """The ``|scale|`` per channel that a runtime may multiply into the weights of the layer before, or None."""
        return None

    @abstractmethod
    def examples(self) -> Iterator[Example]:
        """Instances to test the laws on."""


class Monotone(Rule[Op]):
    """A nondecreasing elementwise function: the image of a box is ``[f(l), f(u)]``."""

    kernel: str | None = None
    """The operator's name where its float32 kernel is not one IEEE operation, so that it must have been measured."""

    def interval(self, op: Op, *xs: Value, rounding: Rounding = EXACT) -> Interval:
        (x,) = xs
        assert isinstance(x, Interval)
        lower, upper = (op(end) for end in rounding.ends(x))
        size = torch.maximum(lower.abs(), upper.abs())
        error = self.error(op, size, rounding)
        if self.kernel is not None:
            error = error + rounding.kernel(self.kernel, size)
        return rounding.enclose(lower, upper, error)

    def error(self, op: Op, size: Tensor, rounding: Rounding) -> Tensor | float:
        """The error of evaluating ``f`` where ``|f|`` is at most ``size``; zero for a function that only selects."""
        return 0.0


def require_samples_first(center: Tensor, *xs: Value) -> None:
    """Raise InputRejected (3) where the first axis of a result is not that of the samples; bounds rely on it being so."""
    if center.shape[:1] != (max(x.center.shape[0] for x in xs if isinstance(x, Interval)),):
        raise InputRejected(
            f"its result of shape {list(center.shape)} does not have the samples along its first axis; keep them there, "
            "also where it is one sample."
        )


def fold_floor(scale: Tensor) -> Tensor:
    """A folded scale as a divisor: infinite where the scale is exactly zero, since folding it gives zeros without underflow."""
    return torch.where(scale > 0, scale, torch.inf)


def rule(*operators: type[nn.Module]) -> Callable[[type[Rule[Any]]], type[Rule[Any]]]:
    """Enrol a rule for operator classes. Raises PipelineError for a class that has a rule already."""

    def enrol(cls: type[Rule[Any]]) -> type[Rule[Any]]:
        instance = cls()
        for operator in operators:
            if operator in _RULES:
                raise PipelineError(
                    f"{operator.__name__} has two rules: {type(_RULES[operator]).__name__}, {cls.__name__}."
                )
            _RULES[operator] = instance
        return cls

    return enrol


def rule_for(op: nn.Module) -> Rule[Any] | None:
    """The rule of an operator, by its exact class; None where there is none."""
    return _RULES.get(type(op))


def rules() -> dict[type[nn.Module], Rule[Any]]:
    """Every operator that has a rule."""
    return dict(_RULES)
