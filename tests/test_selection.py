"""What `make test` leaves out of a product is no pair of values."""

from __future__ import annotations

from itertools import combinations, product
from types import SimpleNamespace

from tests.selection import left_out

PARAMETERS = {"net": "abcdef", "arithmetic": (None, "real", "float32"), "eps": (0, 1, 2, 3)}


def case(values: tuple[object, ...]) -> SimpleNamespace:
    return SimpleNamespace(callspec=SimpleNamespace(params=dict(zip(PARAMETERS, values, strict=True))))


def pairs(cases: list[SimpleNamespace]) -> set[object]:
    return {pair for case in cases for pair in combinations(case.callspec.params.items(), 2)}


def test_every_two_values_of_two_parameters_meet_in_few_cases() -> None:
    cases = [case(values) for values in product(*PARAMETERS.values())]
    left = {id(c) for c in left_out(cases)}
    kept = [c for c in cases if id(c) not in left]
    assert pairs(kept) == pairs(cases)
    assert 24 <= len(kept) <= 30, "of 72; fewer than 6 x 4 cannot hold every net with every eps"
    assert pairs(kept[1:]) != pairs(cases), "the check can fail"
