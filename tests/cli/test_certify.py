"""``pipeline certify`` as users and CI jobs meet it: answers, refusals, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline.results import read, read_samples
from tests.cli.conftest import INTERRUPTED, TERMINATED

FAST = ("--data", "digits", "--max-samples", "40", "--method", "crown-ibp")


def test_a_report_is_written_and_agrees_with_itself(pipeline, here):
    code, out, _ = pipeline("certify", "model.onnx", *FAST, "--eps", "1/255,0.1")
    assert code == 0
    assert "certified" in out
    report = read(here / "model.report")
    samples = read_samples(here / "model.report" / "samples.npz", report.result.samples)
    assert [level.eps for level in report.result.levels] == ["1/255", "1/10"]
    assert len(samples) == 40
    assert report.result.levels[0].certified.k == int((samples.verdict[0] == 0).sum())
    assert "<script" not in (here / "model.report" / "report.html").read_text()


def test_json_alone_on_standard_output_and_the_same_twice(pipeline):
    first, second = (pipeline("certify", "model.onnx", *FAST, "--eps", "1/100", "--format", "json") for _ in range(2))
    a, b = json.loads(first[1]), json.loads(second[1])
    assert a["result_sha256"] == b["result_sha256"]
    assert a["result"]["method"]["arithmetic"] == "float32-any-order"


def test_the_curve_whatever_eps_the_folder_says(pipeline):
    Path("pipeline.toml").write_text('eps = "1/100"')
    code, _, err = pipeline(
        "certify", "model.onnx", "--data", "digits", "--no-attack", "--method", "ibp", "--eps", "curve"
    )
    assert code == 0
    assert "curve" in err
    report = read_here()
    assert [level.eps for level in report.result.levels] == ["1/510", "1/255", "2/255", "4/255", "8/255", "16/255"]
    assert report.result.data.n_evaluated == 200
    assert report.result.data.selection.method == "random"


def read_here():
    return read(Path("model.report"))


@pytest.mark.parametrize(
    ("gate", "code"),
    [
        ("natural=0.5", 0),
        ("natural=1", 1),
        ("certified@0.1=0.9", 1),
        ("certified@1/1000=0.5", 0),
        ("certified=0.5", 2),
        ("certified@0.2=0.5", 2),
        ("class:3:certified@0.1=0.9", 1),
        ("class:12:certified@0.1=0.9", 2),
        ("nonsense", 2),
    ],
)
def test_gates_decide_the_exit_code(pipeline, gate, code):
    got, _, err = pipeline("certify", "model.onnx", *FAST, "--eps", "1/1000,0.1", "--fail-under", gate)
    assert got == code, err


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (("--fail-under", "certified=0"), "--data, --eps:"),
        (("--fail-under", "certified@1/1000=0"), "--data:"),
        (("--fail-under", "natural=0", "--data", "digits"), ""),
        (("--fail-under", "certified=0", "--data", "digits", "--eps", "1/1000"), ""),
        ((), ""),
    ],
)
def test_a_gate_that_rests_on_what_the_model_says_of_itself_is_warned_about(pipeline, here, flags, names):
    model = onnx.load(here / "model.onnx")
    onnx.helper.set_model_props(model, {"pipeline.eps": "1/1000", "pipeline.data": "digits"})
    onnx.save(model, here / "own.onnx")
    code, out, err = pipeline("certify", "own.onnx", "--max-samples", "20", *flags, "--format", "json")
    assert code == 0, err
    warnings = [w["message"] for w in json.loads(out)["result"]["warnings"]]
    assert ("own metadata" in err) == bool(names)
    assert [f"own metadata says of {names} state it yourself" in w for w in warnings] == [True] * bool(names)


def test_a_gate_on_an_attack_that_does_not_run_is_a_usage_error(pipeline):
    code, _, err = pipeline(
        "certify", "model.onnx", *FAST, "--eps", "0.1", "--no-attack", "--fail-under", "attacked=0.1"
    )
    assert code == 2
    assert "attack" in err


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["certify", "model.onnx"], 2, "--data digits"),
        (["certify", "model.onnx", "--data", "digits", "--eps", "8"], 2, "did you mean 8/255?"),
        (["certify", "model.onnx", "--data", "digits", "--eps", "-0.1"], 2, "negative"),
        (["certify", "model.onnx", "--data", "digits", "--eps", "eight"], 2, "8/255"),
        (["certify", "model.onnx", "--data", "digits", "--eps", "1/0"], 2, "8/255"),
        (["certify", "model.onnx", "--data", "nowhere:x", "--eps", "0.1"], 2, "npz"),
        (["certify", "absent.onnx", "--data", "digits", "--eps", "0.1"], 3, "absent.onnx"),
        (["certify", "model.onnx", "--data", "npz:absent.npz", "--eps", "0.1"], 2, "absent.npz"),
        (["certify", "model.onnx", "--data", "digits", "--eps", "0.1", "--mean", "1,2", "--std", "1"], 2, "--mean"),
        (["certify", "model.onnx", "--data", "digits", "--eps", "0.1", "--max-samples", "0"], 2, "max_samples"),
        (["certify", "model.onnx", "--data", "digits", "--eps", "0.1", "--output", "nope"], 2, "nope"),
        (["nonsense"], 2, "nonsense"),
        (["certify", "model.onnx", "--no-such-flag"], 2, "no-such-flag"),
        (["certify", "model.onnx", "--data", "digits", "--eps", "0.1", "--device", "cuda"], 74, "cuda"),
    ],
)
def test_refusals_say_what_and_why(pipeline, argv, code, says):
    import torch

    if "cuda" in argv and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    got, out, err = pipeline(*argv)
    assert got == code, err
    assert says in err
    assert out == ""
    assert "Traceback" not in err


def test_data_of_another_shape_is_refused_with_what_was_found(pipeline, here):
    np.savez(here / "x.npz", x=np.zeros((5, 28, 28), np.uint8), y=np.zeros(5, np.int64))
    code, _, err = pipeline("certify", "model.onnx", "--data", "npz:x.npz", "--eps", "0.1")
    assert code == 3
    assert "28" in err


def test_no_samples_is_incomplete(pipeline, here):
    np.savez(here / "x.npz", x=np.zeros((0, 8, 8), np.uint8), y=np.zeros(0, np.int64))
    code, _, err = pipeline("certify", "model.onnx", "--data", "npz:x.npz", "--eps", "0.1")
    assert code == 4, err


def test_settings_come_from_the_toml_and_flags_win(pipeline, here):
    (here / "pipeline.toml").write_text(
        'data = "digits"\neps = "0.1"\nmax_samples = 20\nmethod = "ibp"\nfail_under = ["natural=0.5"]\n'
    )
    assert pipeline("certify", "model.onnx")[0] == 0
    assert [level.eps for level in read_here().result.levels] == ["1/10"]
    assert read_here().result.gates[0].passed
    assert pipeline("certify", "model.onnx", "--eps", "1/10", "--fail-under", "certified=1")[0] == 1
    assert [gate.id for gate in read_here().result.gates] == ["certified=1"]


def test_an_unknown_setting_is_named(pipeline, here):
    (here / "pipeline.toml").write_text('dataset = "digits"\n')
    code, _, err = pipeline("certify", "model.onnx")
    assert code == 2
    assert "dataset" in err
    assert "test_data" in err


def test_a_broken_toml_is_a_usage_error(pipeline, here):
    (here / "pipeline.toml").write_text("data = = 1")
    assert pipeline("certify", "model.onnx")[0] == 2


def test_normalisation_outside_the_graph_is_bounded_with_it(pipeline, here):
    """x/2 outside the graph and doubled first weights inside are the same classifier of pixels."""
    plain = certified(pipeline, "model.onnx")
    model = onnx.load(here / "model.onnx")
    first = next(n for n in model.graph.node if n.op_type == "Conv").input[1]
    for tensor in model.graph.initializer:
        if tensor.name == first:
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * 2, first))
    onnx.save(model, here / "model.onnx")
    assert certified(pipeline, "model.onnx", "--mean", "0", "--std", "2") == plain
    assert read_here().result.preprocessing.std == (2.0,)


def certified(pipeline, *argv: str) -> tuple[int, int]:
    code, out, err = pipeline("certify", *argv, *FAST, "--eps", "1/1000", "--no-attack", "--format", "json")
    assert code == 0, err
    level = json.loads(out)["result"]["levels"][0]
    return level["natural"]["k"], level["certified"]["k"]


def test_modes_are_ordered_and_none_never_certifies(pipeline):
    found = {}
    for mode in ("float32-any-order", "real", "none"):
        _, out, _ = pipeline(
            "certify", "model.onnx", *FAST, "--eps", "1/1000", "--no-attack", "--format", "json", "--arithmetic", mode
        )
        found[mode] = json.loads(out)["result"]["levels"][0]["certified"]["k"]
    assert 0 < found["float32-any-order"] <= found["real"]
    assert found["none"] == 0


def test_our_own_fault_is_70_and_keeps_the_traceback(pipeline, monkeypatch):
    monkeypatch.setattr("pipeline.commands.certification.open_model", lambda *a: 1 / 0)
    code, _, err = pipeline("certify", "model.onnx", "--data", "digits")
    assert code == 70
    assert "traceback.txt" in err


def test_a_report_in_the_place_of_a_file_is_refused_before_any_work(pipeline, here):
    (here / "model.report").write_text("a file in the way")
    code, _, err = pipeline("certify", "model.onnx", *FAST, "--eps", "0.1", "--no-attack")
    assert code == 2
    assert "--report" in err
    assert (here / "model.report").read_text() == "a file in the way"
    assert not list(here.glob("*.run"))


def test_help_and_schema(pipeline):
    code, out, _ = pipeline("--help")
    assert code == 0
    assert all(name in out for name in ("certify", "retrain", "inspect", "demo", "Exit codes"))
    code, out, _ = pipeline("schema")
    assert code == 0
    assert "result_sha256" in json.loads(out)["properties"]


def test_inspect_shows_nodes_and_weights(pipeline):
    code, out, _ = pipeline("inspect", "model.onnx")
    assert code == 0
    assert "gets one" in out
    code, out, _ = pipeline("inspect", "model.onnx", "--format", "json")
    assert json.loads(out)["supported"] is True


def test_the_ladder_is_told_per_eps_with_what_each_rung_decided(pipeline, here):
    code, out, err = pipeline(
        "certify", "model.onnx", "--data", "digits", "--max-samples", "24", "--eps", "1/255,1/20", "--largest-eps",
        "--method", "crown-ibp",
    )  # fmt: skip
    assert code == 0, err
    assert "crown-ibp" in out
    report = read_here()
    result, samples = report.result, read_samples(here / "model.report" / "samples.npz", report.result.samples)
    assert result.method.requested == "crown-ibp"
    assert not result.partial
    for row, level in enumerate(result.levels):
        assert [rung.name for rung in level.rungs][:2] == ["pgd", "ibp"]
        assert level.rungs[-1].certified == level.certified.k
        assert f"ibp@{level.eps}" in report.run.timings
        assert level.layers
        decided = (samples.decided_by[row] != 0).sum()
        assert decided == 24 - level.verdicts.unknown
    assert result.largest_eps.tolerance == "1/4096"
    assert np.isnan(samples.largest_eps).sum() == result.levels[0].verdicts.misclassified
    with np.load(here / "model.report" / "counterexamples.npz") as found:
        assert len(found["index"]) == result.levels[-1].verdicts.falsified
        assert (found["predicted"] != samples.label[np.searchsorted(samples.index, found["index"])]).all()
    assert not (here / "model.report.run").exists()


@pytest.mark.parametrize(("gate", "code"), [(None, 4), ("certified=0.3", 4), ("certified=1", 1), ("natural=0.5", 0)])
def test_a_budget_that_is_spent_makes_a_lower_bound(pipeline, gate, code):
    gates = ["--fail-under", gate] if gate else []
    got, out, err = pipeline("certify", "model.onnx", *FAST, "--eps", "1/255", "--time-budget", "0", *gates)
    assert got == code, err
    assert "at least" in out
    report = read_here()
    assert report.result.partial
    assert report.result.levels[0].certified.k == 0
    assert report.run.stopped_by == "time budget"
    assert "lower bound" in (Path("model.report") / "report.html").read_text()


def test_euclidean_eps_may_exceed_one_and_box_eps_may_not(pipeline):
    code, out, err = pipeline("certify", "model.onnx", *FAST, "--eps", "1/20,3/2", "--norm", "l2")
    assert code == 0, err
    assert "L2" in out
    assert read_here().result.threat.norm == "l2"
    assert "Euclidean ball" in read_here().result.method.statement
    assert pipeline("certify", "model.onnx", *FAST, "--eps", "3/2")[0] == 2


@pytest.mark.parametrize(
    "argv", [("--time-budget", "soon"), ("--memory-budget", "4 parsecs"), ("--method", "magic"), ("--norm", "l3")]
)
def test_budgets_that_mean_nothing_are_usage_errors(pipeline, argv):
    assert pipeline("certify", "model.onnx", *FAST, "--eps", "0.1", *argv)[0] == 2


CLIMB = (
    *("certify", "model.onnx", "--data", "digits", "--eps", "1/255,1/20"),
    *("--restarts", "10", "--max-samples", "120"),
)


@pytest.mark.parametrize("stopped", [INTERRUPTED, pytest.param(TERMINATED, marks=pytest.mark.slow)], indirect=True)
def test_a_stopped_certification_goes_on_to_the_same_result(pipeline, here, stopped):
    argv = [*CLIMB, "--method", "crown-ibp"]
    # On a machine at rest it takes less than the seconds between two writes.
    often = "import pipeline.certify.journal as journal; journal.EVERY = 0.1"
    stopped("model.report.run/part-*.npz", *argv, before=often)
    assert not (here / "model.report").exists()
    assert list((here / "model.report.run").glob("part-*.npz"))
    again, _, err = pipeline(*argv)
    assert again == 0, err
    assert "resuming from" in err
    assert not (here / "model.report.run").exists()
    digest = read_here().result_sha256
    assert pipeline(*argv)[0] == 0
    assert read_here().result_sha256 == digest


def test_what_another_command_left_is_set_aside_and_said(pipeline, here):
    (here / "model.report.run").mkdir()
    (here / "model.report.run" / "key").write_text("another's")
    code, _, err = pipeline("certify", "model.onnx", *FAST, "--eps", "1/255", "--no-attack")
    assert code == 0
    assert "it is cleared" in " ".join(err.split())
