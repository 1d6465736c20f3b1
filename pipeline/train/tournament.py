"""What a comparison of recipes says: rates that did best, pairs seed by seed, and no lead where the spread covers it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One recipe with its options, such as ``distil:alpha=0.5``, at one learning rate."""

    recipe: str
    rate: str = ""
    """Empty for the recipe's own."""

    @property
    def name(self) -> str:
        """The recipe alone."""
        return self.recipe.split(":")[0]

    @property
    def changes(self) -> dict[str, Any]:
        """Its options, as ``recipe`` takes them."""
        parts = (one.partition("=") for one in self.recipe.split(":")[1:])
        return {key.replace("-", "_"): _typed(text) for key, _, text in parts}


def _typed(text: str) -> Any:
    """A number or a boolean as such."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def verdict(one: str, two: str, gaps: Sequence[float]) -> str:
    """Of two recipes, from the gap of their scores with each seed: a lead is one with every seed, of two or more."""
    if not gaps:
        return f"{one} and {two}: no seed of both has finished."
    claim = "no claim" if min(gaps) <= 0 <= max(gaps) else f"{one if gaps[0] > 0 else two} leads"
    if len(gaps) < 2:
        claim = "no claim from one seed"
    return f"{one} less {two}: {', '.join(f'{gap:+.2f}' for gap in gaps)}: {claim}."


def chosen(scores: Mapping[str, Sequence[float]]) -> tuple[str, bool]:
    """The name with the best mean, and whether it leads: whether it is ahead of each other one with every seed."""
    best = max(scores, key=lambda name: statistics.mean(scores[name]))
    others = [scores[name] for name in scores if name != best]
    return best, all(a > b for other in others for a, b in zip(scores[best], other, strict=True))


def spread(values: Sequence[float]) -> str:
    """The mean, and the range of several."""
    if not values:
        return "–"
    ends = f" ({min(values):.2f} – {max(values):.2f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{ends}"
