"""The functions for notebooks: arrays and Datasets in, results that show themselves out; the example notebook runs."""

from __future__ import annotations

import inspect as signatures
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import api
from pipeline.data import load
from pipeline.errors import EnvironmentFailure, InputRejected, UsageError
from pipeline.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = {
    "test_data",
    "before_samples",
    "budget",
    "compare",
    "precision",
    "compile",
    "graph",
    "limits",
    "retrain",
    "require_improvement",
}
"""Settings of training, and of files: no argument of certify."""


@pytest.fixture
def here(tmp_path, monkeypatch):
    shutil.copyfile(ROOT / "models" / "digits.onnx", tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One report of arrays, at two radii and under a gate, with the arrays."""
    digits, folder = load("digits", part="test"), tmp_path_factory.mktemp("api")
    x, y = digits.images[:24], digits.labels[:24]
    seen: list[object] = []
    found = api.certify(
        ROOT / "models" / "digits.onnx",
        (x, y),
        eps=["1/1000", "1/20"],
        method="ibp",
        fail_under=["natural=0.5"],
        report=folder / "report",
        watch=seen.append,
    )
    assert seen, "events are shown to who watches"
    return found, x, y


def test_every_setting_of_certify_is_an_argument_with_a_type():
    parameters = signatures.signature(api.certify).parameters
    named = set(parameters) - {"model", "report", "proof", "watch"}
    assert named == set(Settings.model_fields) - LEFT_OUT
    assert all(p.annotation is not p.empty for p in parameters.values())
    assert all(p.default is None for name, p in parameters.items() if name != "model")


def test_a_result_shows_itself(made):
    found, *_ = made
    assert found.verdict == "pass"
    assert found.levels == found.report.result.levels
    line = repr(found)
    assert "\n" not in line
    assert "digits.onnx" in line
    assert "1 of 1 gates passed" in line
    page = found._repr_html_()
    assert page.count("<tr>") == 3
    for level in found.levels:
        assert f"<td>{level.eps}</td>" in page
        assert f"{level.certified.k} of {level.certified.n}" in page
    assert "<script" not in page
    with pytest.raises(AttributeError):
        found.nothing_of_the_kind  # noqa: B018


def test_names_of_strangers_are_escaped(made):
    found, *_ = made
    model = found.result.model.model_copy(update={"file": "<script>alert(1)</script>.onnx"})
    result = found.result.model_copy(update={"model": model})
    page = api.RunReport(found.report.model_copy(update={"result": result}), found.folder)._repr_html_()
    assert "<script" not in page
    assert "&lt;script" in page


def test_columns_are_the_samples_and_pandas_is_asked_for_by_name(made, monkeypatch):
    found, _, y = made
    columns = found.columns()
    assert {len(column) for column in columns.values()} == {48}
    assert columns["label"][:24] == y.tolist()
    for row, level in enumerate(found.levels):
        part = slice(24 * row, 24 * (row + 1))
        assert set(columns["eps"][part]) == {level.eps}
        assert columns["verdict"][part].count("certified") == level.certified.k
        assert all(
            (m > 0) or v != "certified" for m, v in zip(columns["margin_lower"], columns["verdict"], strict=True)
        )
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(EnvironmentFailure, match="pip install pandas"):
        found.to_pandas()


def test_pandas_gets_a_row_a_sample_and_eps(made):
    pandas = pytest.importorskip("pandas")
    frame = made[0].to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == 48


def test_the_figure_holds_the_numbers(made):
    found, *_ = made
    curve, classes, margins = found.plot().axes
    certified = next(line for line in curve.lines if line.get_label() == "certified")
    assert certified.get_ydata().tolist() == [100 * v.certified.k / v.certified.n for v in found.levels]
    assert len(classes.get_yticks()) == len({row.label for row in found.per_class})
    assert found.plot()._repr_png_().startswith(b"\x89PNG"), "notebooks show it without pyplot"
    heights = [bar.get_height() for bar in margins.patches]
    assert sum(heights) in [sum(v.margin.histogram.counts) for v in found.levels]


def test_loaded_again_it_is_the_same_and_it_is_verified_on_the_arrays(made, here):
    found, x, y = made
    again = api.load(found.folder)
    assert again.report == found.report
    checked = api.verify(again, model="model.onnx", data=(x, y), recheck=2, seed=1)
    assert not checked.faults, checked.faults
    other = api.verify(found, model="model.onnx", data=(x[::-1], y))
    assert any("not the data" in fault for fault in other.faults)
    same = api.compare(found, again)
    assert all(change.lost == change.gained == 0 for change in same.changes)


def test_a_dataset_of_torch_and_a_file_give_the_result_of_arrays(made, here):
    found, x, y = made
    np.savez(here / "test.npz", x=x, y=y)
    pairs = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    how = {"eps": ["1/1000", "1/20"], "method": "ibp", "fail_under": ["natural=0.5"]}
    for data in (pairs, "npz:test.npz"):
        other = api.certify("model.onnx", data, **how)
        assert other.levels == found.levels
        assert other.data.sha256 == found.data.sha256


def test_inspect_says_whether_bounds_cross_the_file(here):
    assert api.inspect("model.onnx").supported


@pytest.mark.parametrize(
    ("model", "data", "error", "says"),
    [
        (torch.nn.Linear(2, 2), (np.zeros((1, 2), np.float32), [0]), UsageError, "torch.onnx.export"),
        ("model.onnx", 7, UsageError, "received int"),
        ("model.onnx", iter([]), UsageError, "a Dataset of PyTorch"),
        ("model.onnx", [1, 2, 3], InputRejected, "pair"),
        ("model.onnx", [(np.zeros((1, 8, 8)), 0), (np.zeros((1, 9, 9)), 0), (0, 0)], InputRejected, "one shape"),
        ("model.onnx", (np.zeros((3, 1, 8, 8), np.float32), [0, 1]), InputRejected, "one row each"),
    ],
)
def test_what_is_no_data_is_refused_with_what_to_give(here, model, data, error, says):
    with pytest.raises(error, match=says):
        api.certify(model, data, eps="1/255")


def test_the_example_notebook_runs_from_top_to_bottom(here, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    cells = json.loads((ROOT / "docs" / "notebook.ipynb").read_text("utf-8"))["cells"]
    known: dict[str, object] = {}
    ran = 0
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {ran}", "exec"), known)
            ran += 1
    assert ran > 4
    assert known["found"].levels[0].certified.k > 0
    assert not known["checked"].faults
