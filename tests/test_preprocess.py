"""Normalisation outside the graph: the same function, boxes in pixels, and a way back."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from pipeline.bounds.margins import MarginBounds
from pipeline.core.interval import Interval
from pipeline.core.outward import Outward
from pipeline.core.preprocess import Normalise, without_normalisation
from pipeline.core.threat import LinfBall, clipped_box
from pipeline.data import channel_axis
from pipeline.errors import UsageError
from tests import nets

NORMALISE = Normalise((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


def test_the_network_of_pixels_is_the_network_after_normalisation():
    network = nets.residual_concat_net(seed=0)
    x = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    pixels = NORMALISE.before(network)
    assert torch.allclose(pixels(x), network(torch.from_numpy(NORMALISE(x.numpy()))), atol=1e-6)
    assert len(pixels.plan().steps) == len(network.plan().steps) + 2


def test_what_was_put_first_is_taken_out_again():
    network = nets.residual_concat_net(seed=1)
    before = {n: p.clone() for n, p in network.named_parameters()}
    back = without_normalisation(NORMALISE.before(network))
    assert [s.name for s in back.plan().steps] == [s.name for s in network.plan().steps]
    assert all(torch.equal(p, before[n]) for n, p in back.named_parameters())
    assert [s.name for s in without_normalisation(network).plan().steps] == [s.name for s in network.plan().steps]


def test_bounds_in_pixels_are_those_of_the_box_divided_by_std():
    network = nets.residual_concat_net(seed=2).in_float64()
    x = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    box, labels = clipped_box(x, 8 / 255), torch.tensor([0, 1, 2])
    mean, std = (torch.from_numpy(v).double() for v in NORMALISE.arrays((3, 6, 6)))
    inside = Interval((box.center - mean) / std, box.radius / std)
    pixels = NORMALISE.before(nets.residual_concat_net(seed=2)).in_float64()
    assert torch.allclose(MarginBounds(pixels).least(box, labels), MarginBounds(network).least(inside, labels))


def test_float32_preprocessing_in_any_order_is_covered():
    network = Normalise((0.1,), (0.3,)).before(nets.mlp(seed=3))
    x = torch.rand(5, 12, generator=torch.Generator().manual_seed(3))
    exact = network.in_float64()
    labels = network(x).argmax(1)
    least = MarginBounds(exact, Outward(deployed=True)).least(LinfBall(Fraction(0)).box(x.double()), labels)
    logits = network(x).double()
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    assert bool((least <= logits.gather(1, labels[:, None])[:, 0] - others).all())


@pytest.mark.parametrize(
    ("mean", "std"), [((0.0,), (0.0,)), ((0.0,), (-1.0,)), ((0.0, 1.0), (1.0,)), ((0.0,), (np.nan,))]
)
def test_numbers_that_normalise_nothing_are_refused(mean, std):
    with pytest.raises(UsageError, match="--std"):
        Normalise(mean, std)


def test_another_number_of_channels_is_refused():
    with pytest.raises(UsageError, match="3 channels"):
        Normalise((0.1, 0.2), (1.0, 1.0)).arrays((3, 6, 6))


@pytest.mark.parametrize(
    ("shape", "count", "layout", "axis"),
    [
        ((3, 8, 8), 3, None, 0),
        ((8, 8, 3), 3, None, 2),
        ((3, 8, 8), 3, "NHWC", 0),  # the layout of the data: the model takes channels first
        ((8, 8, 3), 3, "NCHW", 2),
        ((3, 8, 3), 3, "NHWC", 2),
        ((3, 8, 3), 3, "NCHW", 0),
        ((8, 8, 3), 1, None, 0),
        ((64,), 1, None, 0),
        ((3, 8, 4), 4, "NHWC", 2),
        ((3, 8, 5), 5, "NHWC", 2),  # three rows
        ((3, 8, 4), 3, "NHWC", 2),  # as said: three means for four channels are refused where they are used
        ((5, 8, 2), 5, None, 0),
    ],
)
def test_means_stand_along_the_axis_that_has_as_many_entries(shape, count, layout, axis):
    assert channel_axis(shape, count, layout) == axis


def test_where_two_axes_have_as_many_entries_the_layout_is_asked_for():
    for shape in ((3, 8, 3), (3, 8, 4)):
        with pytest.raises(UsageError, match=r"--layout NCHW if .* --layout NHWC"):
            channel_axis(shape, 3, None)
