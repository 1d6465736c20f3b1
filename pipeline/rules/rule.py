"""What an operator means for boxes and linear forms: one class an operator, enrolled by ``@rule``.

To add an operator, write one file in this folder: the rules are found by themselves, and ``examples`` enrols an operator in
the laws of ``tests/laws.py``. The concrete meaning is the module's own ``forward``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from pipeline.core.interval import Interval, Lockstep
from pipeline.core.rounding import EXACT, SLACK, U64, Outward, Rounding
from pipeline.distributed.sync_batch import WHOLE, Batch
from pipeline.errors import InputRejected, PipelineError
from pipeline.rules.relax import AffineMap, Relaxation, Window

Value = Interval | Tensor
Op = TypeVar("Op", bound=nn.Module)

_RULES: dict[type[nn.Module], Rule[Any]] = {}


@dataclass(frozen=True)
class Example:
    """An operator with parameters of both signs and the shapes of its inputs, batch first; a tensor stands for a constant."""

    op: nn.Module
    inputs: tuple[tuple[int, ...] | Tensor, ...]
    domain: tuple[float, float] | None = None
    """Where the boxes of the inputs are drawn, if not around zero."""


class Rule(ABC, Generic[Op]):
    """What one operator means. Values are positional and abstract or constant; ``rounding`` says what evaluation may add."""

    assumes: str | None = None
    """What the account of its float32 evaluation assumes of a kernel's steps, a sentence for reports; None for nothing."""

    def refuses(self, op: Op, abstract: tuple[bool, ...]) -> str | None:
        """Why this application has no sound rule, in words, or None; ``abstract`` marks the inputs that vary."""
        return None

    @abstractmethod
    def interval(self, op: Op, *xs: Value, rounding: Rounding = EXACT) -> Interval:
        """A box that contains the image of the boxes ``xs``."""

    def relax(self, op: Op, *xs: Value, rounding: Rounding = EXACT) -> Relaxation | None:
        """The operator between linear functions over the boxes ``xs``; None where nothing is better than its own box."""
        return None

    def loose(self, op: Op, x: Interval) -> Tensor:
        """Which entries of an abstract input a tighter box would serve; boolean, of its shape."""
        return x.radius > 0

    def lockstep(self, op: Op, *xs: Lockstep | Tensor, batch: Batch = WHOLE) -> Lockstep:
        """The clean value and the box together; an operator with batch statistics reads those of the whole batch."""
        clean = op(*(x.clean if isinstance(x, Lockstep) else x for x in xs))
        box = self.interval(op, *(x.box if isinstance(x, Lockstep) else x for x in xs))
        return Lockstep(clean, box.center, box.radius)

    def carries(self, op: Op, carried: int, *xs: Value) -> int:
        """How many products and additions of an accumulator the output hands on to an operator fused after it."""
        return 0

    def folds_into_producer(self, op: Op, constants: tuple[Tensor | None, ...]) -> Tensor | None:
        """The ``|scale|`` per channel by which a runtime may multiply the weights of the layer before, or None."""
        return None

    @abstractmethod
    def examples(self) -> Iterator[Example]:
        """Instances on which the laws are tested."""


