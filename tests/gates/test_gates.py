"""Gates: parsed strictly, decided exactly, and never passed by something that was not checked."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
from scipy.stats import binomtest

from pipeline.errors import UsageError
from pipeline.gates import check_gates, evaluate, exact, parse_gate, verdict
from pipeline.gates.exact import lower_end_reaches, sign_test, significant, three_digits
from pipeline.gates.regression import outcome
from pipeline.results import Baseline, ClassRow, Level, Rate, Verdicts


def level(k: int, n: int, *, undecided: int = 0, eps: str = "8/255", attacked: bool = True) -> Level:
    """k certified of n, all correct, none falsified."""
    return Level(
        eps=eps,
        eps_float=float(Fraction(eps)),
        natural=Rate.of(n, n),
        attacked=Rate.of(n, n) if attacked else None,
        certified=Rate.of(k, n),
        verdicts=Verdicts(certified=k, falsified=0, misclassified=0, unknown=n - k),
        undecided=undecided,
    )


def passed(text: str, *levels: Level, rows: tuple[ClassRow, ...] = ()) -> bool | None:
    return evaluate([parse_gate(text)], levels, rows)[0].passed


@pytest.mark.parametrize(
    ("text", "metric", "eps", "label", "threshold"),
    [
        ("certified@8/255=0.30", "certified", Fraction(8, 255), None, Fraction(3, 10)),
        ("natural=1", "natural", None, None, Fraction(1)),
        ("attacked@0.1=1/3", "attacked", Fraction(1, 10), None, Fraction(1, 3)),
        ("class:3:certified=.5", "certified", None, 3, Fraction(1, 2)),
    ],
)
def test_what_a_gate_says(text: str, metric: str, eps: Fraction | None, label: int | None, threshold: Fraction) -> None:
    gate = parse_gate(text)
    assert (gate.metric, gate.eps, gate.label, gate.threshold) == (metric, eps, label, threshold)


@pytest.mark.parametrize(
    "text",
    ["", "certified", "certified=", "certified>=0.3", "pgd=0.3", "certified=nan", "certified=-0.1", "certified=1e-1",
     "certified=1/0", "certified@1/0=0.1", "certified=30", "class:x:certified=0.1", "certified=0.3;", "certified=" + "9" * 50],
)  # fmt: skip
def test_what_is_no_gate(text: str) -> None:
    with pytest.raises(UsageError):
        parse_gate(text)


def test_thirty_per_cent_written_as_thirty_is_asked_back() -> None:
    with pytest.raises(UsageError, match=r"did you mean 0\.3\?"):
        parse_gate("certified=30")


def test_thresholds_are_met_exactly() -> None:
    assert passed("certified=0.3", level(3, 10))
    assert passed("certified=1/3", level(1, 3))
    assert passed("certified=0.3333", level(1, 3))
    assert passed("certified=0.333333333334", level(1, 3)) is False
    assert passed("certified=0.7", level(7, 10)), "0.7 > 7/10 in floats"
    assert passed("certified=0.3", level(2999, 10_000)) is False
    assert passed("certified=0", level(0, 10))


def test_what_is_observed_never_looks_like_a_pass_that_failed() -> None:
    (outcome,) = evaluate([parse_gate("certified=0.3")], [level(29_999, 100_000)], ())
    assert outcome.passed is False
    assert outcome.observed == "0.2999"


def test_a_budget_leaves_open_only_what_it_could_still_change() -> None:
    assert passed("certified=0.3", level(3, 10, undecided=5)) is True
    assert passed("certified=0.9", level(3, 10, undecided=5)) is False
    assert passed("certified=0.8", level(3, 10, undecided=5)) is None
    assert passed("attacked=0.8", level(3, 10, undecided=5)) is None
    assert passed("natural=1", level(3, 10, undecided=5)) is True


def test_the_verdict_of_several() -> None:
    one = level(3, 10, undecided=5)
    outcomes = {
        gate: evaluate([parse_gate(gate)], [one], ())[0] for gate in ("certified=0.3", "certified=0.8", "certified=0.9")
    }
    met, open_, failed = outcomes.values()
    assert verdict([]) == "pass"
    assert verdict([met]) == "pass"
    assert verdict([met, open_]) == "incomplete"
    assert verdict([met, open_, failed]) == "fail"


def test_eps_is_compared_as_a_number_and_must_be_run() -> None:
    two = (level(6, 10, eps="1/10"), level(3, 10, eps="8/10"))
    assert passed("certified@0.1=0.6", *two)
    assert passed("certified@0.8=0.6", *two) is False
    assert passed("natural=1", *two), "depends on no eps"
    with pytest.raises(UsageError, match="not run; run are 1/10, 8/10"):
        passed("certified@2/10=0.6", *two)
    with pytest.raises(UsageError, match="must name its eps"):
        passed("certified=0.6", *two)


def test_what_is_not_run_cannot_be_gated() -> None:
    with pytest.raises(UsageError, match="needs an attack"):
        passed("attacked=0.1", level(3, 10, attacked=False))
    with pytest.raises(UsageError, match="class 3"):
        check_gates([parse_gate("class:3:certified=0.1")], eps=["8/255"], labels=[0, 1], attacked=True)


def test_a_class_has_its_own_counts(make_report: Callable) -> None:
    result = make_report(gates=("class:0:certified=0.5", "class:9:certified=0.5")).result
    for gate in result.gates:
        row = next(row for row in result.per_class if row.label == gate.label)
        assert (gate.k, gate.n) == (row.certified, row.n)
        assert gate.passed == (2 * row.certified >= row.n)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 10), (10, 10), (37, 50), (4321, 10_000)])
def test_the_lower_end_is_decided_without_rounding(k: int, n: int) -> None:
    low = Fraction(binomtest(k, n).proportion_ci(0.95, method="exact").low)
    assert lower_end_reaches(k, n, low - Fraction(1, 10**9))
    assert not lower_end_reaches(k, n, low + Fraction(1, 10**9))


@pytest.mark.parametrize(("k", "n"), [(1, 3), (29, 40), (150, 400)])
def test_at_the_threshold_exact_arithmetic_decides(k: int, n: int) -> None:
    """Two thresholds on either side of the lower end, so near to it that they are the same float64."""
    low, high = Fraction(0), Fraction(k, n)
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if exact._upper_tail(k, n, middle) <= exact.TAIL else (low, middle)
    assert lower_end_reaches(k, n, low)
    assert not lower_end_reaches(k, n, high)
    assert float(low) == float(high)


def test_a_million_samples_are_decided_at_once() -> None:
    assert lower_end_reaches(300_000, 10**6, Fraction(29, 100))
    assert not lower_end_reaches(300_000, 10**6, Fraction(2995, 10_000))
    assert float(sign_test(5100, 4910)) == pytest.approx(float(exact._both_tails(4910, 10_010)), rel=2e-9)
    assert sign_test(5100, 4910) >= exact._both_tails(4910, 10_010)
    assert significant(5100, 4910, sign_test(5100, 4910))
    assert not significant(5100, 4910, exact._both_tails(4910, 10_010) * Fraction(10**12 - 1, 10**12))
    assert significant(5100, 4910, exact._both_tails(4910, 10_010))


def test_a_gate_on_the_lower_end_is_missed_by_too_few_samples() -> None:
    for n, met in ((10, False), (1000, True)):
        (outcome,) = evaluate([parse_gate("certified=0.6", on="lower-ci")], [level(7 * n // 10, n)], ())
        assert outcome.passed is met
        assert outcome.observed == Rate.of(7 * n // 10, n).ci95[0]
        assert "lower end" in outcome.summary
    assert evaluate([parse_gate("certified=0.6", on="lower-ci")], [level(5, 10, undecided=5)], ())[0].passed is None


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (5, 5), (2, 9), (40, 3), (300, 250)])
def test_the_paired_test_is_the_exact_one(lost: int, gained: int) -> None:
    p_value = binomtest(lost, lost + gained).pvalue if lost + gained else 1
    assert float(sign_test(lost, gained)) == pytest.approx(p_value, rel=1e-9)
    assert Fraction(three_digits(sign_test(lost, gained))) >= sign_test(lost, gained)


def dropped(
    lost: int, gained: int, *, had: int = 0, lacked: int = 0, p: str | None = None, gate: str = "certified=0.01"
):
    baseline = Baseline(
        result_sha256="0" * 64,
        model_sha256="0" * 64,
        k=500,
        lost=lost,
        gained=gained,
        undecided_had=had,
        undecided_lacked=lacked,
        p_value="1",
        significance=p,
    )
    return outcome(parse_gate(gate, kind="max-regression"), "8/255", baseline, 1000).passed


def test_a_drop_fails_only_beyond_what_is_allowed() -> None:
    assert dropped(10, 0) is True
    assert dropped(11, 0) is False
    assert dropped(110, 100) is True
    assert dropped(0, 300) is True


def test_significance_spares_a_drop_that_chance_explains() -> None:
    assert dropped(111, 100, p="0.05") is True
    assert dropped(11, 0, p="0.05") is False
    assert dropped(10, 0, p="0.05") is True, "significant, and allowed"


def test_undecided_samples_leave_a_drop_open_only_where_they_could_undo_it() -> None:
    assert dropped(11, 0, had=1) is None
    assert dropped(20, 0, had=1) is False
    assert dropped(11, 0, lacked=1) is None
    assert dropped(10, 0, had=1, gate="attacked=0.01") is None
    assert dropped(10, 0, had=1, gate="natural=0.01") is True


@pytest.mark.parametrize(("lost", "passed"), [(4, True), (5, True), (6, False)])
def test_a_drop_of_exactly_what_is_allowed_passes(lost: int, passed: bool) -> None:
    gate = parse_gate("certified=0.05", kind="max-regression")
    baseline = Baseline(result_sha256="0" * 64, model_sha256="0" * 64, k=50, lost=lost, gained=0, p_value="1")
    assert outcome(gate, "0.1", baseline, 100).passed is passed


@pytest.mark.parametrize(("significance", "passed"), [("1/33", True), ("1/32", False), ("1/31", False)])
def test_a_drop_whose_p_value_is_exactly_the_significance_fails(significance: str, passed: bool) -> None:
    """Six lost and none regained: ``p = 2/2^6``."""
    gate = parse_gate("certified=0.05", kind="max-regression")
    counts = {"k": 50, "lost": 6, "gained": 0, "p_value": "0.0313", "significance": significance}
    baseline = Baseline(result_sha256="0" * 64, model_sha256="0" * 64, **counts)
    assert outcome(gate, "0.1", baseline, 100).passed is passed
