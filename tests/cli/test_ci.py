"""What a delivery pipeline acts on: gates against a baseline, exit codes, ``status.json``; never 0 for nothing checked."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline.cli import summary
from pipeline.cli.main import run
from pipeline.data import load
from pipeline.results import read

ROOT = Path(__file__).resolve().parents[2]
FAST = ("--data", "digits", "--max-samples", "40", "--method", "ibp", "--no-attack")
RUN = ("certify", "model.onnx", *FAST, "--eps", "1/1000")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report of the digits model."""
    folder = tmp_path_factory.mktemp("made") / "kept"
    assert run(["certify", str(ROOT / "models" / "digits.onnx"), *RUN[2:], "--report", str(folder)]) == 0
    return folder


@pytest.fixture
def baseline(made, here):
    """That report, put aside as a job would."""
    return Path(shutil.copytree(made, here / "kept"))


@pytest.fixture
def worse(here):
    """The same model with noisy first weights."""
    model = onnx.load(here / "model.onnx")
    first = next(n for n in model.graph.node if n.op_type == "Conv").input[1]
    for tensor in model.graph.initializer:
        if tensor.name == first:
            weights = onnx.numpy_helper.to_array(tensor)
            noise = np.random.default_rng(0).normal(0, 4 * weights.std(), weights.shape)
            tensor.CopyFrom(onnx.numpy_helper.from_array((weights + noise).astype(np.float32), first))
    onnx.save(model, here / "worse.onnx")
    return "worse.onnx"


def status(here, folder="model.report"):
    return json.loads((here / folder / "status.json").read_text())


def test_the_same_model_has_not_regressed_and_a_worse_one_has(pipeline, here, baseline, worse):
    gates = ("--baseline", "kept", "--max-regression", "certified=0.01", "--max-regression", "natural=0")
    code, out, err = pipeline(*RUN, *gates)
    assert code == 0, err
    assert "0 lost" in out
    same, natural = read(here / "model.report").result.gates
    assert (same.observed, same.baseline.p_value, natural.passed) == ("0.0000", "1", True)
    assert same.baseline.result_sha256 == read(baseline).result_sha256

    code, _, _ = pipeline("certify", worse, *RUN[2:], *gates)
    assert code == 1
    gate = read(here / "worse.report").result.gates[0]
    assert gate.passed is False
    assert gate.baseline.k - gate.baseline.lost + gate.baseline.gained == gate.k
    ended = status(here, "worse.report")
    assert ended["exit_code"] == 1
    assert "lost" in ended["reason"]
    assert ended["result_sha256"] == read(here / "worse.report").result_sha256


def test_a_drop_that_is_not_significant_is_reported_and_passes(pipeline, here, baseline, worse):
    gates = ("--baseline", "kept/report.json", "--max-regression", "certified=0.01", "--significance", "1e-12")
    assert pipeline("certify", worse, *RUN[2:], *gates)[0] == 0
    gate = read(here / "worse.report").result.gates[0]
    assert gate.baseline.lost - gate.baseline.gained > 0.01 * gate.n
    assert float(gate.baseline.p_value) > 1e-12


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("--max-samples", "41"), "samples"),
        (("--seed", "1"), "samples"),
        (("--eps", "1/500"), "run at 1/1000"),
        (("--arithmetic", "real"), "arithmetic"),
        (("--mean", "0", "--std", "1"), "preprocessing"),
        (("--norm", "l2"), "threat"),
        (("--data", "npz:other.npz"), "data"),
    ],
)
def test_a_baseline_of_something_else_is_refused_with_what_differs(pipeline, here, baseline, change, says):
    digits = load("digits", part="test")
    images = digits.images.copy()
    images[0, 0, 0] = 1 - images[0, 0, 0]
    np.savez(here / "other.npz", x=images, y=digits.labels)
    code, out, err = pipeline(*RUN, *change, "--baseline", "kept", "--max-regression", "certified=1")
    assert (code, out) == (3, ""), err
    assert says in err
    assert not (here / "model.report").exists()