class Affine(Rule[Op]):
    """``y = W x + b``: a subclass says what ``|W| r`` is, the rest follows from the operator itself."""

    def radius(self, op: Op, *xs: Value) -> Tensor:
        """``|W| r``, summed over the abstract inputs; reads nothing of them but ``radius``."""
        raise PipelineError(f"{type(self).__name__} states no radius.")

    def terms(self, op: Op, *xs: Value) -> int:
        """How many products one output sums at most (its fan-in)."""
        return 1

    def fan_out(self, op: Op, *xs: Value) -> int:
        """How many outputs one input feeds at most."""
        return 1

    def deployed_terms(self, op: Op, terms: int, carried: int) -> int:
        """How many roundings one leaf may meet in the deployed graph, whatever is fused."""
        return terms + 1 + SLACK

    def offset(self, op: Op, *xs: Value) -> Tensor | float:
        """``|b|``, broadcastable to the output: every constant leaf of the sum by its absolute value."""
        return 0.0

    def flush(self, op: Op, *xs: Value) -> Tensor | float:
        """What reading subnormal parameters as zero may cost beyond ``U`` of ``core/rounding.py``, which covers weights."""
        return 0.0

    def interval(self, op: Op, *xs: Value, rounding: Rounding = EXACT) -> Interval:
        """``op(c) ± |W| r``."""
        center = op(*(x.center if isinstance(x, Interval) else x for x in xs))
        require_samples_first(center, *xs)
        if not isinstance(rounding, Outward):
            return Interval(center, self.radius(op, *xs).expand_as(center))
        terms = self.terms(op, *xs)
        box = rounding.affine(
            center,
            xs,
            lambda *ys: self.radius(op, *ys),
            self.offset(op, *xs),
            terms,
            self.deployed_terms(op, terms, rounding.carried),
            self.flush(op, *xs),
        )
        return Interval(center, box.radius.expand_as(center))

    def transpose(self, op: Op, coeff: Tensor, *xs: Value) -> tuple[Tensor | None, ...]:
        """``A W`` for each abstract input, by the operator's own vector-Jacobian product; None for a constant."""
        varying = {i: x.center for i, x in enumerate(xs) if isinstance(x, Interval)}

        def linear(*values: Tensor) -> Tensor:
            filled = dict(zip(varying, values, strict=True))
            return op(*(filled.get(i, x) for i, x in enumerate(xs)))

        vjp = torch.func.vjp(linear, *(torch.zeros_like(c) for c in varying.values()))[1]
        pulled = dict(zip(varying, torch.vmap(vjp)(coeff), strict=True))
        return tuple(pulled.get(i) for i in range(len(xs)))

    def relax(self, op: Op, *xs: Value, rounding: Rounding = EXACT) -> Relaxation:
        error, constant = self.disturbance(op, *xs, rounding=rounding), self.constant(op, *xs)
        slack = rounding.affine_slack(error, constant)
        return AffineMap(lambda coeff: self.transpose(op, coeff, *xs), constant, slack, rounding, self.window(op, *xs))

    def window(self, op: Op, *xs: Value) -> Window | None:
        """``A W`` of coefficients that are zero outside a window, where that is a window again; None to have them dense."""
        return None

    def constant(self, op: Op, *xs: Value) -> Tensor | None:
        """``b``, None for zero: the operator where every abstract input is zero; a batch of one unless a constant has one."""
        if not isinstance(self.offset(op, *xs), Tensor):
            return None
        alone = all(isinstance(x, Interval) for x in xs)
        return op(
            *(torch.zeros_like(x.center[:1] if alone else x.center) if isinstance(x, Interval) else x for x in xs)
        )

    def disturbance(self, op: Op, *xs: Value, rounding: Rounding) -> Tensor | None:
        """What evaluating the operator, or the coefficients pulled back through it, may err by at each output."""
        if not isinstance(rounding, Outward):
            return None
        terms = self.terms(op, *xs)
        return rounding.affine_error(
            xs,
            lambda *ys: self.radius(op, *ys),
            self.offset(op, *xs),
            max(terms, self.fan_out(op, *xs)),
            self.deployed_terms(op, terms, rounding.carried),
            self.flush(op, *xs),
        )


class Rearrange(Affine[Op]):
    """Entries moved, copied, dropped or joined by constants: no arithmetic, hence no rounding."""

    def radius(self, op: Op, *xs: Value) -> Tensor:
        return op(*(x.radius if isinstance(x, Interval) else torch.zeros_like(x) for x in xs))

    def carries(self, op: Op, carried: int, *xs: Value) -> int:
        return carried

    def offset(self, op: Op, *xs: Value) -> Tensor | float:
        constants = [x for x in xs if isinstance(x, Tensor)]
        return constants[0].abs() if constants else 0.0

    def interval(self, op: Op, *xs: Value, rounding: Rounding = EXACT) -> Interval:
        return super().interval(op, *xs, rounding=EXACT)

    def disturbance(self, op: Op, *xs: Value, rounding: Rounding) -> Tensor | None:
        """Only the coefficients round, and only where one input feeds several outputs."""
        copies = self.fan_out(op, *xs)
        if copies == 1 or not isinstance(rounding, Outward):
            return None
        size = self.radius(op, *(Interval(x.center, x.magnitude) if isinstance(x, Interval) else x for x in xs))
        return size * (4 * copies * U64)


class Monotone(Rule[Op]):
    """A nondecreasing elementwise function: the image of a box is ``[f(l), f(u)]``."""

    kernel: str | None = None
    """The operator's name where its float32 evaluation is no single IEEE operation; it is then refused by name."""

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
        """What evaluating ``f`` may err by; nothing for a function that only selects."""
        return 0.0


def require_samples_first(center: Tensor, *xs: Value) -> None:
    """Raise InputRejected where the first axis of a result is not that of the samples: nothing else says where these are."""
    if center.shape[:1] != (max(x.center.shape[0] for x in xs if isinstance(x, Interval)),):
        raise InputRejected(
            f"its result of shape {list(center.shape)} does not have the samples along its first axis; keep them there, "
            "also where it is one sample."
        )


def fold_floor(scale: Tensor) -> Tensor:
    """A folded scale as a divisor: exactly zero folds to exactly zero, so that nothing can underflow there."""
    return torch.where(scale > 0, scale, torch.inf)


def rule(*operators: type[nn.Module]) -> Callable[[type[Rule[Any]]], type[Rule[Any]]]:
    """Enrol a rule for operator classes; a second rule for the same class is a fault."""

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
    """The rule of an operator, by its exact class."""
    return _RULES.get(type(op))


def rules() -> dict[type[nn.Module], Rule[Any]]:
    """Every operator that has a rule."""
    return dict(_RULES)
