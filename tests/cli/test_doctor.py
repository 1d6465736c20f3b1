"""``pipeline doctor`` as a user meets it."""

from __future__ import annotations

import json
from dataclasses import replace

import onnx
import pytest
from onnx import helper

from pipeline.onnx import kernel_table
from tests.onnx import files
from tests.onnx.test_kernels import whole


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """A user's folder for state of their own, and nothing shipped."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("PIPELINE_STATE_KEY", raising=False)
    monkeypatch.setattr(kernel_table, "shipped", tuple)


@pytest.fixture(scope="module")
def entry():
    """A table's entry that the kernel here bears out."""
    return replace(whole("Sigmoid"), absolute=2e-7)


def test_doctor_says_what_is_here_and_what_is_missing(pipeline):
    code, out, _ = pipeline("doctor")
    assert code == 0
    for word in (
        "onnxruntime",
        "CPU",
        "TF32",
        "threads",
        "self-test",
        "none known",
        "doctor --measure-kernels Sigmoid",
    ):
        assert word in out


def test_doctor_shows_a_stored_table(pipeline, entry):
    kernel_table.store("Sigmoid", entry)
    code, out, _ = pipeline("doctor")
    assert code == 0
    assert "Sigmoid: error <= 2e-07" in out
    assert "(measured here)" in out
    assert kernel_table.here().runtime_sha256 in out
    assert "measure-kernels Tanh" in out


def test_doctor_says_what_is_shipped_for_its_build(pipeline, entry, monkeypatch):
    table = kernel_table.KernelTable(replace(kernel_table.here(), libm=""), {"Sigmoid": entry})
    monkeypatch.setattr(kernel_table, "shipped", lambda: (table,))
    out = pipeline("doctor")[1]
    assert "Sigmoid: error <= 2e-07" in out
    assert "measured here" not in out


def test_doctor_distrusts_a_table_that_the_kernel_contradicts(pipeline, entry):
    kernel_table.store("Sigmoid", replace(entry, absolute=1e-10))
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
        ("--measure-kernels", "LayerNormalization"),
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


def test_a_report_names_the_build_that_it_rests_on(pipeline, sigmoid, entry):
    """In its statement, in full, and field by field; without it a verdict would speak of builds that it knows nothing of."""
    kernel_table.store("Sigmoid", entry)
    code, out, err = pipeline("certify", sigmoid, *CERTIFY, "--format", "json")
    assert code == 0, err
    method, build = json.loads(out)["result"]["method"], kernel_table.here()
    said = " ".join(method["assumptions"])
    assert f"Sigmoid 2e-07 (ONNX Runtime {build.onnxruntime} on CPU, library SHA-256 {build.runtime_sha256}" in said
    assert (
        f"Sigmoid as in the library with SHA-256 {build.runtime_sha256} on {build.instructions}" in method["statement"]
    )
    assert method["execution"]["kernels"] == {
        "runtime_sha256": build.runtime_sha256,
        "instructions": build.instructions,
        "libm": build.libm,
        "errors": {"Sigmoid": [2e-07, 0.0]},
    }


@pytest.mark.parametrize("said", ["errs by", "other bits"])
def test_a_proof_never_rests_on_a_table_that_its_kernel_contradicts(pipeline, sigmoid, entry, said):
    kernel_table.store("Sigmoid", replace(entry, **({"absolute": 1e-10} if said == "errs by" else {"spots": "0" * 64})))
    code, _, err = pipeline("certify", sigmoid, *CERTIFY)
    assert code == 74
    assert f"Sigmoid {said}" in err or f"Sigmoid gives {said}" in err


def test_another_build_is_refused_by_name(pipeline, sigmoid, entry, monkeypatch):
    kernel_table.store("Sigmoid", entry)
    build = replace(kernel_table.here(), instructions="x86_64 AVX512F")
    monkeypatch.setattr(kernel_table, "here", lambda: build)
    code, _, err = pipeline("certify", sigmoid, *CERTIFY)
    assert code == 3
    assert f"Sigmoid is bounded by no standard, and not known for {build}" in " ".join(err.split())


def test_a_report_of_one_build_is_proved_again_and_told_from_one_of_another(
    pipeline, sigmoid, entry, here, monkeypatch
):
    kernel_table.store("Sigmoid", entry)
    assert pipeline("certify", sigmoid, *CERTIFY)[0] == 0
    again = ("verify", "sigmoid.report", "--model", sigmoid, "--data", "digits", "--recheck", "5")
    assert pipeline(*again)[0] == 0
    build = replace(kernel_table.here(), runtime_sha256="0" * 64)
    monkeypatch.setattr(kernel_table, "here", lambda: build)
    assert pipeline(*again)[0] == 3  # nothing is known of that build
    kernel_table.store("Sigmoid", entry)
    code, _, err = pipeline(*again)
    assert code == 0
    assert "with the kernels of another build" in " ".join(err.split())


def test_other_errors_than_those_of_the_build_are_a_contradiction(pipeline, sigmoid, entry, here):
    kernel_table.store("Sigmoid", entry)
    assert pipeline("certify", sigmoid, *CERTIFY)[0] == 0
    kernel_table.store("Sigmoid", replace(entry, absolute=3e-7))
    code, _, err = pipeline("verify", "sigmoid.report", "--model", sigmoid, "--data", "digits", "--recheck", "5")
    assert code == 5
    assert "Sigmoid 2e-07" in " ".join(err.split())


def test_a_measured_kernel_serves_a_property_of_two_inputs(pipeline, here, entry):
    inputs, outputs = ([helper.make_tensor_value_info(n, 1, [1, 2]) for n in names] for names in (("a", "b"), ("y",)))
    nodes = [files.node("Add", ["a", "b"], ["s"]), files.node("Sigmoid", ["s"], ["y"])]
    graph = helper.make_graph(nodes, "two", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "two.onnx")
    text = "".join(f"(declare-const {v} Real)" for v in ("X_0", "X_1", "X_2", "X_3", "Y_0", "Y_1"))
    text += "".join(f"(assert (>= X_{i} 0))(assert (<= X_{i} 1))" for i in range(4)) + "(assert (>= Y_1 0.9))"
    (here / "p.vnnlib").write_text(text)
    assert pipeline("certify", "two.onnx", "--property", "p.vnnlib")[0] == 3
    kernel_table.store("Sigmoid", entry)
    code, out, err = pipeline("certify", "two.onnx", "--property", "p.vnnlib", "--format", "json")
    assert code == 0, err
    assert "Sigmoid 2e-07" in " ".join(json.loads(out)["result"]["assumptions"])


def test_doctor_names_optional_packages_that_are_absent(pipeline, monkeypatch):
    monkeypatch.setattr(
        "pipeline.commands.installation.find_spec", lambda name: None if name == "torchvision" else name
    )
    code, out, _ = pipeline("doctor")
    assert code == 0
    assert "torchvision is not installed, which data by torchvision:NAME needs: pip install torchvision" in out
    assert out.count("is not installed") == 1
