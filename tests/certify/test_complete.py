"""Branch and bound: true questions are proved, false ones never, with the file kept out of it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.bounds import branching, condensed
from pipeline.bounds.ascent import SearchBounds
from pipeline.bounds.margins import MarginBounds
from pipeline.bounds.splits import Domains, SplitBounds
from pipeline.certify import complete
from pipeline.certify.complete import margins_decided
from pipeline.certify.decision import Decision, Judge, Room
from pipeline.certify.prover import Prover
from pipeline.choices import Mode
from pipeline.core import ops
from pipeline.core.network import Network
from pipeline.core.rounding import rounding_of
from pipeline.core.threat import LinfBall
from pipeline.methods import DOMAINS_OF_AUTO
from pipeline.system.clock import OutOfTime
from tests import nets
from tests.climbing import climb, deployed, images_of, labels_of, lively, same

BALL = LinfBall(Fraction(1, 5))


def nobody(points: Tensor) -> tuple[Tensor, np.ndarray]:
    """A judge that finds no counterexample: a proof must not need one."""
    return points, np.zeros(len(points), bool)


class Question:
    """A tiny network whose least margin over a ball is known, by a search that closes in on it, and may be moved."""

    def __init__(self, seed: int):
        d = nets.Drawing(seed)
        x = d.input(2)
        for a, b in ((2, 7), (7, 7)):
            x = d(nn.ReLU(), d(nn.Linear(a, b), x))
        self.network = d.finish(d(nn.Linear(7, 3), x), shapes=((None, 3),)).in_float64()
        with torch.no_grad():
            for parameter in self.network.parameters():
                parameter.mul_(1.5 if parameter.dim() > 1 else 1)
        self.x = torch.rand(1, 2, dtype=torch.float64)
        self.label = self.network(self.x).argmax(1)
        self.box = BALL.box(self.x)
        self.move(-self.least())

    def margins(self, points: Tensor) -> Tensor:
        logits, own = self.network(points), self.label.expand(len(points), 1)
        return logits.gather(1, own)[:, 0] - logits.scatter(1, own, -torch.inf).amax(1)

    @torch.no_grad()
    def least(self) -> float:
        width, best = 1.0, self.box.center
        corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 2)
        while width > 1e-6:
            near = best.repeat(3000 // len(best), 1)
            near = near + width * self.box.radius * (2 * torch.rand_like(near) - 1)
            near = torch.cat([best, near, self.box.center + self.box.radius * corners])
            near = torch.minimum(
                torch.maximum(near, self.box.center - self.box.radius), self.box.center + self.box.radius
            )
            best = near[self.margins(near).argsort()[:30]]
            width /= 3
        return float(self.margins(best).min())

    def move(self, by: float) -> None:
        """All margins by as much."""
        last = [p for p in self.network.parameters() if p.dim() == 1][-1]
        with torch.no_grad():
            last[self.label] += by

    def asked(self, mode: Mode = "real", judge: Judge = nobody, *, looks: bool = False, **limits: Any) -> Decision:
        """``looks``: whether the search knows the values at its points, and so when it is of no use to go on."""
        bounds = MarginBounds(self.network, rounding_of(mode), method="alpha-crown")
        with pytest.MonkeyPatch.context() as patched:
            if not looks:
                patched.setattr(SearchBounds, "value", lambda self, of, points: torch.full(of.shape, torch.inf))
            return margins_decided(bounds, BALL.region(self.x), self.label, judge, **limits)


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(s, marks=pytest.mark.slow) for s in range(4, 104))])
def test_a_true_question_is_proved_and_a_false_one_is_not(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(complete, "ABREAST", 32 if seed % 2 else 1)
    if seed % 3 == 2:
        monkeypatch.setattr(condensed, "LARGEST", -1)
    asked = Question(seed)
    asked.move(-1e-7)
    assert asked.asked().end in ("split", "charge")
    asked.move(2e-3)
    found = asked.asked()
    assert found.end == "proved"
    assert 0 < found.margin < 2e-3
    asked = Question(seed)
    asked.move(2e-3)
    assert asked.asked("float32-any-order").end == "proved"


def test_a_margin_below_what_rounding_takes_is_left_to_real_arithmetic() -> None:
    """A point with so small a margin ends the search for a proof in float32, and the rest is decided without rounding."""
    asked = Question(0)
    asked.move(1e-6)
    found = asked.asked("float32-any-order", looks=True)
    assert found.end == "charge"
    assert 0 < found.margin < 2e-6
    assert found.domains < asked.asked("float32-any-order").domains
    asked.move(-2e-6)
    assert asked.asked("float32-any-order", looks=True).end != "charge"
    asked.move(1e-3)
    assert asked.asked("float32-any-order", looks=True).end == "proved"


def test_the_boxes_are_bounded_again_where_few_parts_are_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left open goes on over the new boxes, and nothing else is taken for proved."""
    monkeypatch.setattr(complete, "EARLY", 4)
    asked = Question(0)
    asked.move(2e-3)
    assert asked.asked().end == "proved"
    asked.move(-2e-3 - 1e-7)
    assert asked.asked().end in ("split", "charge")
    assert asked.asked(domains=4).end == "domains"


