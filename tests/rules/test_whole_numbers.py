"""Whole numbers of a sample: their values are exact where a box holds one alone, and without bound elsewhere."""

from __future__ import annotations

import torch

from pipeline.core.fixed_integers import IntegerPart
from pipeline.core.interval import Interval
from pipeline.rules import rules


def test_a_box_of_two_whole_numbers_has_no_bound_and_one_of_a_single_number_is_exact() -> None:
    rule = rules()[IntegerPart]
    (example,) = rule.examples()
    center = torch.tensor([[1.0, 0.0, 2.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    radius = torch.tensor([[0.4, 0.0, 0.3], [0.0, 0.6, 0.0]], dtype=torch.float64)
    box = rule.interval(example.op, Interval(center, radius))
    assert box.radius[0].eq(0).all()
    assert box.radius[1].isinf().all()
    table = torch.tensor([[-1.0, 2.0], [0.5, -3.0], [4.0, 1.0]], dtype=torch.float64)
    assert torch.equal(box.center[0, :6], table[[1, 0, 2]].flatten())
    assert torch.equal(box.center[0, 6:].reshape(3, 4).argmax(1), torch.tensor([1, 0, 2]))
