"""``pipeline doctor`` as a user meets it."""

from __future__ import annotations

import json
from dataclasses import replace

import onnx
import pytest
from onnx import helper

from pipeline.onnx import kernel_table
from tests.onnx import files
from tests.onnx.test_kernels import WHOLE


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PIPELINE_CACHE", str(tmp_path / "cache"))


def test_doctor_says_what_is_here_and_what_is_missing(pipeline):
    code, out, _ = pipeline("doctor")
    assert code == 0
    for word in (
        "onnxruntime",
        "CPU",
        "TF32",
        "threads",
        "self-test",
        "none measured",
        "doctor --measure-kernels Sigmoid",
    ):
        assert word in out


def test_doctor_shows_a_stored_table(pipeline):
    kernel_table.store("Sigmoid", WHOLE)
    code, out, _ = pipeline("doctor")
    assert code == 0
    assert "Sigmoid: error <= 2e-07" in out
    assert kernel_table.load()[0].digest[:12] in out
    assert "measure-kernels Tanh" in out


def test_doctor_distrusts_a_table_that_the_kernel_contradicts(pipeline):
    kernel_table.store("Sigmoid", replace(WHOLE, absolute=1e-10))
    code, out, _ = pipeline("doctor")
    assert code == 74
    assert "Sigmoid errs by" in out


def test_a_sample_is_shown_and_not_stored(pipeline):
    code, out, err = pipeline("doctor", "--measure-kernels", "--sample", "5000", "Sigmoid", "Erf")
    assert code == 0
    assert "Sigmoid: error <=" in out
    assert "Erf: error <=" in out
    assert "not stored" in err
    assert kernel_table.load()[0].operators == {}


@pytest.mark.parametrize(
    "argv",
    [
        ("--measure-kernels", "Softmax"),
        ("--measure-kernels", "--sample", "0", "Sigmoid"),
        ("Sigmoid",),
        ("--sample", "5"),
    ],
)
def test_usage(pipeline, argv):
    assert pipeline("doctor", *argv)[0] == 2


@pytest.fixture
def sigmoid(here):
    """A file with a Sigmoid, of the digits' shape."""
    constants = {"w": files.weights(16, 64) / 8, "b": files.weights(16, seed=1), "v": files.weights(10, 16, seed=2)}
    nodes = [
        files.node("Flatten", ["x"], ["f"]),
        files.node("Gemm", ["f", "w", "b"], ["h"], transB=1),
        files.node("Sigmoid", ["h"], ["s"]),
        files.node("Gemm", ["s", "v"], ["y"], transB=1),
    ]
    onnx.save(files.model(nodes, ["n", 1, 8, 8], constants), "sigmoid.onnx")
    return "sigmoid.onnx"


CERTIFY = ("--data", "digits", "--max-samples", "5", "--eps", "1/1000", "--no-attack", "--method", "ibp")


def test_an_unmeasured_kernel_is_refused_with_the_command_that_measures_it(pipeline, sigmoid):
    code, _, err = pipeline("certify", sigmoid, *CERTIFY)
    assert code == 3
    assert "pipeline doctor --measure-kernels Sigmoid" in err
    assert "--arithmetic real" in err
    assert pipeline("certify", sigmoid, *CERTIFY, "--arithmetic", "real")[0] == 0


def test_a_report_names_the_table_that_it_rests_on(pipeline, sigmoid):
    kernel_table.store("Sigmoid", WHOLE)
    code, out, err = pipeline("certify", sigmoid, *CERTIFY, "--format", "json")
    assert code == 0, err
    said = " ".join(json.loads(out)["result"]["method"]["assumptions"])
    assert f"Sigmoid 2e-07 (ONNX Runtime {kernel_table.here().onnxruntime} on CPU" in said
    assert kernel_table.load()[0].digest[:12] in said


def test_a_proof_never_rests_on_a_table_that_its_kernel_contradicts(pipeline, sigmoid):
    kernel_table.store("Sigmoid", replace(WHOLE, absolute=1e-10))
    code, _, err = pipeline("certify", sigmoid, *CERTIFY)
    assert code == 74
    assert "Sigmoid errs by" in err


def test_a_measured_kernel_serves_a_property_of_two_inputs(pipeline, here):
    inputs, outputs = ([helper.make_tensor_value_info(n, 1, [1, 2]) for n in names] for names in (("a", "b"), ("y",)))
    nodes = [files.node("Add", ["a", "b"], ["s"]), files.node("Sigmoid", ["s"], ["y"])]
    graph = helper.make_graph(nodes, "two", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "two.onnx")
    text = "".join(f"(declare-const {v} Real)" for v in ("X_0", "X_1", "X_2", "X_3", "Y_0", "Y_1"))
    text += "".join(f"(assert (>= X_{i} 0))(assert (<= X_{i} 1))" for i in range(4)) + "(assert (>= Y_1 0.9))"
    (here / "p.vnnlib").write_text(text)
    assert pipeline("certify", "two.onnx", "--property", "p.vnnlib")[0] == 3
    kernel_table.store("Sigmoid", WHOLE)
    code, out, err = pipeline("certify", "two.onnx", "--property", "p.vnnlib", "--format", "json")
    assert code == 0, err
    assert "Sigmoid 2e-07" in " ".join(json.loads(out)["result"]["assumptions"])
