"""What affine operators have in common: one that states ``|W| r`` has bounds, forms and the account of rounding from here."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.core.floating_point import SLACK, U64
from pipeline.core.interval import Interval
from pipeline.core.outward import Outward
from pipeline.core.partial_sums import PartialSums, signed_reach
from pipeline.core.rounding import EXACT, Rounding
from pipeline.errors import PipelineError
from pipeline.rules.relax import AffineMap, Relaxation, Window
from pipeline.rules.rule import Op, Rule, Value, require_samples_first


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
        """The error of reading subnormal parameters as zero beyond ``U`` of ``core/outward.py``, which covers weights."""
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
        """``A W`` for each input that varies, by the operator's own vector-Jacobian product; None for a constant.

        What most networks contain states it itself: ``torch.func.vjp`` imports torch's compiler, seconds of CPU a process.
        """
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
