"""Facts of weights that every batch needs: ``|W|``, and how many entries of a row are not zero.

Only a walk over a network that does not change caches them; weights in training are read anew.
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
    """Let rules look up facts of weights in ``facts``, and add them there; None computes them each time."""
    token = _FACTS.set(facts)
    try:
        yield
    finally:
        _FACTS.reset(token)


def absolute(weight: Tensor) -> Tensor:
    """``|W|``."""
    return _fact("absolute", weight, torch.abs)


def nonzeros(weight: Tensor, fan_in: Callable[[Tensor], Tensor] = lambda used: used.flatten(1).sum(1)) -> int:
    """The most products that one output sums, where zeros do not count: they add nothing in any order."""
    return _fact("nonzeros", weight, lambda w: int(fan_in(w != 0).max()))


def _fact(name: str, weight: Tensor, compute: Callable[[Tensor], T]) -> T:
    facts = None if torch.is_grad_enabled() else _FACTS.get()
    if facts is None:
        return compute(weight)
    # Nothing shows reliably that a weight has changed (fused optimisers keep its version): the caller guarantees that none
    # does. The weight itself is kept too, so that no other tensor takes its id.
    key = (name, id(weight))
    if key not in facts:
        facts[key] = weight, compute(weight)
    return facts[key][1]
