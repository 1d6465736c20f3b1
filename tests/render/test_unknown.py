"""Why samples are unknown: a sentence for each reason, what may decide them, and nothing where nothing is unknown."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
from rich.console import Console

from pipeline.render import markdown, render
from pipeline.render.terminal import panel
from pipeline.render.unknown import ENDS, MOST_ROWS, REMEDIES, nearest, of_box, reasons
from pipeline.results import Report, Unfinished
from pipeline.results.facts import Why


def left(index: int, why: Why, bound: float | None = -0.25) -> Unfinished:
    return Unfinished(
        index=index, why=why, domains=60 + index, depth=9, bound=bound, charge=0.125, layer="Relu 'r1'", share=0.75
    )


def report_of(make_report: Callable, *unfinished: Unfinished, bounds: tuple[str, ...] = ("ibp", "complete")) -> Report:
    base = make_report().result
    level = base.levels[0].model_copy(update={"unfinished": unfinished, "undecided": 2})
    return make_report(
        levels=(level,), partial=True, per_class=(), method=base.method.model_copy(update={"bounds": bounds})
    )


def test_every_reason_has_its_words_and_a_remedy() -> None:
    assert set(ENDS) == set(REMEDIES) == set(get_args(Why))


def test_each_reason_is_a_sentence_with_its_number_of_samples(make_report: Callable) -> None:
    found = (left(1, "domains"), left(2, "domains", -0.5), left(3, "charge", 0.01), left(4, "split"), left(5, "memory"))
    report = report_of(make_report, *found)
    level = report.result.levels[0]
    said = reasons(report, level)
    assert said[0] == (
        "2 samples: 62 parts of branch and bound are not enough (the nearest bound is -0.25); a larger --max-domains may."
    )
    assert said[1].startswith("1 sample: real arithmetic alone proves it, since float32 may lose up to 0.12")
    assert "--memory-budget" in said[3]
    assert "Bounds lose most at Relu 'r1' for 5 of 5, 75 % of what they lose." in said
    others = level.verdicts.unknown - 2 - len(found)
    assert f"{others} samples: not divided" in said[-2]
    assert said[-1].startswith("2 samples: not reached")
    console = Console(width=400, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(panel(report))
    for text in (render(report), console.export_text()):
        assert "parts of branch and bound are not enough" in text
    assert "not divided" in markdown(report)


def test_what_a_cheaper_method_leaves_is_told_of_branch_and_bound(make_report: Callable) -> None:
    report = report_of(make_report, bounds=("ibp", "crown"))
    assert "no bound up to crown proves them; --method complete goes on" in reasons(report, report.result.levels[0])[0]


def test_nothing_is_said_where_nothing_is_unknown(make_report: Callable) -> None:
    base = make_report().result
    verdicts = base.levels[0].verdicts.model_copy(update={"unknown": 0})
    level = base.levels[0].model_copy(update={"verdicts": verdicts})
    assert reasons(make_report(), level) == []


def test_the_nearest_come_first_and_not_too_many(make_report: Callable) -> None:
    found = tuple(left(i, "domains", None if i == 0 else -1.0 / i) for i in range(MOST_ROWS + 5))
    shown = nearest(report_of(make_report, *found).result.levels[0])
    assert [one.index for one in shown] == list(range(MOST_ROWS + 4, 4, -1))


@pytest.mark.parametrize("why", get_args(Why))
def test_a_box_of_a_property_has_its_sentence(why: Why) -> None:
    assert "Bounds lose most at Relu 'r1', 75 %" in of_box(left(0, why))
