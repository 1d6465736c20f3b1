"""Properties of small networks, proved and falsified: against brute force, by halves, and with nothing that is not finite."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction as Q

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.certify import property as proofs
from pipeline.certify.counterexample import LONG, Falsifier
from pipeline.certify.refuter import Refuter
from pipeline.certify.subdomain import Constraints, halves_of, scaled, whole
from pipeline.certify.witness import check
from pipeline.errors import InputRejected
from pipeline.methods import METHODS
from pipeline.system.clock import Clock
from pipeline.vnnlib import Case, Constraint, Property, parse
from tests import nets

NO_BUDGET = Clock()


def at_most(bound, *terms):
    return Constraint(tuple((j, Q(c)) for j, c in terms), Q(bound))


def prove(network, question, method="alpha-crown", *, mode="float32-any-order", clock=NO_BUDGET, batch=16, **how):
    refuter = Refuter(network.in_float64(), question, mode, method=method, batch=batch)
    proof = proofs.prove(refuter, clock, **how)
    while True:
        try:
            next(proof)
        except StopIteration as end:
            return end.value


def box(n, *unsafe, low=-1, high=1):
    return Case((Q(low),) * n, (Q(high),) * n, unsafe)


def test_the_bound_of_a_constraint_is_rounded_down_on_its_way_into_a_form():
    """``c.y - t`` must not gain by rounding ``t``: half of these would."""
    bounds = [sign * Q(k, 10) for k in range(1, 10) for sign in (-1, 1)]
    question = Property(1, 1, (box(1, tuple(at_most(b, (0, 1)) for b in bounds)),))
    const = Constraints(question)([whole(0, question.cases[0])]).const[:, 0]
    assert all(Q(float(c)) <= -b for c, b in zip(const, bounds, strict=True))
    assert any(Q(float(-b)) > -b for b in bounds), "nothing is rounded up: too easy a test"


def absolute_value():
    """``y = |x0| + |x1|``: not below 0, which IBP sees only in halves of the box; never below -1e-3, which CROWN sees."""
    d = nets.Drawing()
    x = d.input(2)
    hidden, last = nn.Linear(2, 4), nn.Linear(4, 1)
    y = d.finish(d(last, d(nn.ReLU(), d(hidden, x))), shapes=((None, 1),))
    with torch.no_grad():
        hidden.weight.copy_(torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]))
        hidden.bias.zero_(), last.bias.zero_()
        last.weight.fill_(1.0)
    return y


def grid(n, low=-1.0, high=1.0, steps=21):
    axes = torch.meshgrid(*[torch.linspace(low, high, steps)] * n, indexing="ij")
    return torch.stack([a.flatten() for a in axes], 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(6))
def test_what_is_proved_is_never_met_on_a_grid(method, seed):
    network = nets.mlp(2, 8, 8, 3, seed=seed)
    y = network(grid(2)).detach()
    for j, share in ((0, 0.0), (1, 0.01), (2, -0.3)):
        threshold = Q(float(y[:, j].min() - share * (y[:, j].max() - y[:, j].min())))
        question = Property(2, 3, (box(2, (at_most(threshold, (j, 1)),)),))
        outcome = prove(network, question, method, split=False)
        if share <= 0:
            assert outcome.open, "a point of the grid meets it"


def test_methods_prove_no_less_than_those_before_them():
    counts = []
    for method in METHODS:
        proved = 0
        for seed in range(12):
            network = nets.mlp(2, 8, 8, 3, seed=seed)
            low = network(grid(2)).detach()[:, 0].min()
            question = Property(2, 3, (box(2, (at_most(Q(float(low)) - Q(1, 3), (0, 1)),)),))
            proved += not prove(network, question, method, split=False).open
        counts.append(proved)
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]


def test_halving_proves_what_one_box_does_not():
    question = Property(2, 1, (box(2, (at_most(Q(-1, 1000), (0, 1)),), low=-1, high=1),))
    network = absolute_value()
    assert not prove(network, question, "crown", split=False).open
    shifted = Property(2, 1, (Case((Q(-1), Q(-1)), (Q(1), Q(1)), ((at_most(Q(-1), (0, 1)), at_most(5, (0, 1))),)),))
    assert not prove(network, shifted, "ibp").open
    network = nets.mlp(2, 8, 8, 3, seed=1)
    low = Q(float(network(grid(2, steps=101)).detach()[:, 0].min())) - Q(1, 20)
    question = Property(2, 3, (box(2, (at_most(low, (0, 1)),)),))
    assert prove(network, question, "crown-ibp", split=False).open
    halved = prove(network, question, "crown-ibp")
    assert not halved.open
    assert halved.splits > 0


def test_halves_cover_and_what_is_true_is_never_refuted():
    """The unsafe set is one interior point: halving goes on until it may not, and never claims a proof."""
    network = nets.mlp(2, 8, 8, 3, seed=3)
    point = torch.tensor([[0.123, -0.456]])
    y = network(point).detach()[0]
    unsafe = tuple(at_most(Q(float(s * v)), (j, s)) for j, v in enumerate(y) for s in (1, -1))
    slack = tuple(Constraint(c.terms, c.bound + Q(1, 10**5)) for c in unsafe)
    outcome = prove(network, Property(2, 3, (box(2, slack),)), "crown", clock=Clock.of(2.0))
    assert any((p.lower <= point.numpy()[0]).all() and (point.numpy()[0] <= p.upper).all() for p in outcome.open)


def test_every_conjunction_of_every_box_must_be_refuted():
    network = nets.mlp(2, 6, 2, seed=0)
    y = network(grid(2)).detach()
    never, always = at_most(Q(float(y.min())) - 100, (0, 1)), at_most(Q(float(y.max())) + 100, (0, 1))
    for unsafe, holds in (
        (((never,),), True),
        (((never, always),), True),
        (((never,), (always,)), False),
        (((always,), (never, always)), False),
        (((),), False),
    ):
        outcome = prove(
            network, Property(2, 2, (box(2, (never,)), box(2, *unsafe, high=Q(1, 2)))), "crown", split=False
        )
        assert (not outcome.open) == holds
        assert {p.case for p in outcome.open} <= {1}


def test_boxes_of_other_constraints_share_a_batch_and_change_nothing():
    network = nets.mlp(3, 8, 8, 4, seed=5)
    cases = tuple(
        Case((Q(-k, 10),) * 3, (Q(k, 10),) * 3, ((at_most(0, (k % 4, 1), ((k + 1) % 4, -1)),),) * (1 + k % 2))
        for k in range(1, 10)
    )
    together = {p.case for p in prove(network, Property(3, 4, cases), "crown", split=False).open}
    singly = {p.case for p in prove(network, Property(3, 4, cases), "crown", split=False, batch=1).open}
    assert together == singly
    assert 0 < len(together) < 9


def test_conv_inputs_and_several_outputs():
    network = nets.conv_net(channels=2, size=4, classes=3)
    y = network(torch.full((1, 2, 4, 4), 0.5)).detach()[0]
    case = Case((Q(49, 100),) * 32, (Q(51, 100),) * 32, ((at_most(Q(float(y[0])) - 1, (0, 1)),),))
    assert not prove(network, Property(32, 3, (case,)), "crown").open
    d = nets.Drawing()
    x = d.input(3)
    h = d(nn.ReLU(), d(nn.Linear(3, 4), x))
    two = d.finish(d(nn.Linear(4, 2), h), h, shapes=((None, 2), (None, 4)))
    relu = Case((Q(-1),) * 3, (Q(1),) * 3, ((at_most(Q(-1, 1000), (4, 1)),),))
    assert not prove(two, Property(3, 6, (relu,)), "ibp").open
    assert prove(two, Property(3, 6, (box(3, (at_most(1, (4, 1)),)),)), "crown", split=False).open


def test_nothing_that_is_not_finite_proves():
    network = nets.mlp(2, 4, 2)
    with torch.no_grad():
        network.graph.n1.bias[0] = torch.nan
    question = Property(2, 2, (box(2, (at_most(-(10**6), (0, 1)),)),))
    assert prove(network, question, "crown", split=False).open


def test_the_clock_ends_a_proof_in_time():
    question = Property(2, 3, (box(2, (at_most(0, (0, 1)),)),))
    assert prove(nets.mlp(2, 8, 8, 3), question, clock=Clock.of(0.0)).timed_out


def test_boxes_hold_the_floats_that_their_points_become():
    """A width of zero at 1/10: no float32 is 1/10, and the one it becomes lies inside what is proved."""
    from pipeline.certify.subdomain import whole

    patch = whole(0, Case((Q(1, 10),), (Q(1, 10),), ()))
    assert patch.lower[0] < 0.1 < patch.upper[0] == float(np.float32(0.1))


def test_coefficients_become_exact_or_are_refused():
    terms, bound = scaled(((0, Q(1, 10)), (1, Q(-1, 3))), Q(1))
    assert terms == [(0, 3.0), (1, -10.0)]
    assert bound == 30
    for terms, bound in (
        (((0, Q(1, 10)), (1, Q(10**30 + 1))), Q(1)),
        (((0, Q(1, 10**20)),), Q(10**299)),
        (((0, Q(1, 10**999)), (1, Q(1))), Q(1)),
    ):
        with pytest.raises(InputRejected, match="fewer"):
            scaled(terms, bound)


TEXT = """(declare-const X_0 Real)(declare-const X_1 Real)
(declare-const Y_0 Real)(declare-const Y_1 Real)(declare-const Y_2 Real)
(assert (>= X_0 -1))(assert (<= X_0 1))(assert (>= X_1 0.1))(assert (<= X_1 0.1))
"""


def judged(network, text):
    question = parse(text)

    def run(x):
        with torch.no_grad():
            return network(torch.from_numpy(x)[None]).numpy()[0]

    def confirm(index, point):
        case = question.cases[index]
        x = [min(max(Q(float(p)), a), b) for p, a, b in zip(point, case.lower, case.upper, strict=True)]
        witness = check(text, x, run)
        return witness if witness.refused is None else None

    return question, confirm


@pytest.mark.parametrize("seed", range(4))
def test_the_falsifier_finds_what_a_grid_finds_and_stays_in_the_box(seed):
    network = nets.mlp(2, 8, 8, 3, seed=seed)
    points = grid(2)
    points[:, 1] = 0.1
    y = network(points).detach()
    threshold = float(y[:, 0].quantile(0.1))
    text = TEXT + f"(assert (or (and (<= Y_0 {threshold:.9f}) (<= Y_1 1000)) (<= Y_0 -1000)))"
    question, confirm = judged(network, text)
    found = Falsifier(network, question, LONG, confirm).search(Clock())
    assert found is not None
    assert found.refused is None
    assert found.rounded == 1  # X_1 is 1/10
    assert abs(found.point[0]) <= 1
    hopeless = TEXT + f"(assert (<= Y_0 {float(y[:, 0].min()) - 100:.3f}))"
    question, confirm = judged(network, hopeless)
    assert Falsifier(network, question, LONG, confirm).search(Clock()) is None


def test_the_falsifier_depends_on_its_seed_alone_and_obeys_the_clock():
    network = nets.mlp(2, 8, 8, 3)
    text = TEXT + "(assert (<= Y_0 1000))"
    question, confirm = judged(network, text)
    first, second = (Falsifier(network, question, LONG, confirm).search(Clock()) for _ in range(2))
    assert (first.point == second.point).all()
    question, confirm = judged(network, TEXT + "(assert (<= Y_0 -1000))")
    assert Falsifier(network, question, LONG, confirm).search(Clock.of(-1.0)) is None


def test_a_box_is_cut_where_it_costs_most_but_not_for_ever():
    """An input without a coefficient is cut too, once the box is wide along it: the lines of ReLUs lose there."""
    question = Property(2, 1, (box(2, (at_most(0, (0, 1)),)),))
    patch, both, cuts = whole(0, question.cases[0]), np.array([True, True]), []
    for _ in range(12):
        below, above = halves_of(patch, both, np.array([2.0, 0.0]) * (patch.upper - patch.lower))
        assert (below.lower == patch.lower).all()
        assert (above.upper == patch.upper).all()
        (at,) = np.flatnonzero(below.upper != patch.upper)
        assert below.upper[at] == above.lower[at]
        cuts.append(int(at))
        patch = below
    assert cuts[0] == 0
    assert 1 in cuts
    one_float = replace(patch, lower=patch.upper, open=(0,))
    assert halves_of(one_float, both, np.zeros(2)) == []


@pytest.mark.parametrize("seed", range(3))
def test_the_signs_of_neurons_are_split_where_boxes_have_too_many_sides(seed):
    """With ten inputs: what lies between the bound of alpha-CROWN and the least value that is found is proved, and no more."""
    network = nets.mlp(10, 8, 8, 1, seed=seed)
    x = 2 * torch.rand(20_000, 10, generator=torch.Generator().manual_seed(seed)) - 1
    corner = x.sign()
    least = float(torch.cat([network(x), network(corner)]).detach().min())
    question = Property(10, 1, (box(10, (at_most(0, (0, 1)),)),))
    refuter = Refuter(network.in_float64(), question, "real")
    patches = [whole(0, question.cases[0])]
    below = float(refuter.engine.bounds("alpha-crown").lower(refuter.regions(patches), refuter.rows(patches)))
    assert below < least
    bound = Q((below + least) / 2)
    outcome = prove(network, Property(10, 1, (box(10, (at_most(bound, (0, 1)),)),)), mode="real")
    assert not outcome.open
    assert outcome.domains > 0
    false = Property(10, 1, (box(10, (at_most(Q(least), (0, 1)),)),))
    seen = []

    def try_points(patch, points):
        seen.extend(float(network(p[None].float()).detach()) for p in points)
        return min(seen) <= least

    outcome = prove(network, false, mode="real", try_points=try_points)
    assert outcome.open


def test_where_few_parts_by_signs_are_not_enough_boxes_are_halved_too(monkeypatch):
    """Nine inputs, one more than are cut alone; a tenth of the way from the bound of alpha-CROWN to the least value is proved."""
    network = nets.mlp(9, 6, 6, 1, seed=2)
    x = 2 * torch.rand(20_000, 9, generator=torch.Generator().manual_seed(2)) - 1
    least = float(torch.cat([network(x), network(x.sign())]).detach().min())
    question = Property(9, 1, (box(9, (at_most(0, (0, 1)),)),))
    refuter = Refuter(network.in_float64(), question, "real")
    patches = [whole(0, question.cases[0])]
    below = float(refuter.engine.bounds("alpha-crown").lower(refuter.regions(patches), refuter.rows(patches)))
    true, false = (
        Property(9, 1, (box(9, (at_most(Q(below + share * (least - below)), (0, 1)),)),)) for share in (0.1, 1.0)
    )
    monkeypatch.setattr(proofs, "FIRST_DOMAINS", 1)
    monkeypatch.setattr(proofs, "HALF_DOMAINS", 4)
    outcome = prove(network, true, mode="real")
    assert not outcome.open
    assert outcome.splits > 0
    outcome = prove(network, false, mode="real", domains=10)
    assert outcome.open
    assert outcome.splits > 0
    monkeypatch.setattr(proofs, "MIXED_INPUTS", 8)
    assert prove(network, true, mode="real", domains=1).splits == 0


def test_a_conjunction_of_nothing_is_refuted_by_no_signs():
    network = nets.mlp(10, 8, 1)
    outcome = prove(network, Property(10, 1, (box(10, (at_most(-100, (0, 1)),), ()),)), mode="real")
    assert [patch.open for patch in outcome.open] == [(1,)]
