"""Natural accuracy near chance: the binomial test, and what it is held against."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import comb

import pytest

from pipeline.render import headline, junit, markdown, next_step, render
from pipeline.results import Caution, Rate, Report, Verdicts
from pipeline.results.chance import ALPHA, guessing, near_chance


@pytest.mark.parametrize("n", [1, 2, 7, 60])
@pytest.mark.parametrize("rate", [Fraction(1, 9), Fraction(1, 2), Fraction(19, 20)])
def test_it_is_the_tail_of_a_binomial_distribution(n: int, rate: Fraction) -> None:
    for k in range(n):
        tail = sum(comb(n, i) * rate**i * (1 - rate) ** (n - i) for i in range(k, n + 1))
        enough = rate**n <= Fraction(ALPHA) or k < n * rate
        assert near_chance(k, n, rate) == (tail > Fraction(ALPHA) and enough)
    assert not near_chance(n, n, rate), "nothing speaks against a file that is always right"


def test_guessing_is_one_class_of_many_or_the_commonest_label() -> None:
    assert guessing(10, [5, 5]) == Fraction(1, 2)
    assert guessing(10, [7]) == Fraction(1, 10), "samples of one class alone say nothing of the classes"
    assert guessing(4, [1] * 4) == Fraction(1, 4)


def as_guessing(make_report: Callable, right: int, certified: int) -> Report:
    """A report of 400 samples in ten classes."""
    level = make_report().result.levels[0]
    level = level.model_copy(
        update={
            "natural": Rate.of(right, 400),
            "attacked": Rate.of(right, 400),
            "certified": Rate.of(certified, 400),
            "verdicts": Verdicts(
                certified=certified, falsified=0, misclassified=400 - right, unknown=right - certified
            ),
        }
    )
    return make_report(levels=(level,), per_class=(), warnings=(Caution(code="near-chance", message="as guessing"),))


def test_no_gate_is_advised_where_the_file_guesses(make_report: Callable) -> None:
    report = as_guessing(make_report, 42, 40)
    sentence, command = next_step(report)
    assert "No gate" in sentence
    assert "--fail-under" not in f"{command}"
    assert "no better than guessing" in headline(report)


def test_no_gate_is_advised_that_guessing_meets(make_report: Callable) -> None:
    sentence, command = next_step(as_guessing(make_report, 70, 40))
    assert "one class" in sentence
    assert command is not None
    assert command.startswith("pipeline retrain")
    assert "--fail-under certified@8/255=0.14" in str(next_step(as_guessing(make_report, 70, 60))[1])


def test_every_form_of_the_report_warns(make_report: Callable) -> None:
    report = as_guessing(make_report, 42, 40)
    for text in (render(report), markdown(report), junit(report)):
        assert "as guessing" in text
        assert "arning" in text
