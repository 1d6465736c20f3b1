"""``certify --property`` and ``export-vnnlib`` as users meet them: verdicts, witnesses, exit codes, refusals."""

from __future__ import annotations

import json
import re
from fractions import Fraction as Q

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from pipeline.certify.witness import check
from pipeline.results import read, read_samples
from pipeline.vnnlib import parse
from tests.onnx.files import session as file_session


@pytest.fixture
def tiny(here):
    """``y = (relu(x0 - x1), x0 + x1)`` on two inputs."""
    weight = np.array([[1, 1], [-1, 1]], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="layer"),
            helper.make_node("Relu", ["h"], ["y"], name="relu"),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", 1, [1, 2])],
        [helper.make_tensor_value_info("y", 1, [1, 2])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), here / "tiny.onnx")
    return here


HEAD = "".join(f"(declare-const {v} Real)" for v in ("X_0", "X_1", "Y_0", "Y_1"))
BOX = "(assert (>= X_0 -0.5))(assert (<= X_0 0.5))(assert (>= X_1 0.1))(assert (<= X_1 0.1))"


def decided(pipeline, here, text, *argv, model="tiny.onnx"):
    (here / "p.vnnlib").write_text(text)
    code, out, err = pipeline("certify", model, "--property", "p.vnnlib", "--format", "json", *argv)
    return code, json.loads(out).get("result", err)


def test_holds(pipeline, tiny):
    code, result = decided(pipeline, tiny, HEAD + BOX + "(assert (>= Y_0 0.5))")
    assert (code, result["verdict"]) == (0, "holds")
    assert "float32" in result["statement"]
    assert any("TF32" in assumption for assumption in result["assumptions"])
    assert not (tiny / "p.report" / "counterexample.txt").exists()


def test_violated_with_a_witness_anyone_can_check(pipeline, tiny):
    text = HEAD + BOX + "(assert (or (>= Y_0 0.35) (<= Y_1 -1)))(assert (<= Y_1 0.6))"
    code, result = decided(pipeline, tiny, text)
    assert (code, result["verdict"]) == (1, "violated")
    x = [Q(v) for v in result["witness"]["x"]]
    session = file_session(tiny / "tiny.onnx")
    assert check(text, x, lambda v: session(v.reshape(1, 2))[0].reshape(-1)).refused is None
    assert x[1] == Q(1, 10)
    assert result["witness"]["rounded"] == 1
    assert result["boxes_open"] == 1
    told = (tiny / "p.report" / "counterexample.txt").read_text()
    assert told.startswith("sat\n((X_0 ")
    assert re.findall(r"\(\(?(\w_\d) ", told) == ["X_0", "X_1", "Y_0", "Y_1"]


def test_unknown_and_timeout_are_4(pipeline, tiny):
    exactly = HEAD + BOX + "(assert (>= Y_0 0.4))"  # met at one corner, whose float32 is not quite in the set
    code, result = decided(pipeline, tiny, exactly, "--method", "ibp", "--no-attack")
    assert (code, result["verdict"]) == (4, "unknown")
    assert result["attack"] is None
    code, result = decided(pipeline, tiny, exactly, "--time-budget", "0")
    assert (code, result["verdict"]) == (4, "timeout")
    code, result = decided(pipeline, tiny, HEAD + BOX + "(assert (>= Y_0 0.5))", "--arithmetic", "none")
    assert (code, result["verdict"]) == (4, "unknown")


def test_a_strict_bound_on_an_input_is_kept(pipeline, tiny):
    """Y_0 >= 0.25 is met on the side x0 = 1/2 of the box alone, and the property leaves that side out."""
    head = HEAD + "(assert (>= X_0 0))(assert (>= X_1 0.25))(assert (<= X_1 0.25))"
    code, result = decided(pipeline, tiny, head + "(assert (<= X_0 0.5))(assert (>= Y_0 0.25))")
    assert (code, result["verdict"]) == (1, "violated")
    code, result = decided(pipeline, tiny, head + "(assert (< X_0 0.5))(assert (>= Y_0 0.25))", "--time-budget", "2")
    assert code == 4


def test_the_text_says_the_verdict_first(pipeline, tiny):
    for text, code, says in (
        ("(assert (>= Y_0 0.5))", 0, "holds"),
        ("(assert (>= Y_0 0.3))", 1, "violated"),
        ("(assert (>= X_1 0.2))(assert (>= Y_0 0))", 4, "empty"),
    ):
        (tiny / "p.vnnlib").write_text(HEAD + BOX + text)
        got, out, _ = pipeline("certify", "tiny.onnx", "--property", "p.vnnlib")
        assert got == code
        assert says in out


@pytest.mark.parametrize(
    ("text", "argv", "code", "says"),
    [
        (HEAD + BOX + "(assert (>= Y_0 0.5))", ["--eps", "0.1"], 2, "--eps"),
        (HEAD + BOX + "(assert (>= Y_0 0.5))", ["--data", "digits"], 2, "--data"),
        ("(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= Y_0 0))", [], 3, "X_0 has no lower bound"),
        (HEAD.replace("Y_1", "Y_2") + BOX, [], 3, "Y_1 is not"),
        (HEAD + "(declare-const Y_2 Real)" + BOX + "(assert (>= Y_0 0.5))", [], 3, "3 outputs"),
        (HEAD + BOX + "(assert (>= Y_0 ", [], 3, "truncated"),
    ],
)
def test_refusals(pipeline, tiny, text, argv, code, says):
    (tiny / "p.vnnlib").write_text(text)
    got, out, err = pipeline("certify", "tiny.onnx", "--property", "p.vnnlib", *argv)
    assert (got, out) == (code, "")
    assert says in err


