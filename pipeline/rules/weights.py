"""Facts of weights that every batch needs again: ``|W|``, and how many entries of a row are not zero.

They are remembered by a walk that was promised a fixed network, and by nothing else: weights that train are read anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Facts = dict[tuple[str, int], tuple[Tensor, Any]]
_FACTS: ContextVar[Facts | None] = ContextVar("facts of weights", default=None)


@contextmanager
def remembering(facts: Facts | None) -> Iterator[None]:
    """Keep what rules find out about weights in ``facts``, and look there first; None to ask each time."""
    token = _FACTS.set(facts)
    try:
        yield
    finally:
        _FACTS.reset(token)


def absolute(weight: Tensor) -> Tensor:
    """``|W|``."""
    return _fact("absolute", weight, torch.abs)


def nonzeros(weight: Tensor, fan_in: Callable[[Tensor], Tensor] = lambda used: used.flatten(1).sum(1)) -> int:
    """How many products one output sums at most: entries that are zero add nothing in any order."""
    return _fact("nonzeros", weight, lambda w: int(fan_in(w != 0).max()))


def _fact(name: str, weight: Tensor, compute: Callable[[Tensor], T]) -> T:
    facts = None if torch.is_grad_enabled() else _FACTS.get()
    if facts is None:
        return compute(weight)
    # Nothing tells reliably that a weight has changed (fused optimisers keep its version): whoever remembers has promised
    # that none does. The weight is kept itself, so that no other takes its id.
    key = (name, id(weight))
    if key not in facts:
        facts[key] = weight, compute(weight)
    return facts[key][1]
