"""What a proof, an attack and a prediction say of a sample, entered by hand: the verdicts that follow, and what contradicts."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from pipeline.certify.attack import AttackResult
from pipeline.certify.verdict_table import VerdictTable
from pipeline.core.threat import LinfBall
from pipeline.errors import Contradiction
from pipeline.results import DECIDERS, Verdict

BALLS = [LinfBall(Fraction(e)) for e in ("1/100", "1/10", "1/5")]
ALL = np.arange(4)


def table(*, arithmetic="float32-any-order", attack=False) -> VerdictTable:
    """Three levels, four samples; the last has the wrong label."""
    return VerdictTable(BALLS, np.array([0, 1, 2, 1]), np.array([0, 1, 2, 0]), arithmetic=arithmetic, attack=attack)


def broken(*rows: int) -> AttackResult:
    """An attack on all samples that changed the label of these."""
    return AttackResult(np.isin(ALL, rows), np.zeros((len(rows), 2), np.float32), np.full(4, 9))


def names(made: VerdictTable, level: int) -> list[str]:
    return [Verdict(v).word for v in made.samples(ALL, incomplete=False).verdict[level]]


@pytest.mark.parametrize("margin", [0.0, -1e-300, -1.0, np.nan, np.inf, -np.inf])
def test_only_a_finite_positive_margin_certifies(margin):
    made = table()
    assert made.enter_bounds("ibp", 0, ALL, np.array([margin, 5e-324, 1.0, -1.0])) == 2
    assert names(made, 0) == ["unknown", "certified", "certified", "misclassified"]
    assert list(made.open(0)) == [0]


def test_a_proof_holds_at_every_smaller_eps_and_at_no_larger_one():
    made = table()
    made.enter_bounds("ibp", 1, ALL, np.array([1.0, -1.0, 1.0, -1.0]))
    assert names(made, 0) == names(made, 1) == ["certified", "unknown", "certified", "misclassified"]
    assert names(made, 2) == ["unknown", "unknown", "unknown", "misclassified"]
    made.enter_bounds("crown", 0, np.array([0, 1]), np.array([0.5, 2.0]))
    assert made.margins[0, :2].tolist() == [1.0, 2.0], "the better margin of the same sample stays"
    assert [DECIDERS[d] for d in made.decided_by[0, :3]] == ["ibp", "crown", "ibp"]


def test_a_counterexample_counts_at_its_eps_and_every_larger_one():
    made = table(attack=True)
    made.enter_attack("pgd", 1, ALL, broken(2))
    assert names(made, 0)[2] == "unknown"
    assert names(made, 1)[2] == names(made, 2)[2] == "falsified"
    assert 2 not in made.open(2)
    found = made.samples(np.arange(40, 44), incomplete=False).counterexamples
    assert (found.index.tolist(), found.eps.tolist(), found.predicted.tolist()) == ([42], ["1/10"], [9])


def test_a_sample_that_was_to_be_attacked_is_not_certified_before_it_was():
    made = table(attack=True)
    made.enter_bounds("ibp", 0, ALL, np.array([1.0, 1.0, 1.0, -1.0]))
    assert names(made, 0)[:3] == ["unknown"] * 3
    made.enter_attack("pgd", 0, ALL, broken())
    assert names(made, 0)[:3] == ["certified"] * 3


def test_a_proof_and_a_counterexample_are_an_alarm_and_never_certified():
    made = table(attack=True)
    made.enter_attack("pgd", 0, ALL, broken(0))
    assert made.enter_bounds("ibp", 0, ALL, np.array([1.0, 1.0, -1.0, -1.0])) == 1
    assert names(made, 0)[:2] == ["falsified", "certified"]
    assert made.certified[0].tolist() == [False, True, False, False]
    with pytest.raises(Contradiction, match=r"an attack changed its label \(samples 40\)"):
        made.check(np.array([40, 41, 42, 43]))


@pytest.mark.parametrize("arithmetic", ["float32-any-order", "real", "none"])
def test_a_proof_of_a_label_that_the_file_does_not_give(arithmetic):
    """In real arithmetic the file may round its way to another label; in float32 one of the two is wrong."""
    made = table(arithmetic=arithmetic)
    made.enter_bounds("ibp", 0, ALL, np.array([-1.0, -1.0, -1.0, 1.0]))
    assert names(made, 0) == ["unknown"] * 3 + ["misclassified"]
    if arithmetic == "float32-any-order":
        with pytest.raises(Contradiction, match="the file gives it another label"):
            made.check(ALL)
    else:
        made.check(ALL)


def test_arithmetic_that_counts_no_rounding_certifies_nothing():
    made = table(arithmetic="none")
    assert made.enter_bounds("ibp", 2, ALL, np.full(4, 100.0)) == 0
    assert names(made, 0) == ["unknown"] * 3 + ["misclassified"]


def test_undecided_are_the_unknown_that_a_budget_kept_a_rung_from():
    made = table()
    made.skipped[0, [0, 1, 3]] = True
    made.enter_bounds("ibp", 0, np.array([1]), np.array([1.0]))
    assert made.samples(ALL, incomplete=True).undecided[0].tolist() == [True, False, False, False]
