"""``certify`` with radii by feature, as a user of tables runs it: what stays fixed, what is said, and who checks it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from pipeline.cli.main import run
from pipeline.results import read
from pipeline.results.samples import read_counterexamples
from tests.cli.test_merge import restated

NAMES = ("heat", "flow", "count", "steel", "brass", "tin")
SCALE = ("--data", "csv:t.csv", "--scale", "std", "--method", "crown-ibp")
ASKED = ("certify", "m.onnx", *SCALE, "--eps", "0.1,2", "--largest-eps")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A table, a classifier of it, and a report in standard deviations."""
    folder, rng = tmp_path_factory.mktemp("features"), np.random.default_rng(1)
    heat, flow, count, kind = rng.normal(300, 10, 48), rng.random(48), rng.integers(0, 60, 48), rng.integers(0, 3, 48)
    x = np.column_stack([heat, flow, count, np.eye(3)[kind]]).astype(np.float32)
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(6, affine=False), nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    model.train()(torch.from_numpy(x).repeat(40, 1))
    for _ in range(60):
        model(torch.from_numpy(x))
    with torch.no_grad():
        y = model.eval()(torch.from_numpy(x)).argmax(1).numpy()
    torch.onnx.export(
        model, torch.from_numpy(x[:1]), folder / "m.onnx", input_names=["x"], dynamic_axes={"x": {0: "n"}}, dynamo=False
    )
    rows = [",".join([*(f"{v:.9g}" for v in row), str(label)]) for row, label in zip(x, y, strict=True)]
    (folder / "t.csv").write_text("\n".join([",".join([*NAMES, "label"]), *rows]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert (
            run(
                [
                    "certify",
                    "m.onnx",
                    *SCALE,
                    "--eps",
                    "0.1,2",
                    "--largest-eps",
                    "--report",
                    "kept",
                    "--parity-seed",
                    "7",
                ]
            )
            == 0
        )
    return folder


@pytest.fixture
def table(made, here):
    """All of it, to be spoilt."""
    shutil.copytree(made, here, dirs_exist_ok=True)
    return here


def test_what_is_fixed_never_moves_and_every_form_of_the_report_says_so(pipeline, table):
    report = read(table / "kept")
    threat = report.result.threat
    assert threat.features is not None
    assert threat.features.fixed == ("count", "steel", "brass", "tin")
    x = np.loadtxt(table / "t.csv", delimiter=",", skiprows=1)[:, :6].astype(np.float32)
    assert np.allclose(threat.features.radii[:2], x[:, :2].astype(np.float64).std(0), rtol=1e-12)
    points = read_counterexamples(table / "kept" / "counterexamples.npz", report.result.counterexamples)
    at = points.index
    assert (points.image[:, 2:] == x[at, 2:]).all()
    assert (points.image[:, :2] != x[at, :2]).any()
    assert "4 of 6 features stay exactly as they are" in report.result.method.statement
    page = (table / "kept" / "report.html").read_text()
    assert "fixed: count, steel, brass, tin" in page
    assert "standard deviations of 48 samples of csv:t.csv" in page
    code, out, _ = pipeline("report", "kept", "--md", "-")
    assert code == 0
    assert "2 of 6 features may move" in out


def test_radii_are_said_by_number_by_name_and_by_archive_alike(pipeline, table):
    np.savez(table / "r.npz", radius=[5, 0.05, 0, 0, 0, 0], low=[0, 0, 0, 0, 0, 0], high=[1e3, 1, 99, 1, 1, 1])
    ways = {
        "numbers": ("--radius", "5,0.05,0,0,0,0"),
        "archive": ("--radius", "npz:r.npz"),
        "fixed": ("--radius", "5,0.05,7,1,1,1", "--fixed", "count,3-5"),
    }
    radii = {}
    for name, flags in ways.items():
        code, _, err = pipeline(
            "certify", "m.onnx", "--data", "csv:t.csv", *flags, "--max-samples", "8", "--report", name
        )
        assert code == 0, err
        radii[name] = read(table / name).result.threat.features
    (table / "pipeline.toml").write_text("[features]\nheat = 5\nflow = { radius = 0.05, low = 0, high = 1 }\n")
    assert pipeline("certify", "m.onnx", "--data", "csv:t.csv", "--max-samples", "8", "--report", "toml")[0] == 0
    radii["toml"] = read(table / "toml").result.threat.features
    assert {one.radii for one in radii.values()} == {(5, 0.05, 0, 0, 0, 0)}
    assert radii["toml"].low == (None, 0, None, None, None, None)
    assert radii["archive"].high == (1e3, 1, 99, 1, 1, 1)
    assert radii["numbers"].low is None


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (("--scale", "std", "--fixed", "hate"), 2, "the names are heat, flow, count"),
        (("--scale", "std", "--fixed", "0-5"), 2, "no feature may move"),
        (("--scale", "std", "--radius", "1"), 2, "give one of them"),
        (("--scale", "std", "--norm", "l2"), 2, "those of a box"),
        (("--radius", "1,2"), 2, "one for each of 6; it holds 2"),
        (("--movable", "count", "--eps", "1/10"), 2, "without --scale"),
        (("--radius", "-1"), 2, "is 0, or a number"),
        (("--scale", "std", "--eps", "1001"), 2, "multiple of each feature's radius"),
        (("--eps", "0.1"), 3, "--scale std where each feature has a unit of its own"),
    ],
)
def test_radii_that_mean_nothing_are_refused(pipeline, table, flags, code, said):
    got, _, err = pipeline("certify", "m.onnx", "--data", "csv:t.csv", *flags)
    assert got == code
    assert said in " ".join(err.split())
    assert pipeline("retrain", "m.onnx", "--data", "csv:t.csv", "--scale", "std", "--eps", "1")[0] == 2


