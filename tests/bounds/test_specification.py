"""A specification against its definition, and the one engine that bounds its rows for samples and for properties alike."""

from __future__ import annotations

from fractions import Fraction as Q

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.bounds.margins import MarginBounds
from pipeline.bounds.rows import RowBounds
from pipeline.bounds.specification import Specification
from pipeline.certify.attack_objective import AttackObjective
from pipeline.certify.subdomain import Constraints, whole
from pipeline.core.interval import Interval
from pipeline.core.rounding import rounding_of
from pipeline.core.threat import Box
from pipeline.methods import METHODS, bounding
from pipeline.vnnlib import Case, Constraint, Property
from tests import nets

DEPLOYED = rounding_of("float32-any-order")


def test_margins_are_the_label_against_every_other_class():
    labels, z = torch.tensor([2, 0, 4]), torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).double()
    rows = Specification.margins(labels, 5)
    for b, y in enumerate(labels.tolist()):
        want = torch.stack([z[b, y] - z[b, j] for j in range(5) if j != y])
        assert torch.equal(rows.values(z)[:, b], want)
        assert float(rows.least(rows.values(z))[b]) == float(want.min())
    form = rows.form(5)
    assert torch.allclose((form.coeff * z).sum(2) + form.const, rows.values(z))


def drawn(seed: int) -> tuple[Property, np.random.Generator]:
    """A box with some conjunctions of constraints of both signs, of one to three outputs each."""
    rng = np.random.default_rng(seed)

    def constraint() -> Constraint:
        at = rng.permutation(4)[: rng.integers(1, 4)]
        terms = tuple((int(j), Q(int(c), 4)) for j, c in zip(at, rng.integers(-6, 7, len(at)) * 2 + 1, strict=True))
        return Constraint(terms, Q(int(rng.integers(-40, 41)), 8), bool(rng.random() < 0.3))

    unsafe = tuple(tuple(constraint() for _ in range(rng.integers(1, 4))) for _ in range(rng.integers(1, 4)))
    return Property(2, 4, (Case((Q(-1),) * 2, (Q(1),) * 2, unsafe),)), rng


@pytest.mark.parametrize("seed", range(6))
def test_the_least_of_a_property_is_not_positive_exactly_where_an_output_is_unsafe(seed):
    question, rng = drawn(seed)
    (case,) = question.cases
    rows = Constraints(question)([whole(0, case)])
    seen = set()
    for y in rng.integers(-40, 41, (200, 4)) / 8:
        unsafe = any(all(sum(c * Q(y[j]) for j, c in k.terms) <= k.bound for k in clause) for clause in case.unsafe)
        least = float(rows.least(rows.values(torch.from_numpy(y)[None])))
        assert (least <= 0) == unsafe
        joint = float(rows.least(rows.values(torch.from_numpy(y)[None]), joint=True))
        assert (joint == 0) == unsafe
        seen.add(unsafe)
    assert seen == {True, False} or seed not in (0, 1)


def test_rows_that_a_sample_does_not_have_count_for_nothing_and_nan_for_everything():
    one, two = ((0, Q(1)),), ((1, Q(1)),)
    few, many = (Constraint(one, Q(0)),), (Constraint(one, Q(0)), Constraint(two, Q(0)))
    question = Property(1, 2, (Case((Q(0),), (Q(1),), (few,)), Case((Q(0),), (Q(1),), (few, many, ()))))
    rows = Constraints(question)([whole(i, case) for i, case in enumerate(question.cases)])
    y = torch.tensor([[3.0, 1.0], [3.0, 1.0]])
    assert rows.least(rows.values(y)).tolist() == [3.0, -1.0]  # a conjunction of nothing holds everywhere
    assert rows.least(rows.values(y * torch.nan)).isnan().tolist() == [True, True]


@pytest.mark.parametrize("method", bounding(METHODS))
def test_a_sample_and_the_property_that_states_its_margins_have_the_same_bounds(method):
    network = nets.mlp(3, 12, 12, 4, seed=2)
    label, center, radius = 1, [0.25, -0.5, 0.125], 0.0625
    region = Box(Interval(torch.tensor([center]).double(), torch.full((1, 3), radius).double()))
    margins = MarginBounds(network.in_float64(), DEPLOYED, method=method).rows(region, torch.tensor([label]))
    unsafe = tuple((Constraint(((label, Q(1)), (j, Q(-1))), Q(0)),) for j in range(4) if j != label)
    ends = [tuple(Q(c) + sign * Q(radius) for c in center) for sign in (-1, 1)]
    question = Property(3, 4, (Case(*ends, unsafe),))
    rows = Constraints(question)([whole(0, question.cases[0])])
    found = RowBounds(network.in_float64(), DEPLOYED, method=method).lower([region], rows)
    assert torch.equal(found, margins)


def two_outputs() -> nn.Module:
    """An output behind a ReLU and another before it."""
    d = nets.Drawing(4)
    x = d.input(2)
    h = d(nn.Linear(2, 6), x)
    return d.finish(d(nn.Linear(6, 3), d(nn.ReLU(), h)), d(nn.Linear(6, 1), h), shapes=((None, 3), (None, 1)))


@pytest.mark.parametrize("method", bounding(METHODS))
def test_rows_over_several_outputs_are_bounded_from_below_and_their_constant_is_counted_once(method):
    network, seeds = two_outputs().in_float64(), range(8)
    region = Box(Interval(torch.zeros(1, 2).double(), torch.full((1, 2), 0.5).double()))
    grid = torch.cartesian_prod(*[torch.linspace(-0.5, 0.5, 21).double()] * 2)
    outputs = torch.cat(network(grid), 1).detach()
    bounds, gaps = RowBounds(network, DEPLOYED, method=method), []
    for seed in seeds:
        question, _ = drawn(seed)
        rows = Constraints(question)([whole(0, question.cases[0])])
        least = bounds.lower([region], rows)[:, 0]
        form = rows.form(4)
        attained = (outputs @ form.coeff[:, 0].T + form.const[:, 0]).amin(0)
        assert bool((least <= attained).all())
        gaps.append(float((attained - least).max()))
    assert max(gaps) < 60, "bounds as loose as that test nothing"


def test_an_attack_descends_on_the_rows_and_sees_them_as_they_are():
    network = two_outputs()
    question, _ = drawn(3)
    rows = Constraints(question, nearest=True)([whole(0, question.cases[0])] * 2)
    points = torch.tensor([[0.1, -0.3], [0.4, 0.2]])
    seen = AttackObjective.outputs(network).evaluate(points, rows)
    y = torch.cat(network(points), 1)
    assert torch.allclose(seen.least, rows.least(rows.values(y)))
    step = 1e-3 * seen.gradient
    moved = rows.least(rows.values(torch.cat(network(points + step), 1)))
    assert bool((moved > seen.least).all())
    assert torch.allclose((moved - seen.least).float(), (step * seen.gradient).sum(1), rtol=0.05)
