"""The terminal: never wider than it is, never a stranger's markup, and what to do next."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from pipeline.render import before_after, headline, next_step, panel
from pipeline.results import Rate, Report, Verdicts


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


def test_what_was_retrained_is_certified_on_what_it_was_tested_on(make_report: Callable) -> None:
    argv = ("pipeline", "retrain", "a.onnx", "--data", "npz:train.npz", "--test-data", "npz:test.npz")
    report = make_report(retrained=True)
    report = report.model_copy(update={"run": report.run.model_copy(update={"argv": argv})})
    assert next_step(report, here=True)[1] == "pipeline certify digits.onnx --data npz:test.npz --eps 8/255"


def test_advice_does_not_train_on_what_is_tested_and_says_the_preprocessing_again(make_report: Callable) -> None:
    base = make_report(trained=False)
    data = base.result.data.model_copy(update={"uri": "npz:test.npz", "part": "all"})
    prepared = base.result.preprocessing.model_copy(update={"source": "flag", "mean": (0.5, 0.25), "std": (0.1, 1 / 3)})
    report = make_report(trained=False, data=data, preprocessing=prepared)
    assert next_step(report)[1] == (
        "pipeline retrain digits.onnx --data TRAINING_DATA --test-data npz:test.npz --mean=0.5,0.25 --std=0.1,0.333333333 "
        "--eps 8/255"
    )


def test_a_file_that_is_often_wrong_may_be_fed_the_wrong_pixels(make_report: Callable) -> None:
    level = make_report(trained=False).result.levels[0]
    poor = level.model_copy(update={"natural": Rate.of(150, 400), "attacked": Rate.of(9, 400)})
    poor = poor.model_copy(update={"verdicts": Verdicts(certified=0, falsified=141, misclassified=250, unknown=9)})
    report = make_report(trained=False, levels=(poor,), per_class=())
    sentence, command = next_step(report)
    assert "37.50 %" in sentence
    assert "--mean" in sentence
    assert command == "pipeline inspect digits.onnx"


def test_before_and_after(make_report: Callable) -> None:
    lines = printed(before_after(make_report(retrained=True))).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["natural", "attacked", "certified"]
    assert "+51.7" in lines[3] or "+" in lines[3]
    assert printed(before_after(make_report())).strip() == ""