def test_what_cannot_be_bounded_can_still_be_falsified(pipeline, here):
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "x"], ["s"]), helper.make_node("Sigmoid", ["s"], ["y"], name="end")],
        "curved",
        [helper.make_tensor_value_info("x", 1, ["n", 2])],
        [helper.make_tensor_value_info("y", 1, ["n", 2])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), here / "curved.onnx")
    code, result = decided(pipeline, here, HEAD + BOX + "(assert (>= Y_0 0.5))", model="curved.onnx")
    assert (code, result["verdict"]) == (1, "violated")


def test_an_absent_property_is_refused(pipeline, tiny):
    assert pipeline("certify", "tiny.onnx", "--property", "absent.vnnlib")[0] == 3


def test_a_final_softmax_is_not_set_aside(pipeline, here):
    weight = np.eye(2, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Softmax", ["h"], ["y"], name="end", axis=1)],
        "soft",
        [helper.make_tensor_value_info("x", 1, ["n", 2])],
        [helper.make_tensor_value_info("y", 1, ["n", 2])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), here / "soft.onnx")
    text = HEAD + BOX + "(assert (>= Y_0 0.9))"  # false of probabilities here, and true of no logit either
    for mode in ("real", "float32-any-order"):
        code, result = decided(pipeline, here, text, "--arithmetic", mode, model="soft.onnx")
        assert code == 3 or result["verdict"] != "violated"
    text = HEAD + BOX + "(assert (>= Y_0 0.1))(assert (>= Y_1 0.1))"  # true of probabilities everywhere
    assert decided(pipeline, here, text, "--arithmetic", "real", model="soft.onnx")[0] in (1, 3)


EPS = ("--eps", "1/100")


@pytest.fixture
def certified(pipeline, here):
    """A report of 40 digits, with samples of several verdicts."""
    assert pipeline("certify", "model.onnx", "--data", "digits", "--max-samples", "40", *EPS)[0] == 0
    found = read(here / "model.report").result
    return read_samples(here / "model.report" / "samples.npz", found.samples)


def test_round_trip(pipeline, here, certified):
    """Certified, falsified and misclassified samples keep their verdicts as properties."""
    for verdict, code in ((0, 0), (1, 1), (2, 1)):
        rows = np.flatnonzero(certified.verdict[0] == verdict)[:1]
        assert len(rows)
        index = str(certified.index[rows[0]])
        assert pipeline("export-vnnlib", "model.report", "--index", index, "--out", "s.vnnlib")[0] == 0
        assert pipeline("certify", "model.onnx", "--property", "s.vnnlib")[0] == code


def test_the_exported_box_contains_the_ball_and_hardly_more(pipeline, certified):
    index = int(certified.index[0])
    code, out, _ = pipeline("export-vnnlib", "model.report", "--index", index)
    assert code == 0
    (case,) = parse(out).cases
    from pipeline.data import load

    digits = load("digits", part="test")
    assert digits.images.dtype == np.float32
    pixels = digits.images[index].reshape(-1)
    for low, high, pixel in zip(case.lower, case.upper, pixels, strict=True):
        exact = Q(float(pixel))
        wanted = max(exact - Q(1, 100), Q(0)), min(exact + Q(1, 100), Q(1))
        assert low <= wanted[0]
        assert wanted[1] <= high
        assert max(wanted[0] - low, high - wanted[1]) < Q(1, 10**20)


def test_export_refuses_what_is_not_in_the_report(pipeline, here, certified):
    missing = next(i for i in range(360) if i not in certified.index)
    for argv, code, says in (
        (("--index", missing), 2, "--index"),
        (("--index", certified.index[0], "--eps", "0.3"), 2, "1/100"),
        (("--index", certified.index[0], "--data", "npz:other.npz"), 3, "SHA-256"),
    ):
        rng = np.random.default_rng(0)
        np.savez(here / "other.npz", x=rng.random((400, 8, 8), np.float32), y=np.zeros(400, np.int64))
        got, out, err = pipeline("export-vnnlib", "model.report", *argv)
        assert (got, out) == (code, "")
        assert says in err
    assert pipeline("export-vnnlib", "absent.report", "--index", "0")[0] == 2


def test_normalisation_outside_the_file_moves_the_box(pipeline, here):
    code, _, err = pipeline(
        "certify",
        "model.onnx",
        "--data",
        "digits",
        "--max-samples",
        "2",
        *EPS,
        "--mean",
        "0.5",
        "--std",
        "0.25",
        "--no-attack",
    )
    assert code == 0, err
    index = int(read_samples(here / "model.report" / "samples.npz", None).index[0])
    (case,) = parse(pipeline("export-vnnlib", "model.report", "--index", index)[1]).cases
    assert min(case.lower) < -2
    assert min(case.lower) == pytest.approx(-2, abs=1e-5)
    assert max(case.upper) == pytest.approx(2, abs=1e-5)
