"""Facts of weights that every batch needs again: ``|W|``, and how many entries of a row are not zero.

They are remembered by a walk that bounds many batches of one fixed network, and by nothing else: weights that train are read
anew each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Facts = dict[tuple[str, int], tuple[Tensor, tuple[int, int], Any]]
_FACTS: ContextVar[Facts | None] = ContextVar("facts of weights", default=None)


@contextmanager
def remembering(facts: Facts) -> Iterator[None]:
    """Keep what rules find out about weights in ``facts``, and look there first."""
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
    # The version and the address tell a weight that was changed; it is kept itself, so that no other takes its id.
    key, state = (name, id(weight)), (weight._version, weight.data_ptr())
    if key not in facts or facts[key][1] != state:
        facts[key] = weight, state, compute(weight)
    return facts[key][2]
