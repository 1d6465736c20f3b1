"""``pipeline doctor`` as a user meets it."""

from __future__ import annotations

import pytest

from pipeline.graph import kernel_table
from tests.graph.test_kernels import WHOLE


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PIPELINE_CACHE", str(tmp_path / "cache"))


def test_doctor_says_what_is_here_and_what_is_missing(pipeline):
    code, out, _ = pipeline("doctor")
    assert code == 0
    for word in ("onnxruntime", "CPU", "threads", "self-test", "none measured", "doctor --measure-kernels Sigmoid"):
        assert word in out


def test_doctor_shows_a_stored_table(pipeline):
    kernel_table.store("Sigmoid", WHOLE)
    code, out, _ = pipeline("doctor")
    assert code == 0
    assert "Sigmoid: error <= 2e-07" in out
    assert kernel_table.load()[0].digest[:12] in out
    assert "measure-kernels Tanh" in out


def test_doctor_distrusts_a_table_that_the_kernel_contradicts(pipeline):
    from dataclasses import replace

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
