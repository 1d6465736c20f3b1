"""Bounds under assumed signs: below the form at every point that meets them, whatever slopes and multipliers are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from pipeline.bounds import condensed, intermediate, walk
from pipeline.bounds.ascent import Ascent, SearchBounds
from pipeline.bounds.branching import halves_of
from pipeline.bounds.duals import solved
from pipeline.bounds.intermediate import optimised
from pipeline.bounds.margins import MarginBounds, margin_form
from pipeline.bounds.splits import Domains, SplitBounds, Trace
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


@torch.no_grad()
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


@pytest.fixture(params=["condensed", "whole"])
def network_of_the_search(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the search runs on: the condensed network, or the network itself."""
    if request.param == "whole":
        monkeypatch.setattr(condensed, "LARGEST", -1)


@pytest.mark.usefixtures("network_of_the_search")
@pytest.mark.parametrize("mode", ["none", "real", "float32-any-order"])
@pytest.mark.parametrize("draw", NETS)
def test_no_point_that_meets_the_assumptions_is_below(draw: Callable[[], Network], mode: Mode) -> None:
    split, points = begun(draw, mode)
    assert split.neurons > 3
    domains, true = met(split, points)
    assert bool((split.proved(domains) <= true + slack(true)).all())
    # Without multipliers bounds are tight enough for a line that is a little too high to show.
    plain = replace(domains, beta=torch.zeros_like(domains.beta))
    search = SearchBounds(split)
    start = plain.to(search.start)
    better = search.improved(start, Ascent(10), search.start.new_full((len(split.forms.const),), torch.inf))
    for found in (split.proved(plain), split.proved(better)):
        assert bool((found <= true + slack(true)).all())
    assert bool((better.lower <= true + 1e-4 * (1 + true.abs().max())).all())
    assert bool((better.lower >= search.improved(start, Ascent(0), better.lower).lower - 1e-9).all())
    # The form that the walk ends with is below at every single point, not only its minimum.
    for tried in (domains, plain, better.to(true)):
        trace = Trace()
        split.lower(tried, tried.alpha, tried.beta, trace=trace)
        ((index, _),) = split.bounds.regions.items()
        form = trace.ends[index]
        at = (form.coeff[:, 0] * points).flatten(1).sum(1) + form.const[:, 0]
        assert bool((at <= true + slack(true)).all())


@torch.no_grad()
@pytest.mark.parametrize("mode", ["none", "real", "float32-any-order"])
@pytest.mark.parametrize("draw", NETS)
def test_boxes_by_optimised_slopes_hold_every_point_and_are_no_wider(draw: Callable[[], Network], mode: Mode) -> None:
    split, points = begun(draw, mode)
    values = walk.forward(split.bounds.plan, [points], lambda *_: None, keep=walk.EVERYTHING)
    before = {node: split.bounds.box(node) for node in split.nodes.values()}
    narrower = optimised(SearchBounds(split), torch.ones(split.neurons, dtype=torch.float64))
    for node, old in before.items():
        assert split.bounds.box(node) is old
        lower, upper = split.bounds.linear.rounding.ends(narrower.box(node))
        assert bool((lower <= values[node] + slack(values[node])).all())
        assert bool((values[node] <= upper + slack(values[node])).all())
        assert bool((narrower.box(node).radius <= old.radius).all())
    assert any(bool((narrower.box(node).radius < old.radius).any()) for node, old in before.items())


def test_boxes_are_narrowed_within_what_the_searches_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    split, _ = begun(conv_net, "real")
    last = split.layers[-1][2]
    weight = torch.zeros(split.neurons, dtype=torch.float64).index_fill(0, torch.tensor([last.stop - 1]), 1.0)
    monkeypatch.setattr(intermediate, "WORK", 1e9)
    narrower = optimised(SearchBounds(split), weight)
    changed = sum(
        int((narrower.box(node).radius < split.bounds.box(node).radius).sum()) for node in split.nodes.values()
    )
    assert 0 < changed < split.neurons - split.layers[0][2].stop


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


@torch.no_grad()
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("draw", NETS)
def test_the_condensed_network_gives_the_bounds_of_the_whole_and_their_derivatives(
    draw: Callable[[], Network], norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, points = begun(draw, "none", norm)
    domains, _ = met(split, points)
    small = SearchBounds(split)
    assert small.condensed is not None
    monkeypatch.setattr(condensed, "LARGEST", -1)
    whole = SearchBounds(split)
    assert whole.condensed is None
    some = domains.to(small.start)
    ours, theirs = (
        s.bound(d, d.alpha, d.beta, ascend=True) for s, d in ((small, some), (whole, domains[: split.rows]))
    )
    for name in ("lower", "outputs", "point", "slopes", "multipliers"):
        found, expected = getattr(ours, name)[: split.rows].double(), getattr(theirs, name)
        assert found == pytest.approx(expected, abs=1e-4 * (1 + float(expected.abs().max()))), name
    assert small.at(points).double() == pytest.approx(whole.at(points), abs=1e-5)
    for found, expected in zip((small.slope, small.offset), (whole.slope, whole.offset), strict=True):
        assert found.double() == pytest.approx(expected, abs=1e-6)


@pytest.mark.usefixtures("network_of_the_search")
def test_halves_differ_in_one_sign_and_are_all_of_it() -> None:
    split, _ = begun(conv_net, "real")
    search = SearchBounds(split)
    nothing = search.start.new_full((3,), torch.inf)
    whole = search.whole(torch.arange(3), -nothing)
    both, divided, points = halves_of(search, whole, nothing)
    assert bool(divided.all())
    assert len(points) == 3
    assert torch.equal(both.sign[:3], -both.sign[3:])
    assert torch.equal(both.sign.abs().sum(1), torch.ones(6).to(both.sign))
    assert torch.equal(both.of, torch.arange(3).repeat(2))


def test_a_linear_program_is_no_worse_than_the_search_and_proves_that_a_part_is_empty() -> None:
    split, points = begun(lambda: mlp(3, 8, 3), "real")
    domains, true = met(split, points)
    values = walk.forward(split.bounds.plan, [points], lambda *_: None, keep=walk.EVERYTHING)
    signs = split.gathered({i: values[node].sign() for i, node in split.nodes.items()}, len(points))
    settled = Domains(domains.of, signs, domains.alpha, torch.zeros_like(domains.beta), domains.lower)
    search = SearchBounds(split)
    searched = search.improved(settled.to(search.start), Ascent(40), search.start.new_full((2,), torch.inf))
    best = solved(split, settled)
    assert bool((best.lower >= searched.lower - 1e-5).all())
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
        assert int((split.proved(solved(split, parts)) > 0).sum()) > 0