def test_another_proof_is_said(pipeline, baseline):
    gates = ("--baseline", "kept", "--max-regression", "certified=0.5")
    code, _, err = pipeline(*RUN, "--method", "crown-ibp", *gates)
    assert code == 0
    assert "another proof" in err


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (("--baseline", "kept"), 2, "--max-regression"),
        (("--max-regression", "certified=0.1"), 2, "--baseline"),
        (("--significance", "0.05"), 2, "--max-regression"),
        (("--gate-on", "lower-ci"), 2, "--fail-under"),
        (("--baseline", "kept", "--max-regression", "class:3:certified=0.1"), 2, "METRIC[@EPS]=DROP"),
        (("--baseline", "kept", "--max-regression", "certified@1/3=0.1"), 2, "not run"),
        (("--baseline", "kept", "--max-regression", "attacked=0.1"), 2, "attack"),
        (("--baseline", "kept", "--max-regression", "certified=0.1", "--significance", "5"), 2, "between 0 and 1"),
        (("--baseline", "", "--max-regression", "certified=0.1"), 2, "--baseline"),
        (("--baseline", "absent", "--max-regression", "certified=0.1"), 2, "absent"),
        (("--baseline", "kept", "--max-regression", "certified=0.1", "--report", "kept"), 2, "another folder"),
        (("--require-parity", "0.1"), 2, "0.0001"),
        (("--require-parity", "tight"), 2, "require-parity"),
        (("--require-parity", "1e-999999999"), 2, "require-parity"),
        (("--fail-under", ""), 2, "--fail-under"),
        (("--arithmetic", "none", "--fail-under", "certified=0"), 2, "certifies nothing"),
    ],
)  # fmt: skip
def test_gates_that_mean_nothing_are_refused(pipeline, here, baseline, argv, code, says):
    before = (baseline / "report.json").read_bytes()
    got, out, err = pipeline(*RUN, *argv)
    assert (got, out) == (code, ""), err
    assert says in err
    assert (baseline / "report.json").read_bytes() == before


def test_a_baseline_that_was_tampered_with_or_cut_short_is_refused(pipeline, here, baseline):
    gates = ("--baseline", "kept", "--max-regression", "certified=0.1")
    samples = (baseline / "samples.npz").read_bytes()
    (baseline / "samples.npz").write_bytes(samples[:-1] + bytes([samples[-1] ^ 1]))
    assert pipeline(*RUN, *gates)[0] == 5
    assert pipeline(*RUN, "--time-budget", "0", "--report", "kept")[0] == 4
    code, _, err = pipeline(*RUN, *gates)
    assert code == 3
    assert "undecided" in err


def test_parity_is_a_gate(pipeline, here):
    assert pipeline(*RUN, "--require-parity", "1e-5")[0] == 0
    gate = read(here / "model.report").result.gates[0]
    assert (gate.kind, gate.comparator, gate.k) == ("require-parity", "<=", gate.n)
    code, out, _ = pipeline(*RUN, "--require-parity", "0")
    assert code == 1
    assert "FAIL  parity" in out
    assert status(here)["reason"].startswith("failed: parity")


def test_all_gates_come_from_the_toml_and_flags_win(pipeline, here, baseline):
    (here / "pipeline.toml").write_text(
        'fail_under = "certified=0.1"\ngate_on = "lower-ci"\nbaseline = "kept"\nmax_regression = ["certified=0.01"]\n'
        "significance = 0.05\nrequire_parity = 1e-5\n"
    )
    assert pipeline(*RUN)[0] == 0
    floor, drop, parity = read(here / "model.report").result.gates
    assert (floor.on, drop.baseline.significance, parity.threshold) == ("lower-ci", "1/20", "1e-05")
    value = floor.k / floor.n
    assert pipeline(*RUN, "--fail-under", f"certified={value:.4f}")[0] == 1, "the lower end lies below the value"
    assert pipeline(*RUN, "--fail-under", f"certified={value:.4f}", "--gate-on", "value")[0] == 0


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (("--fail-under", "natural=0.5"), 0, "passed: natural"),
        ((), 0, "no gate"),
        (("--fail-under", "natural=1"), 1, "natural"),
        (("--fail-under", "certified@1/3=0.1"), 2, "not run"),
        (("--data", "npz:bad.npz"), 3, "bad.npz"),
        (("--data", "npz:none.npz"), 4, "no samples"),
        (("--time-budget", "0"), 4, "nothing was checked"),
        (("--time-budget", "0", "--fail-under", "certified=0.1"), 4, "undecided"),
    ],
)
def test_every_end_is_in_the_status(pipeline, here, argv, code, says):
    (here / "bad.npz").write_bytes(b"no archive")
    np.savez(here / "none.npz", x=np.zeros((0, 8, 8), np.uint8), y=np.zeros(0, np.int64))
    (here / "out").mkdir()
    (here / "out" / "status.json").write_text('{"exit_code": 0}')
    got, _, err = pipeline(*RUN, *argv, "--report", "out")
    assert got == code, err
    ended = status(here, "out")
    assert (ended["exit_code"], ended["command"]) == (code, "certify")
    assert says in ended["reason"]
    assert (ended["result_sha256"] is None) == (not (here / "out" / "report.json").exists())


def test_a_mistyped_command_leaves_nothing_behind(pipeline, here):
    assert pipeline("certify", "absent.onnx", *FAST, "--eps", "0.1")[0] == 3
    assert [path.name for path in here.iterdir()] == ["model.onnx"]


