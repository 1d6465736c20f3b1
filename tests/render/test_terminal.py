"""The terminal: never wider than it is, never a stranger's markup, and what to do next."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from pipeline.render import before_after, headline, next_step, panel
from pipeline.report import Report


def printed(*renderables: object, width: int = 80) -> str:
    buffer = io.StringIO()
    Console(file=buffer, width=width, color_system=None, legacy_windows=False).print(*renderables)
    return buffer.getvalue()


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_panel_fits_and_says_what_matters(make_report: Callable, width: int) -> None:
    text = printed(panel(make_report(gates=("certified@8/255=0.30", "natural=0.99"), n=10_000)), width=width)
    assert max(map(cell_len, text.splitlines())) <= width
    assert "PASS  certified@8/255  0.5184 >= 0.30" in text
    assert "FAIL  natural  0.9294 < 0.99" in text
    assert "51.84 %" in text


def test_the_panel_of_a_curve_and_of_hostile_names(make_report: Callable, hostile_report: Report) -> None:
    curve = printed(panel(make_report(("1/255", "8/255"), attack=False), folder=Path("x.report")))
    assert "16" not in curve
    assert "–" in curve, "attacked accuracy is absent, not zero"
    text = printed(panel(hostile_report))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[red]" in text, "markup is shown, not obeyed"
    assert max(map(cell_len, text.splitlines())) <= 80
    assert len(text) < 10_000


def test_nothing_certified_is_expected_of_an_ordinary_model(make_report: Callable) -> None:
    report = make_report(trained=False)
    assert headline(report) == "No sample is provably robust at ε = 8/255."
    sentence, command = next_step(report)
    for said in ("expected", "layer 2, relu_2", "5.5 times", "Retrain", "CIFAR-10 at ε = 8/255", "34.97 %"):
        assert said in sentence
    assert command == "pipeline retrain digits.onnx --data digits --eps 8/255"
    argv = ("pipeline", "certify", "a b/digits.onnx", "--data", "npz:far/x.npz")
    elsewhere = report.model_copy(update={"run": report.run.model_copy(update={"argv": argv})})
    assert next_step(elsewhere)[1] == command, "a page that is passed on tells no folders"
    assert next_step(elsewhere, here=True)[1] == "pipeline retrain 'a b/digits.onnx' --data npz:far/x.npz --eps 8/255"


def test_before_and_after(make_report: Callable) -> None:
    lines = printed(before_after(make_report(retrained=True))).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["natural", "attacked", "certified"]
    assert "+51.7" in lines[3] or "+" in lines[3]
    assert printed(before_after(make_report())).strip() == ""
