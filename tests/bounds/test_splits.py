"""Bounds under assumed signs: below the form at every point that meets them, whatever slopes and multipliers are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from pipeline.bounds import walk
from pipeline.bounds.branching import halves_of
from pipeline.bounds.margins import MarginBounds, margin_form
from pipeline.bounds.splits import Ascent, Domains, SplitBounds, Trace
from pipeline.choices import Mode
from pipeline.core.network import Network
from pipeline.core.rounding import rounding_of
from pipeline.core.threat import BALLS
from tests.nets import conv_net, mlp, residual_concat_net

NETS = [lambda: mlp(6, 24, 12, 4), conv_net, residual_concat_net]
POINTS = 64


def begun(draw: Callable[[], Network], mode: Mode, norm: str = "linf") -> tuple[SplitBounds, torch.Tensor]:
    """The margins of one sample, label 0, and points of its region."""
    network = draw().in_float64()
    network.graph.eval()
    x = torch.rand(1, *network.inputs[0].shape[1:], dtype=torch.float64)
    region = BALLS[norm](Fraction(3, 20)).region(x)
    bounds = MarginBounds(network, rounding_of(mode), method="alpha-crown")
    known = bounds.linear.over([region])
    logits = known.box(bounds.top.index).center
    forms = margin_form(torch.tensor([0]), logits.shape[1:], logits.dtype)
    drawn = torch.rand(POINTS, *x.shape[1:], dtype=torch.float64) * 2 - 1
    if norm == "l2":
        drawn = drawn / drawn.flatten(1).norm(dim=1).reshape(-1, *[1] * (x.dim() - 1))
        return SplitBounds(known, forms, bounds.top.index, 16), (x + drawn * float(Fraction(3, 20))).clamp(0, 1)
    return SplitBounds(known, forms, bounds.top.index, 16), region.box.center + drawn * region.box.radius


def met(split: SplitBounds, points: torch.Tensor) -> tuple[Domains, torch.Tensor]:
    """For each form and point a domain that contains it, about half of its signs assumed; and the form there."""
    values = walk.forward(split.bounds.plan, [points], lambda *_: None, keep=walk.EVERYTHING)
    signs = split.gathered({i: values[node].sign() for i, node in split.nodes.items()}, len(points))
    logits = values[split.index].flatten(1)
    of = torch.randint(0, len(split.forms.const), (len(points),))
    true = (split.forms.coeff[of, 0].flatten(1) * logits).sum(1)
    half = torch.where(torch.rand_like(signs) < 0.5, signs, 0)
    alpha, beta = torch.rand_like(signs), torch.rand_like(signs).pow(4) * 10
    return Domains(of, half, alpha, beta, torch.full_like(true, -torch.inf)), true


def slack(true: torch.Tensor) -> torch.Tensor:
    return 1e-12 * (1 + true.abs().max())


@pytest.mark.parametrize("mode", ["none", "real", "float32-any-order"])
@pytest.mark.parametrize("draw", NETS)
def test_no_point_that_meets_the_assumptions_is_below(draw: Callable[[], Network], mode: Mode) -> None:
    split, points = begun(draw, mode)
    assert split.neurons > 3
    domains, true = met(split, points)
    assert bool((split.proved(domains) <= true + slack(true)).all())
    # Without multipliers bounds are tight enough for a line that is a little too high to show.
    plain = replace(domains, beta=torch.zeros_like(domains.beta))
    better = split.improved(plain, Ascent(10), torch.full((len(split.forms.const),), torch.inf))
    for found in (split.proved(plain), better.lower, split.proved(better)):
        assert bool((found <= true + slack(true)).all())
    assert bool((better.lower >= split.improved(plain, Ascent(0), better.lower).lower - 1e-9).all())
    # The form that the walk ends with is below at every single point, not only its minimum.
    for tried in (domains, plain, better):
        trace = Trace()
        split.lower(tried, tried.alpha, tried.beta, trace=trace)
        ((index, _),) = split.bounds.regions.items()
        form = trace.ends[index]
        at = (form.coeff[:, 0] * points).flatten(1).sum(1) + form.const[:, 0]
        assert bool((at <= true + slack(true)).all())


def test_nor_in_a_euclidean_ball() -> None:
    split, points = begun(conv_net, "real", "l2")
    domains, true = met(split, points)
    assert bool((split.proved(domains) <= true + slack(true)).all())


def test_multipliers_below_zero_or_without_a_value_are_none() -> None:
    split, points = begun(residual_concat_net, "real")
    domains, true = met(split, points)
    for bad in (-5.0, torch.nan, torch.inf):
        spoilt = Domains(domains.of, domains.sign, domains.alpha, torch.full_like(domains.beta, bad), domains.lower)
        assert bool((split.proved(spoilt) <= true + slack(true)).all())


def test_slopes_beyond_their_range_are_none_that_a_proof_uses() -> None:
    split, points = begun(conv_net, "real")
    domains, true = met(split, points)
    steep = replace(domains, alpha=4 * domains.alpha - 2, beta=torch.zeros_like(domains.beta))
    assert bool((split.proved(steep) <= true + slack(true)).all())
    assert torch.equal(split.proved(steep), split.proved(replace(steep, alpha=steep.alpha.clamp(0, 1))))


@pytest.mark.parametrize("fault", ["sign", "line"])
def test_a_wrong_rule_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A multiplier that pulls the wrong way, and a line that is that of the other side."""
    split, points = begun(conv_net, "none")
    domains, true = met(split, points)
    other = Domains(domains.of, -domains.sign, domains.alpha, domains.beta, domains.lower)
    if fault == "sign":
        spread = SplitBounds.spread
        monkeypatch.setattr(
            SplitBounds,
            "spread",
            lambda self, v: spread(self, -v if bool((v < 0).any()) and bool((v.abs() > 1).any()) else v),
        )
        assert bool((split.proved(domains) > true + slack(true)).any())
    else:
        assert bool((split.proved(other) > true + slack(true)).any())