def test_a_killed_run_is_not_taken_for_the_one_before(pipeline, here, monkeypatch):
    assert pipeline(*RUN)[0] == 0

    def killed(*_):
        assert not (here / "model.report" / "status.json").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.commands.certification.open_model", killed)
    assert pipeline(*RUN)[0] == 130
    assert status(here)["exit_code"] == 130


@pytest.mark.slow
def test_under_torchrun_the_code_stands_in_the_status(here):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m", "pipeline"]
    done = subprocess.run(
        [*launch, *RUN, "--data", "npz:absent.npz"], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 1, "torchrun's own"
    assert status(here)["exit_code"] == 2
    assert "absent.npz" in status(here)["reason"]


def test_of_several_processes_one_writes_the_status(pipeline, here, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert pipeline(*RUN, "--data", "npz:absent.npz", "--report", "out")[0] == 2
    assert not (here / "out").exists()


@pytest.mark.parametrize(
    "argv",
    [
        ("--time-budget", "0"),
        ("--arithmetic", "none"),
        ("--arithmetic", "none", "--time-budget", "0"),
        ("--time-budget", "0", "--fail-under", "certified=0"),
        ("--time-budget", "0", "--fail-under", "natural=0.5", "--fail-under", "certified=0"),
        ("--max-samples", "0"),
        ("--eps", ""),
        ("--data", "npz:none.npz"),
    ],
)
def test_nothing_checked_is_never_0(pipeline, here, argv):
    np.savez(here / "none.npz", x=np.zeros((0, 8, 8), np.uint8), y=np.zeros(0, np.int64))
    assert pipeline(*RUN, *argv)[0] in (2, 4)


def test_a_floor_of_zero_is_nowhere_said_to_be_passed_where_nothing_was_checked(pipeline, here):
    assert pipeline(*RUN, "--time-budget", "0", "--fail-under", "certified=0")[0] == 4
    assert status(here)["reason"] == "nothing was checked"
    assert "Nothing was checked" in pipeline("report", "model.report", "--md", "-")[1]
    assert "anything checked" in pipeline("report", "model.report", "--junit", "-")[1]
    assert pipeline("verify", "model.report")[0] == 0


def test_retrain_is_held_to_the_same_gates_and_leaves_file_and_report(pipeline, here):
    short = ("retrain", "model.onnx", "--data", "digits", "--eps", "0.05", "--epochs", "2", "--no-attack")
    assert (
        pipeline("certify", "model.onnx", "--data", "digits", "--eps", "0.05", "--method", "ibp", "--no-attack")[0] == 0
    )
    shutil.move(here / "model.report", here / "kept")
    gates = (
        "--baseline",
        "kept",
        "--max-regression",
        "natural=0",
        "--fail-under",
        "natural=0.9",
        "--gate-on",
        "lower-ci",
    )
    code, _, err = pipeline(*short, *gates, "--require-parity", "1e-5")
    assert code == 1, err
    assert (here / "model.certified.onnx").exists()
    result = read(here / "model.certified.report").result
    assert [gate.kind for gate in result.gates] == ["fail-under", "max-regression", "require-parity"]
    assert status(here, "model.certified.report")["exit_code"] == 1


def test_a_failed_gate_and_an_error_are_annotations_where_github_runs_them(pipeline, monkeypatch):
    failing = (*RUN, "--fail-under", "certified=0.999", "--format", "json")
    assert "::error" not in pipeline(*failing)[2]
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    code, out, err = pipeline(*failing)
    assert code == 1
    assert json.loads(out)["kind"] == "certification", "standard output stays JSON"
    (line,) = [line for line in err.splitlines() if line.startswith("::error")]
    assert line == "::error title=Gate failed%3A certified=0.999::certified@1/1000 0.8000 < 0.999 (32 of 40)"
    code, _, err = pipeline("certify", "absent.onnx", "--eps", "1/255")
    assert code == 3
    assert "::error title=pipeline ended with exit code 3::" in err


def test_what_annotations_hold_cannot_end_them_or_begin_others(capsys, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    summary.annotate("a,b:c%", "x\n::warning::y%0A\r")
    assert capsys.readouterr().err == "::error title=a%2Cb%3Ac%25::x%0A::warning::y%250A%0D\n"


def test_quiet_says_nothing_and_verbose_how_long_each_phase_took(pipeline, here):
    code, out, err = pipeline("--quiet", *RUN)
    assert (code, out, err) == (0, "", "")
    assert json.loads(pipeline("--quiet", *RUN, "--format", "json")[1])["kind"] == "certification"
    _, out, err = pipeline("-v", *RUN)
    assert out
    assert re.search(r"done: IBP.*: 40 in \d+\.\d s", err)


def test_a_mistyped_command_is_answered_with_the_nearest(pipeline):
    code, _, err = pipeline("certfy", "model.onnx")
    assert code == 2
    assert "Did you mean 'certify'?" in err
