"""What `make test` runs of a large set of cases; `make test-all` runs all of it, and checks the shapes of every call.

A test marked ``pairwise`` is parametrised over a product. Most faults that depend on several parameters depend on two of them
(Kuhn, Wallace and Gallo, IEEE TSE 30(6), 2004), so `make test` runs some of the combinations, in which every two values of two
parameters meet; the others are marked ``slow``. Tests by hypothesis run fewer examples.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from typing import Any

import hypothesis
import pytest

Pair = tuple[tuple[str, int], ...]
"""Two parameters, each with one of its values."""


def everything(config: pytest.Config) -> bool:
    """Whether slow tests are run too."""
    return "not slow" not in config.option.markexpr


def configure(config: pytest.Config) -> None:
    """Few examples for each test by hypothesis, the same in every run; or many, others each time."""
    hypothesis.settings.register_profile("few", max_examples=20, deadline=None, derandomize=True, database=None)
    hypothesis.settings.register_profile("many", max_examples=200, deadline=None, print_blob=True)
    hypothesis.settings.load_profile("many" if everything(config) else "few")


def mark_what_pairs_leave_out(items: list[pytest.Item]) -> None:
    """Mark as slow what a test marked ``pairwise`` need not run for every two values of two parameters to meet."""
    products: dict[tuple[str, str, bool], list[Any]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("pairwise") is not None:
            # Those for a GPU apart: elsewhere they are skipped, and must stand for none of the others.
            gpu = item.get_closest_marker("gpu") is not None
            products[str(item.path), getattr(item, "originalname", item.name), gpu].append(item)
    for product in products.values():
        for item in left_out(product):
            item.add_marker(pytest.mark.slow)


def left_out(product: list[Any]) -> list[Any]:
    """The items that a greedy choice does not need: each time that which brings most new pairs, the first of such."""
    # Values are told apart as objects: they are those of the lists that the test is parametrised with.
    values = {id(item): sorted((name, id(value)) for name, value in item.callspec.params.items()) for item in product}
    pairs = {item: set(combinations(found, 2)) for item, found in values.items()}
    missing: set[Pair] = set().union(*pairs.values())
    rest = list(product)
    while missing:
        best = max(rest, key=lambda item: len(pairs[id(item)] & missing))
        rest.remove(best)
        missing -= pairs[id(best)]
    return rest
