"""``pipeline vnnlib``: answers as the standard prints them, types obeyed, and files whose inputs have no batch axis."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from pipeline.certify.witness import check
from tests.onnx.files import session

QUERY = """(vnnlib-version <2.0>)
(declare-network N (declare-input X {type} [2]) (declare-output Y {type} [2]))
(assert (<= -1 X[0] 1))(assert (<= -1 X[1] 1))
(assert (>= Y[0] {least}))
"""


@pytest.fixture
def files(here):
    """``y = relu(x W) + (x1, x0)`` of a vector of two: at most 3 in each."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gather", ["x", "turn"], ["t"], axis=0),
        helper.make_node("Add", ["r", "t"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(name, 1, [2]) for name in "xy"]
    weights = [
        numpy_helper.from_array(np.array([[1, 1], [1, -1]], np.float32), "w"),
        numpy_helper.from_array(np.array([1, 0]), "turn"),
    ]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), here / "n.onnx")
    return here


def answered(pipeline, here, *, timeout=60, **said):
    text = QUERY.format(**({"type": "float32", "least": "2.5"} | said))
    (here / "q.vnnlib").write_text(text)
    code, out, err = pipeline("vnnlib", "verify", "q.vnnlib", "--network", "N=n.onnx", "--timeout", timeout)
    return code, out.splitlines(), err, text


def test_an_assignment_is_what_the_file_gives_and_what_is_impossible_is_unsat(pipeline, files):
    code, lines, err, text = answered(pipeline, files)
    assert code == 0, err
    assert (lines[0], lines[1], lines[4]) == ("sat", "X float32 [2]", "Y float32 [2]")
    x = np.array(lines[2:4], np.float32)
    (y,) = session(files / "n.onnx")(x)
    assert (y == np.array(lines[5:7], np.float32)).all()
    assert check(text, [Fraction(float(v)) for v in x], lambda _: y).refused is None
    assert answered(pipeline, files, least="3.001")[:2] == (0, ["unsat"])


def test_types_decide_the_arithmetic(pipeline, files):
    # 3 is not reached by any rounding, and float32 may lose more than nothing.
    assert answered(pipeline, files, timeout=2, least="3.0000000000001")[1][0] in ("unknown", "timed-out")
    assert answered(pipeline, files, least="3.0000000000001", type="real")[1] == ["unsat"]
    code, lines, err, _ = answered(pipeline, files, type="float16")
    assert (code, lines) == (3, [])
    assert "X is float16" in err


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (("verify", "q.vnnlib"), 2, "received none"),
        (("verify", "q.vnnlib", "--network", "M=n.onnx"), 2, "received M"),
        (("verify", "q.vnnlib", "--network", "n.onnx"), 2, "--network is NAME=FILE"),
        (("supports",), 2, "supports answers one of"),
        ((), 2, "say verify, supports"),
    ],
)
def test_what_is_missing_is_said_on_standard_error_alone(pipeline, files, argv, code, said):
    (files / "q.vnnlib").write_text(QUERY.format(type="float32", least=1))
    got, out, err = pipeline("vnnlib", *argv)
    assert (got, out) == (code, "")
    assert said in err


def test_capabilities_are_lines(pipeline, here):
    assert pipeline("vnnlib", "supports", "--vnnlib-versions")[1] == "1.0\n2.0\n"
    operators = pipeline("vnnlib", "supports", "--onnx-operators")[1].splitlines()
    assert {"Conv", "Relu", "MaxPool"} <= set(operators)
    assert "Where" not in operators, "nothing is declared that has no bounds"
    assert pipeline("vnnlib", "--name")[1] == "pipeline\n"
