"""Shapes of what is broadcast, held against torch's."""

from __future__ import annotations

import itertools

import pytest
import torch

from pipeline.core.shapes import broadcast_shape

SHAPES = [(), (1,), (3,), (0,), (1, 3), (2, 1), (2, 3), (4, 1, 1), (4, 2, 3), (4, 0, 1)]
THREE = [((2, 1), (1, 3), (4, 1, 1)), ((2,), (3,), (1,))]


def test_it_is_torchs_own_or_refused_with_it():
    for shapes in [*itertools.product(SHAPES, repeat=2), *THREE]:
        try:
            expected = torch.broadcast_shapes(*shapes)
        except RuntimeError:
            with pytest.raises(ValueError, match="do not broadcast"):
                broadcast_shape(*shapes)
        else:
            assert broadcast_shape(*shapes) == expected