FAULTS = {
    "a part that nobody looks at": (branching, "halves_of", lambda old: lambda *a: _first_half(*old(*a))),
    "a bound that is too high": (
        SplitBounds,
        "lower",
        lambda old: lambda self, *a, **more: old(self, *a, **more) + 0.01,
    ),
    "an end before the last part": (complete, "solved", lambda old: lambda split, d: d[:0]),
}


def _first_half(both, divided, points):  # type: ignore[no-untyped-def]
    return both[: len(both) // 2], divided, points


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_search_proves_what_is_false(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, wrong = FAULTS[fault]
    monkeypatch.setattr(owner, name, wrong(getattr(owner, name)))
    if owner is branching:
        monkeypatch.setattr(complete, name, getattr(branching, name))
    ends = []
    for seed in range(3):
        asked = Question(seed)
        asked.move(-1e-4)
        ends.append(asked.asked().end)
    assert "proved" in ends


@pytest.mark.parametrize("bound", [torch.inf, torch.nan])
def test_a_bound_that_is_no_number_closes_no_part(bound: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the last one: the others' bounds would stand for it."""
    honest = SplitBounds.proved

    def spoilt(self: SplitBounds, domains: Domains, *, exact: bool = False) -> Tensor:
        found = honest(self, domains, exact=exact)
        return torch.where(torch.arange(len(found)) == len(found) - 1, bound, found)

    monkeypatch.setattr(SplitBounds, "proved", spoilt)
    asked = Question(1)
    asked.move(2e-3)
    assert asked.asked(domains=64).end != "proved"


def test_a_counterexample_is_found_where_there_is_one() -> None:
    asked = Question(1)
    asked.move(-0.02)

    def judge(points: Tensor) -> tuple[Tensor, np.ndarray]:
        return points, (asked.margins(points) < 0).detach().numpy()

    found = asked.asked(judge=judge)
    assert found.end == "falsified"
    assert found.point is not None
    assert float(asked.margins(found.point[None]).detach()) < 0
    assert bool(((found.point - asked.box.center).abs() <= asked.box.radius * (1 + 1e-12)).all())


def test_limits_end_it() -> None:
    asked = Question(2)
    asked.move(-1e-3)
    assert asked.asked(domains=2).end in ("domains", "split")
    assert asked.asked(domains=2).domains <= 4

    def check() -> None:
        raise TimeoutError

    bounds = MarginBounds(asked.network, rounding_of("real"), method="alpha-crown")
    with pytest.raises(TimeoutError):
        margins_decided(bounds, BALL.region(asked.x), asked.label, nobody, check=check)


def test_how_many_parts_are_walked_at_once_changes_no_decision() -> None:
    asked = Question(3)
    asked.move(2e-3)
    few, many = (asked.asked(room=Room(rows)) for rows in (4, 64))
    assert (few.end, few.domains) == (many.end, many.domains)
    assert few.margin == pytest.approx(many.margin, abs=1e-9)


@pytest.mark.parametrize("kind", ["smooth", "softmax", "step behind a ReLU", "step before a ReLU"])
def test_a_network_that_is_no_chain_of_relus_ends(kind: str) -> None:
    """Without a sign to split; and where no walk comes to the input."""
    d = nets.Drawing(0)
    x = d(nn.Linear(3, 4), d.input(3))
    if "step" in kind:
        first, second = (nn.ReLU(), ops.Sign()) if "behind" in kind else (ops.Sign(), nn.ReLU())
        x = d(second, d(nn.Linear(4, 4), d(first, x)))
    else:
        x = d(nn.Sigmoid(), x)
    x = d(nn.Linear(4, 3), x)
    network: Network = d.finish(d(nn.Softmax(1), x) if kind == "softmax" else x, shapes=((None, 3),)).in_float64()
    x = torch.full((1, 3), 0.5, dtype=torch.float64)
    bounds = MarginBounds(network, rounding_of("real"), method="alpha-crown")
    found = margins_decided(bounds, LinfBall(Fraction(1, 2)).region(x), network(x).argmax(1), nobody)
    assert found.end in ("proved", "split", "charge")


def test_the_ladder_decides_more_and_nothing_otherwise() -> None:
    eps = ("1/20", "1/10")
    before, after = (climb(lively(), eps, method=method, n=24) for method in ("alpha-crown", "complete"))
    left = [[one.index for one in details.unfinished] for details in after.details]
    assert left == [np.flatnonzero(row == 3).tolist() for row in after.samples.verdict]
    left, decided = (c.samples.verdict == 3 for c in (before, after))
    assert int(decided.sum()) < int(left.sum())
    assert (after.samples.verdict[~left] == before.samples.verdict[~left]).all()
    assert same(after, climb(lively(), eps, method="complete", n=24))
    found = after.samples.counterexamples
    assert found is not None
    network = lively()
    images, labels = images_of(network, 24), labels_of(network, images_of(network, 24))
    for index, radius, image in zip(found.index, found.eps, found.image, strict=True):
        assert np.abs(image.astype(np.float64) - images[index]).max() <= float(Fraction(str(radius)))
        assert deployed(network)(image[None]).argmax(1)[0] != labels[index]


def test_by_itself_auto_goes_so_far_within_its_limit() -> None:
    """More parts decide more; of what is left it says why."""
    auto, few = (climb(lively(), ("1/10",), n=24, domains=domains) for domains in (None, 2))
    decided = [c.samples.verdict[0] != 3 for c in (few, auto)]
    assert (decided[0] <= decided[1]).all()
    assert int(decided[0].sum()) < int(decided[1].sum())
    left = auto.details[0].unfinished
    assert left
    assert {one.why for one in left} == {"domains"}
    assert all(DOMAINS_OF_AUTO - 2 < one.domains <= DOMAINS_OF_AUTO and 0 < one.depth < one.domains for one in left)
    assert all(one.bound < 0 <= one.charge and one.layer and 0 < one.share <= 1 for one in left)
    assert all(
        one.domains == 4 for one in few.details[0].unfinished
    )  # a part for each margin is there before any split
    assert all(auto.samples.verdict[0, one.index] == 3 for one in left)


@pytest.mark.parametrize(("end", "tried"), [("domains", 2 * 2), ("charge", 2 * (2 + 8))])
def test_auto_leaves_branch_and_bound_with_a_wave_in_which_nothing_is_decided(
    end: complete.End, tried: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two blocks; where rounding alone is in the way there is a second wave. By name it is tried on all."""
    monkeypatch.setattr(Prover, "branch_and_bound", lambda *given: Decision(end, 9, 3, -0.1))
    auto, named = (climb(lively(), ("1/3",), n=32, attack=None, method=m).details[0] for m in ("auto", "complete"))
    assert (len(auto.unfinished), len(named.unfinished)) == (tried, dict(named.rungs)["complete"])
    assert len(named.unfinished) == 27


def test_memory_for_open_parts_is_a_limit_and_memory_for_matrices_none() -> None:
    asked = Question(0)
    asked.move(2e-3)
    found = asked.asked(room=Room(parts=1))
    assert (found.end, found.unfinished(7).why) == ("memory", "memory")  # type: ignore[union-attr]
    assert found.domains < asked.asked().domains
    assert asked.asked(room=Room(matrices=1000)).end == "proved"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(condensed, "Condensed", None)  # is not made
        assert asked.asked(room=Room(matrices=1000)).end == "proved"


def test_the_worst_part_is_divided_first_until_many_are_open() -> None:
    lower = torch.tensor([-1.0, -3.0, torch.nan, -2.0])
    assert complete.queue(lower, crowded=False).tolist() == [2, 1, 3, 0]
    assert complete.queue(lower, crowded=True).tolist() == [0, 3, 1, 2]


def test_what_is_known_where_the_clock_runs_out() -> None:
    asked, calls = Question(0), 0
    asked.move(2e-3)

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OutOfTime

    found = asked.asked(check=check, timed=True)
    assert found.end == "time"
    assert found.domains > 1
    assert -1 < found.margin < 2e-3
    assert found.layer is not None
    calls = 0
    with pytest.raises(OutOfTime):
        asked.asked(check=check)
