"""Interval bound propagation: the same graph walked with boxes."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

from torch import Tensor

from pipeline.bounds import walk
from pipeline.bounds.float32_sites import sites
from pipeline.core.interval import Interval, Lockstep
from pipeline.core.network import Network, Plan, Step
from pipeline.core.outward import Outward
from pipeline.core.rounding import EXACT, Rounding
from pipeline.distributed.sync_batch import WHOLE, Batch
from pipeline.errors import PipelineError
from pipeline.rules import rule_for
from pipeline.rules.rule import require_samples_first
from pipeline.rules.weights import Facts, remembering


class IntervalWalk:
    """IBP over one Network (Gowal et al., arXiv 1810.12715, eq. 6-8), in the precision of its weights.

    ``boxes(x)`` gives the box of every node; ``rounding_at`` remembers what each operator was charged, which a backward walk
    over the same values needs again. ``fixed`` promises that no weight changes while the walk is in use; ``facts`` about the
    weights may then be shared by several walks. ``check`` is called at every node, and may raise to end the walk.
    """

    def __init__(
        self,
        network: Network,
        rounding: Rounding = EXACT,
        plan: Plan | None = None,
        *,
        fixed: bool = False,
        facts: Facts | None = None,
        check: Callable[[], None] = lambda: None,
    ):
        self.network, self.plan, self.rounding = network, plan or network.plan(), rounding
        self._site: dict[int, Rounding] = dict.fromkeys((s.index for s in self.plan.steps), rounding)
        if isinstance(rounding, Outward):
            self._site.update(sites(self.plan, rounding))
        self._carried: dict[int, int] = {}
        self.facts: Facts | None = facts if facts is not None else {} if fixed else None
        self.check = check

    def boxes(
        self, inputs: Sequence[Interval | Tensor], *, keep: Container[int] = ()
    ) -> list[Interval | Tensor | None]:
        """The box of every node kept, by plan index; float inputs outside ``inputs``' boxes never arise."""
        return walk.forward(self.plan, inputs, self.apply, keep=keep)

    def apply(self, step: Step, *xs: Interval | Tensor) -> Interval:
        """The box of one step from those of its arguments."""
        self.check()
        rule = rule_for(step.op)
        if rule is None:
            raise PipelineError(f"{self.network.origin(step.name)} has no rule; `rules.require` was not called first.")
        try:
            with remembering(self.facts):
                box = rule.interval(step.op, *xs, rounding=self.rounding_at(step))
                require_samples_first(box.center, *xs)
        except PipelineError as error:
            raise type(error)(f"{self.network.origin(step.name)}: {error}") from error
        self._carried[step.index] = rule.carries(step.op, self._carried_into(step), *xs)
        return box

    def rounding_at(self, step: Step) -> Rounding:
        """What the operator of ``step`` may add, given what its producers hand on."""
        site = self._site[step.index]
        return site.at(carried=self._carried_into(step), folded_scale=site.folded_scale)

    def _carried_into(self, step: Step) -> int:
        return max((self._carried.get(a, 0) for a in step.args), default=0)


def lockstep(plan: Plan, x: Tensor, box: Interval, *, batch: Batch = WHOLE) -> list[Lockstep | Tensor | None]:
    """The training walk: clean values and boxes side by side, every node kept, so that regularisers may read them;
    None for what lies behind the logits.

    Layers in train mode take their statistics from the clean values of the whole ``batch``, with gradients.
    """

    def apply(step: Step, *xs: Lockstep | Tensor) -> Lockstep:
        rule = rule_for(step.op)
        if rule is None:
            raise PipelineError(f"{step.name} has no rule; `rules.require` was not called first.")
        return rule.lockstep(step.op, *xs, batch=batch)

    return walk.forward(plan, [Lockstep(x, box.center, box.radius)], apply, keep=walk.EVERYTHING)
