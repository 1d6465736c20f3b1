"""``--devices N``: one command in several processes, with the exit code and the result of one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline.cli.devices import _verdict
from pipeline.results import read

CERTIFY = (
    "certify",
    "model.onnx",
    "--data",
    "digits",
    "--eps",
    "1/255",
    "--method",
    "crown-ibp",
    "--max-samples",
    "80",
)
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", "-m", "pipeline"]
DATA = ["retrain", "model.onnx", "--data", "digits", "--eps", "0.05", "--no-attack", "--max-samples", "20"]
RETRAIN = [*DATA, "--epochs", "300", "--report", "told"]
posix = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")


def begun(*argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *argv, "--devices", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def training(*argv: str) -> tuple[subprocess.Popen[str], str]:
    """The command once it trains, and what it said until then."""
    process, told = begun(*argv), ""
    assert process.stderr is not None
    for line in process.stderr:
        told += line
        if line.split()[:2] == ["epoch", "eps"]:
            return process, told
    raise AssertionError(told)


def workers(process: subprocess.Popen[str]) -> dict[int, int]:
    """The processes that it started: rank and id."""

    def found() -> Iterator[tuple[int, int]]:
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            settings = dict(pair.partition("=")[::2] for pair in Path(f"/proc/{child}/environ").read_text().split("\0"))
            yield int(settings["RANK"]), int(child)

    return dict(found())


def ended(pid: int) -> bool:
    """Whether a process is gone, or only waits for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def status(folder: Path) -> dict[str, object]:
    return json.loads((folder / "status.json").read_text("utf-8"))


def test_a_gate_that_fails_gives_its_code_and_the_result_of_one_process(pipeline, here):
    """Over 5 s of CPU: a launcher and two processes, each of which imports PyTorch."""
    argv = (*CERTIFY, "--fail-under", "certified=1")
    process = begun(*argv)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 1, err
    assert out.count("provably robust") == 1, "one process prints"
    assert status(here / "model.report")["exit_code"] == 1
    assert not (here / "model.report.run").exists()
    shared = read(here / "model.report").result_sha256
    assert pipeline(*argv)[0] == 1
    assert read(here / "model.report").result_sha256 == shared


@pytest.mark.slow
@posix
def test_a_stopped_run_goes_on_and_ends_where_a_process_is_killed(here):
    """Over 5 s of CPU: two runs of two processes, each of which imports PyTorch and is told by its own signals."""
    process, _ = training(*RETRAIN)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 75, err
    assert status(here / "told")["exit_code"] == 75
    checkpoint = here / "model.certified.onnx.run" / "checkpoint.pt"
    kept = torch.load(checkpoint, weights_only=True)

    process, told = training(*RETRAIN)
    assert "going on from the checkpoint" in told
    ours = workers(process)
    assert sorted(ours) == [0, 1]
    os.kill(ours[1], signal.SIGKILL)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 74, err
    assert "process 1 of this run was ended by SIGKILL" in err
    assert "SIGKILL" in str(status(here / "told")["reason"])
    assert status(here / "told")["exit_code"] == 74
    left = torch.load(checkpoint, weights_only=True)
    assert (left["epoch"], left["step"]) >= (kept["epoch"], kept["step"])
    assert left["configuration"] == kept["configuration"]
    assert all(ended(pid) for pid in ours.values())


@posix
@pytest.mark.slow
def test_processes_stop_where_their_launcher_is_killed(here):
    process, _ = training(*RETRAIN)
    ours = workers(process)
    process.kill()
    process.communicate(timeout=600)
    until = time.monotonic() + 60
    while not all(ended(pid) for pid in ours.values()) and time.monotonic() < until:
        time.sleep(0.1)
    assert all(ended(pid) for pid in ours.values())
    assert (here / "model.certified.onnx.run" / "checkpoint.pt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("argv", [CERTIFY, [*DATA, "--epochs", "8"]], ids=["certify", "retrain"])
def test_under_torchrun(here, argv):
    done = subprocess.run([*TORCHRUN, *argv], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("provably robust") == 1
    assert len(list(here.glob("*.report/status.json"))) == 1


def test_what_is_not_shared_out_is_refused(pipeline, here, monkeypatch):
    assert pipeline("certify", "model.onnx", "--property", "none.vnnlib", "--devices", "2")[0] == 2
    assert pipeline(*CERTIFY, "--devices", "0")[0] == 2
    monkeypatch.setenv("RANK", "0")
    code, _, err = pipeline(*CERTIFY, "--devices", "2")
    assert code == 2
    assert "--nproc-per-node" in err


@pytest.mark.parametrize(
    ("codes", "asked", "code", "rank"),
    [
        ([0, 0], [], 0, 0),
        ([1, 1], [], 1, 0),
        ([75, 75], [signal.SIGTERM], 75, 0),
        ([74, 6, 6], [], 6, 1),
        ([74, 74, 70], [], 70, 2),
        ([74, -9], [], 74, 1),
        ([-9, 74], [], 74, 0),
        ([None, 74], [], 74, 1),
        ([None, -11], [], 74, 1),
        ([0, 74], [], 74, 1),
        ([-15, 75], [signal.SIGTERM], 75, 1),
        ([-15, None], [signal.SIGTERM], 75, 0),
        ([-2, None], [signal.SIGINT], 130, 0),
    ],
)
def test_the_code_is_that_of_the_cause(codes, asked, code, rank):
    assert _verdict(codes, asked) == (code, rank)
