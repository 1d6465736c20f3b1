"""Retraining that made a file worse says so first; its gate; and where the time of a run went."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

import pytest

from pipeline.audit.rejudge import rejudged
from pipeline.gates.improvement import improvement
from pipeline.render import headline, next_step, panel
from pipeline.results import Accuracies, Rate, Report
from tests.render.test_terminal import printed


def side(natural: int, attacked: int | None, certified: int, undecided: int = 0) -> Accuracies:
    of = None if attacked is None else Rate.of(attacked, 400)
    return Accuracies(
        eps="8/255", natural=Rate.of(natural, 400), attacked=of, certified=Rate.of(certified, 400), undecided=undecided
    )


def retrained(make_report: Callable, before: Accuracies, after: Accuracies) -> Report:
    report = make_report(retrained=True)
    training = report.result.training.model_copy(update={"before": before, "after": after})
    return report.model_copy(update={"result": report.result.model_copy(update={"training": training})})


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        (side(360, 200, 0), side(300, 250, 8), True),  # natural was lost for two points
        (side(360, 200, 0), side(360, 150, 19), True),  # attacked was lost
        (side(360, 200, 0), side(300, 250, 20), False),  # five points are worth it
        (side(360, 200, 0), side(360, 200, 1), False),  # nothing was lost
        (side(360, None, 0), side(200, None, 3), True),
        (side(360, 200, 90), side(370, 210, 0), False),
    ],
)
def test_what_is_worse_says_so_first(make_report: Callable, before: Accuracies, after: Accuracies, worse: bool) -> None:
    report = retrained(make_report, before, after)
    assert headline(report).startswith("The new file is worse") == worse
    assert ("Keep the given file" in next_step(report)[0]) == worse


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_headline_is_cut(make_report: Callable, width: int) -> None:
    report = retrained(make_report, side(360, 200, 0), side(300, 150, 8))
    text = printed(panel(report), width=width)
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.translate(dict.fromkeys(map(ord, "│╭╮─"), " ")).split())
    assert headline(report) in words


@pytest.mark.parametrize(
    ("before", "after", "passed"),
    [
        (side(360, 200, 10), side(300, 200, 11), [True, True]),
        (side(360, 200, 10), side(300, 199, 11), [True, False]),
        (side(360, 200, 10), side(400, 400, 10), [False, True]),
        (side(360, None, 10), side(360, None, 9), [False]),
        # What a budget left of either file may still be certified, or broken.
        (side(360, 200, 10, 1), side(300, 200, 11), [None, True]),
        (side(360, 200, 10, 1), side(300, 200, 12), [True, True]),
        (side(360, 200, 10), side(300, 200, 10, 1), [None, None]),
        (side(360, 200, 10, 1), side(300, 199, 10), [False, None]),
        (side(360, 200, 10), side(300, 201, 11, 1), [True, True]),
    ],
)
def test_the_gate_on_improvement_is_decided_on_counts(
    before: Accuracies, after: Accuracies, passed: list[bool | None]
) -> None:
    assert [gate.passed for gate in improvement(before, after)] == passed


def test_the_gate_is_judged_again_by_verify(make_report: Callable) -> None:
    base = make_report(retrained=True).result
    gates = improvement(base.training.before, base.training.after)
    assert all(gate.passed for gate in gates)
    assert "0.5" in gates[0].summary
    assert ">" in gates[0].summary
    assert list(rejudged(base.model_copy(update={"gates": gates}))) == []
    forged = tuple(gate.model_copy(update={"passed": False}) for gate in gates)
    assert len(list(rejudged(base.model_copy(update={"gates": forged})))) == len(gates)
    other = base.training.model_copy(update={"after": side(400, 400, 400)})
    gates = improvement(base.training.before, other.after)
    assert "not what the result counts" in next(
        iter(rejudged(base.model_copy(update={"gates": gates, "training": other})))
    )


def test_the_seconds_of_the_rows_add_up_to_the_run(make_report: Callable) -> None:
    from pipeline.results import Rung

    report = make_report(("1/255", "8/255"))
    level = report.result.levels[-1].model_copy(
        update={"rungs": tuple(Rung(name=n, examined=9, decided=1, certified=1) for n in ("pgd", "ibp"))}
    )
    levels = tuple(x.model_copy(update={"rungs": level.rungs}) for x in report.result.levels)
    times = {"prediction": 0.5, "pgd@1/255": 1.0, "ibp@1/255": 2.0, "pgd@8/255": 1.25, "ibp@8/255": 2.25}
    run = report.run.model_copy(update={"seconds": 12.3, "timings": times})
    report = report.model_copy(update={"run": run, "result": report.result.model_copy(update={"levels": levels})})
    text = printed(panel(report))
    rows = text[text.index("examined") :].splitlines()[1:]
    ends = [re.search(r"([0-9]+\.[0-9]) +│$", row) for row in rows]
    seconds = [Fraction(found[1]) for found in ends if found]
    assert len(seconds) == 5
    assert abs(sum(seconds[:-1]) - seconds[-1]) <= Fraction(1, 4), text
    assert seconds[-1] == Fraction("12.3")
