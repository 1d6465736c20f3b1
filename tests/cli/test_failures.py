"""What a command says when it fails: an object where JSON was asked for, and the command that was likely meant."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from pipeline.errors import parts_of


@pytest.mark.parametrize(
    ("argv", "code", "rule"),
    [
        (("certify", "absent.onnx", "--data", "digits", "--eps", "0.1"), 3, "absent"),
        (("certify", "model.onnx", "--data", "digits", "--eps", "8"), 2, "eps"),
        (("certify", "model.onnx", "--data", "digits", "--no-such-flag"), 2, "--no-such-flag"),
        (("retrain", "model.onnx", "--data", "digits"), 2, "--eps is missing"),
        (("inspect", "absent.onnx"), 3, "absent"),
        (("verify", "absent.report"), 2, "absent"),
        (("compare", "absent.report", "absent.report"), 2, "absent"),
        (("certify", "model.onnx", "--property", "absent.vnnlib"), None, "absent"),
    ],
)
def test_a_failure_is_an_object_where_json_was_asked_for(pipeline, argv, code, rule):
    for style in (("--format", "json"), ("--format=json",)):
        got, out, err = pipeline(*argv, *style)
        assert got == code or (code is None and got in (2, 3))
        error = json.loads(out)["error"]
        assert error["code"] == got
        assert rule in error["message"]
        assert isinstance(error["rule"], str)
        assert set(error) == {"code", "rule", "received", "advice", "message"}
        assert error["rule"].split()[0] in err, "people read the same"
    assert pipeline(*argv)[1] == "", "and nothing where it was not"


def test_a_message_falls_into_rule_received_and_advice():
    rule, received, advice = parts_of("--std belongs to --mean; received 0.5 alone. Say --mean too, e.g. `--mean 0`.")
    assert (rule, received) == ("--std belongs to --mean", "received 0.5 alone.")
    assert advice == "Say --mean too, e.g. `--mean 0`."
    assert parts_of("absent") == ("absent", None, None)


@pytest.mark.parametrize(("typed", "meant"), [("certfy", "certify"), ("retrian", "retrain"), ("inspekt", "inspect")])
def test_a_mistyped_command_is_asked_back(pipeline, typed, meant):
    code, _, err = pipeline(typed, "model.onnx")
    assert code == 2
    assert f"Did you mean '{meant}'?" in err


@pytest.mark.parametrize("width", [80, 120])
def test_inspect_begins_and_ends_with_its_verdict_and_fits(pipeline, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, _ = pipeline("inspect", "model.onnx")
    lines = [line.rstrip() for line in out.splitlines()]
    assert code == 0
    assert max(map(len, lines)) <= width
    said = [i for i, line in enumerate(lines) if "certify takes this file" in line]
    assert said[-1] == len(lines) - 1
    assert said[0] <= 4
    whole = "Conv2d(1, 16, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))"
    assert set(whole.split()) <= set(out.split()), "nothing is cut"


def test_epochs_fit_into_eighty_columns():
    from pipeline.cli.progress import COLUMNS

    assert len(COLUMNS) <= 80
    assert all(a != b for a, b in pairwise(COLUMNS.split()))