def test_halves_differ_in_one_sign_and_are_all_of_it() -> None:
    split, _ = begun(conv_net, "real")
    whole = split.whole(torch.arange(3), torch.full((3,), -torch.inf, dtype=torch.float64))
    both, divided, points = halves_of(split, whole, torch.full((3,), torch.inf, dtype=torch.float64))
    assert bool(divided.all())
    assert len(points) == 3
    assert torch.equal(both.sign[:3], -both.sign[3:])
    assert torch.equal(both.sign.abs().sum(1), torch.ones(6, dtype=torch.float64))
    assert torch.equal(both.of, torch.arange(3).repeat(2))


def test_a_linear_program_is_no_worse_than_the_search_and_proves_that_a_part_is_empty() -> None:
    split, points = begun(lambda: mlp(3, 8, 3), "real")
    domains, true = met(split, points)
    values = walk.forward(split.bounds.plan, [points], lambda *_: None, keep=walk.EVERYTHING)
    signs = split.gathered({i: values[node].sign() for i, node in split.nodes.items()}, len(points))
    settled = Domains(domains.of, signs, domains.alpha, torch.zeros_like(domains.beta), domains.lower)
    best, searched = split.solved(settled), split.improved(settled, Ascent(40), torch.full((2,), torch.inf))
    assert bool((best.lower >= searched.lower - 1e-9).all())
    assert bool((split.proved(best) <= true + slack(true)).all())
    if split.neurons >= 2:
        # Of the patterns of signs most belong to no point.
        every = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * split.neurons).reshape(
            -1, split.neurons
        )
        every = every[torch.randperm(len(every))[:32]]
        zeros = torch.zeros_like(every)
        parts = Domains(
            torch.zeros(len(every), dtype=torch.int64), every, zeros, zeros, every.new_full((len(every),), -torch.inf)
        )
        assert int((split.proved(split.solved(parts)) > 0).sum()) > 0
