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

from pipeline.core.floating_point import SLACK, U64
from pipeline.core.interval import Interval, Lockstep
from pipeline.core.outward import Outward
from pipeline.core.partial_sums import PartialSums, signed_reach
from pipeline.core.rounding import EXACT, Rounding
from pipeline.distributed.sync_batch import WHOLE, Batch
from pipeline.errors import InputRejected, PipelineError
from pipeline.rules.relax import AffineMap, Relaxation, Window

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


class Affine(Rule[Op]):
    """``y = W x + b``: a subclass states ``|W| r``; everything else follows from the operator itself."""

    def radius(self, op: Op, *xs: Value) -> Tensor:
        """``|W| r``, summed over the inputs that vary; of these it reads ``radius`` alone."""
        raise PipelineError(f"{type(self).__name__} states no radius.")

    def terms(self, op: Op, *xs: Value) -> int:
        """The most products that one output sums (its fan-in)."""
        return 1

    def fan_out(self, op: Op, *xs: Value) -> int:
        """The most outputs that one input contributes to."""
        return 1

    def deployed_terms(self, op: Op, terms: int, carried: int) -> int:
        """The most roundings that one term of the sum may pass through in the deployed graph, whatever is fused."""
        return terms + 1 + SLACK

    def offset(self, op: Op, *xs: Value) -> Tensor | float:
        """``|b|``, broadcastable to the output: the sum of the absolute values of all constant terms."""
        return 0.0

    def flush(self, op: Op, *xs: Value) -> Tensor | float:
        """The error of reading subnormal parameters as zero beyond ``U`` of ``core/rounding.py``, which covers weights."""
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
        """``A W`` for each input that varies, by the operator's own vector-Jacobian product; None for a constant."""
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
        """``A W`` of coefficients that are zero outside a window, where the result is a window too; None to take dense ones."""
        return None

    def constant(self, op: Op, *xs: Value) -> Tensor | None:
        """``b``, or None for zero: the operator at zero; a batch of one unless an input is constant."""
        if not isinstance(self.offset(op, *xs), Tensor):
            return None
        all_vary = all(isinstance(x, Interval) for x in xs)
        return op(
            *(torch.zeros_like(x.center[:1] if all_vary else x.center) if isinstance(x, Interval) else x for x in xs)
        )

    def disturbance(self, op: Op, *xs: Value, rounding: Rounding) -> Tensor | None:
        """The error, at each output, of evaluating the operator and of pulling coefficients back through it."""
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
            self.partial_sums(op, *xs) if rounding.deployed else None,
        )

    def active(self, op: Op, *xs: Value) -> Tensor | None:
        """How many products of each output's sum are not always zero; None where ``lost`` of partial sums says nothing better."""
        return None

    def partial_sums(self, op: Op, *xs: Value) -> PartialSums | None:
        """What sums of some of the terms may reach over the boxes ``xs``."""
        active = self.active(op, *xs)
        if active is None:
            return None
        reach = [signed_reach(x.lower, x.upper) if isinstance(x, Interval) else (x, x) for x in xs]
        image = op(*(difference for difference, _ in reach))
        spread = self.radius(
            op, *(Interval(s, s) if isinstance(x, Interval) else x for x, (_, s) in zip(xs, reach, strict=True))
        )
        terms = self.terms(op, *xs)
        return PartialSums.of(image, spread, self.offset(op, *xs), active.clamp(max=terms), terms)


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
        """Only coefficients are rounded, and only where one input contributes to several outputs."""
        copies = self.fan_out(op, *xs)
        if copies == 1 or not isinstance(rounding, Outward):
            return None
        size = self.radius(op, *(Interval(x.center, x.magnitude) if isinstance(x, Interval) else x for x in xs))
        return size * (4 * copies * U64)


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
