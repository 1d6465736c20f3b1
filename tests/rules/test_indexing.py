"""Operators that pick and resample: what the laws' own examples cannot say."""

from __future__ import annotations

import pytest
import torch

from pipeline.core import ops
from pipeline.errors import InputRejected
from pipeline.rules import rule_for
from tests import laws


def test_samples_are_not_repeated():
    x = laws.box((1, 4), "wide", torch.Generator().manual_seed(0))
    expand = ops.Expand((3, 4))
    with pytest.raises(InputRejected, match="samples"):
        rule_for(expand).interval(expand, x)
    assert rule_for(ops.Gather(torch.tensor(0), 0)).refuses(ops.Gather(torch.tensor(0), 0), (True,))
    assert rule_for(ops.Tile((2, 1))).refuses(ops.Tile((2, 1)), (True,))
    assert rule_for(ops.Where()).refuses(ops.Where(), (True, True, False))