def test_shards_merge_to_the_bit_and_a_proof_again_finds_radii_that_were_widened(pipeline, table):
    for i in (1, 2):
        assert pipeline(*ASKED, "--shard", f"{i}/2", "--report", f"shard-{i}")[0] == 0
    assert pipeline("merge", "shard-1", "shard-2", "--report", "merged")[0] == 0
    assert read(table / "merged").result_sha256 == read(table / "kept").result_sha256
    about = ("--model", "m.onnx", "--data", "csv:t.csv")
    assert pipeline("verify", "kept", *about, "--recheck", "48")[0] == 0

    def widen(result):
        result["threat"]["features"]["radii"][2] = 30.0
        result["method"]["statement"] = result["method"]["statement"].replace("4 of 6", "3 of 6")

    restated(table / "kept", widen)
    code, out, _ = pipeline("verify", "kept", *about, "--recheck", "48")
    assert code == 5
    assert "cannot be certified again" in out


def test_a_sample_as_a_property_has_the_radii_of_its_features(pipeline, table):
    code, out, _ = pipeline("export-vnnlib", "kept", "--index", "3", "--eps", "0.1", "--data", "csv:t.csv")
    assert code == 0
    x = np.loadtxt(table / "t.csv", delimiter=",", skiprows=1)[3, :6].astype(np.float32)
    said = [
        line.split()
        for line in out.splitlines()
        if line.startswith("(assert (<= X_") or line.startswith("(assert (>= X_")
    ]
    ends = [[float(words[-1].strip(")")) for words in said if words[2] == f"X_{i}"] for i in range(6)]
    radii = json.loads(Path(table / "kept" / "report.json").read_text())["result"]["threat"]["features"]["radii"]
    for value, radius, (lower, upper) in zip(x, radii, map(sorted, ends), strict=True):
        assert lower == pytest.approx(float(value) - radius / 10, rel=1e-6)
        assert upper == pytest.approx(float(value) + radius / 10, rel=1e-6)


def test_a_model_of_one_sample_without_a_batch_axis_is_certified_sample_by_sample(pipeline, table):
    """The same network written for vectors: the same verdicts."""
    rng = np.random.default_rng(0)
    first, last = rng.normal(size=(6, 8)).astype(np.float32) / 100, rng.normal(size=(8, 3)).astype(np.float32)
    made = {}
    for name, shape in (("vector", []), ("batch", ["n"])):
        nodes = [
            onnx.helper.make_node("MatMul", ["x", "a"], ["h"]),
            onnx.helper.make_node("Relu", ["h"], ["r"]),
            onnx.helper.make_node("MatMul", ["r", "b"], ["y"]),
        ]
        x, y = (onnx.helper.make_tensor_value_info(n, 1, [*shape, s]) for n, s in (("x", 6), ("y", 3)))
        arrays = [onnx.numpy_helper.from_array(v, k) for k, v in (("a", first), ("b", last))]
        graph = onnx.helper.make_graph(nodes, "g", [x], [y], arrays)
        opset = [onnx.helper.make_opsetid("", 17)]
        onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), table / f"{name}.onnx")
        asked = ("--data", "csv:t.csv", "--scale", "std", "--eps", "0.2", "--method", "crown-ibp", "--report", name)
        code, _, err = pipeline("certify", f"{name}.onnx", *asked)
        assert code == 0, err
        made[name] = read(table / name).result
    assert "no batch axis" in str(made["vector"].warnings)
    assert made["vector"].levels[0].certified == made["batch"].levels[0].certified
    assert made["vector"].levels[0].natural == made["batch"].levels[0].natural
    code, out, _ = pipeline("verify", "vector", "--model", "vector.onnx", "--data", "csv:t.csv", "--recheck", "12")
    assert code == 0, out
    assert pipeline("inspect", "vector.onnx")[0] == 0
