"""The methods that bound margins, an object each, and the ladder that they and the attacks make. Imports no tensors.

Settings, the ladder, estimates of memory, results and progress know of a method what stands here. To add a rung, register one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

IBP, COMPLETE, SHORT_ATTACK, LONG_ATTACK = "ibp", "complete", "pgd", "long pgd"
Improve = Callable[[Any, Any, Any, Any], Any]
DOMAINS, DOMAINS_OF_AUTO = 1_000, 64
"""Parts that branch and bound divides a region into at most, unless a run says otherwise; as the last rung of ``auto``."""


def _nothing_more(bounds: Any, forms: Any, least: Any, search: Any) -> Any:
    """For methods that are one walk."""
    return least


@dataclass(frozen=True)
class BoundingMethod:
    """One way to bound linear forms over a region from below; margins are such forms, and so are the rows of a property."""

    name: str
    cost: int
    """About how many times as long as IBP it takes for a sample: the ladder is climbed in this order."""
    over: Literal["tail", "boxes", "tightened"]
    """How far forms are walked back, and through what: to IBP's boxes where the affine tail of the network ends, or to the region
    itself, through linear relaxations over IBP's boxes or over boxes that such walks have tightened."""
    improve: Improve = _nothing_more
    """``improve(bounds, forms, least, search)``: what it makes of ``least``, the walk's lower bounds (rows, batch) of ``forms``.
    ``bounds`` are the batch's (``bounds/linear.py``), ``search`` says how long to look for slopes (``bounds/alpha.py``)."""
    searches: bool = False
    """Whether it searches, for each form anew: boxes that are cut are bounded by a method that does not."""
    splits: bool = False
    """Whether it goes on by branch and bound, a sample at a time, to a proof or a counterexample."""

    @property
    def label(self) -> str:
        """What the progress bar calls it."""
        return "IBP on every sample" if self.name == IBP else f"{self.name} on what is open"


ATTACKS = {SHORT_ATTACK: 0, LONG_ATTACK: 30}
"""The attacks of the ladder and where they stand in it, as costs of methods are told."""
METHODS: dict[str, BoundingMethod] = {}
"""By name, cheapest first; each is met with those before it that share its boxes."""
DECIDERS: list[str] = []
"""What may settle a sample, in the order in which it is tried; the codes of ``decided_by``."""


def choices() -> tuple[str, ...]:
    """What a user may ask for: a method stands for every rung up to it, ``auto`` for as many as are worth their time."""
    return ("auto", *METHODS)


def up_to(choice: str) -> tuple[str, ...]:
    """The methods that may be tried, cheapest first."""
    names = tuple(METHODS)
    return names if choice == "auto" else names[: names.index(choice) + 1]


def domains_of(choice: str) -> int:
    """Into how many parts branch and bound divides the region of a sample at most, where a run does not say."""
    return DOMAINS_OF_AUTO if choice == "auto" else DOMAINS


def bounding(names: Iterable[str]) -> tuple[str, ...]:
    """Those of some methods that bound any form over any region."""
    return tuple(name for name in names if not METHODS[name].splits)


def register(method: BoundingMethod) -> None:
    """Put a method on its rung. Raises ValueError for a name that is taken, and for what is neither IBP nor dearer."""
    taken = method.name in (*choices(), *DECIDERS)
    if taken or (METHODS and (method.over == "tail" or method.cost <= METHODS[IBP].cost)):
        raise ValueError(f"a method has its own name, walks beyond the tail and costs more than IBP; received {method}")
    METHODS[method.name] = method
    for one in sorted(METHODS.values(), key=lambda one: one.cost):
        METHODS[one.name] = METHODS.pop(one.name)
    costs = ATTACKS | {one.name: one.cost for one in METHODS.values()}
    DECIDERS[:] = ("nothing", "prediction", *sorted(costs, key=lambda name: costs[name]))


register(BoundingMethod(IBP, 1, "tail"))
register(BoundingMethod("crown-ibp", 10, "boxes"))
register(BoundingMethod("crown", 100, "tightened"))
_ALPHA = BoundingMethod(
    "alpha-crown",
    1000,
    "tightened",
    improve=lambda bounds, forms, least, search: search.improved(bounds, forms, least),
    searches=True,
)
register(_ALPHA)
register(replace(_ALPHA, name=COMPLETE, cost=10_000, splits=True))
