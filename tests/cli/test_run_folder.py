"""What lies beside a report decides nothing, unless this user's own key says that this user's run left it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.cli.main import own_code_cache
from pipeline.data import load
from pipeline.results import read
from pipeline.system.seal import LENGTH
from pipeline.system.user_key import VARIABLE
from tests.cli.nursery import Nursery

EPS = "1/10"
CERTIFY = ("certify", "model.onnx", "--data", "npz:d.npz", "--eps", EPS, "--method", "ibp", "--report", "r")
RETRAIN = (
    "retrain",
    "model.onnx",
    "--data",
    "npz:d.npz",
    "--eps",
    "0.05",
    "--epochs",
    "3",
    "--no-attack",
    "--method",
    "ibp",
)


@pytest.fixture
def digits(here):
    data = load("digits", part="test")
    np.savez(here / "d.npz", x=data.images[:48], y=data.labels[:48])
    return here


def planted(folder: Path) -> None:
    """What a run that decided everything well would have left, without a code."""
    with np.load("d.npz") as data:
        x, y = data["x"], data["y"]
    rows, n = np.arange(len(y)), len(y)
    folder.mkdir(exist_ok=True)
    np.savez(
        folder / "part-0-000000.npz",
        **{
            "prediction/0:label": y.astype(np.int64), "prediction/0:classes": np.array(10), "prediction/0:rows": rows,
            f"pgd@{EPS}/0:broken": np.zeros(n, bool), f"pgd@{EPS}/0:points": np.zeros((0, *x.shape[1:]), np.float32),
            f"pgd@{EPS}/0:labels": y.astype(np.int64), f"pgd@{EPS}/0:rows": rows,
            f"ibp@{EPS}/0:margins": np.full(n, 2.5), f"ibp@{EPS}/0:real": np.full(n, 2.5), f"ibp@{EPS}/0:rows": rows,
        },
    )  # fmt: skip


def begun(nursery: Nursery, *argv: str, run: str) -> dict[str, bytes]:
    """What a command of the same user leaves in its folder when it is killed as soon as the folder says whose it is."""
    own = f"import os; os.environ[{VARIABLE!r}] = {os.environ[VARIABLE]!r}"
    process = nursery.start(Path.cwd(), *argv, before=own)
    while not (Path(run) / "key").exists():
        assert nursery.runs()
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    assert nursery.end().code == -signal.SIGKILL
    return {path.name: path.read_bytes() for path in Path(run).iterdir() if path.name != "lock"}


def test_planted_parts_decide_nothing_whatever_says_whose_they_are(digits, pipeline, nursery):
    argv = (*CERTIFY, "--fail-under", "certified=0.9")
    code, _, err = pipeline(*argv)
    assert code == 1, err
    honest = read(Path("r")).result_sha256
    key = begun(nursery, *argv, run="r.run")["key"]
    for told in (None, b"", key, key[:-1], read(Path("r")).result_sha256.encode()):
        shutil.rmtree("r.run", ignore_errors=True)
        planted(Path("r.run"))
        if told is not None:
            Path("r.run/key").write_bytes(told)
        code, _, err = pipeline(*argv)
        assert code == 1
        assert "no authentication code of yours" in " ".join(err.split())
        assert "resuming from" not in err
        assert read(Path("r")).result_sha256 == honest
        assert not Path("r.run").exists()


def test_what_another_command_of_ones_own_left_is_told_from_a_strangers(digits, pipeline, nursery):
    begun(nursery, *CERTIFY, "--seed", "1", run="r.run")
    code, _, err = pipeline(*CERTIFY)
    assert code == 0
    assert "settings or another version: it is cleared" in " ".join(err.split())


def test_a_folder_of_another_user_or_machine_is_cleared_and_said(digits, pipeline, nursery, monkeypatch):
    begun(nursery, *CERTIFY, run="r.run")
    monkeypatch.setenv(VARIABLE, "01" * 32)
    code, _, err = pipeline(*CERTIFY)
    assert code == 0
    assert "no authentication code of yours: it is cleared" in " ".join(err.split())


def test_without_a_key_a_run_works_keeps_nothing_and_says_so(digits, pipeline, monkeypatch):
    monkeypatch.delenv(VARIABLE)
    (digits / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(digits / "file"))
    monkeypatch.setenv("HOME", str(digits / "file"))
    planted(Path("r.run"))
    kept = Path("r.run/part-0-000000.npz").read_bytes()
    code, _, err = pipeline(*CERTIFY)
    assert code == 0
    assert "nothing is kept of a run that is stopped" in err
    assert Path("r.run/part-0-000000.npz").read_bytes() == kept, "what cannot be told from one's own is left alone"
    code, _, err = pipeline(*RETRAIN)
    assert code == 0, err
    assert "no checkpoint is kept" in err
    assert not Path("model.certified.onnx.run").exists()


REFUSED = [
    ("--fail-under", "certified@0.3=0.1"),
    ("--fail-under", "class:77:certified=0.1"),
    ("--eps", "0.1.2"),
    ("--data", "npz:absent.npz"),
    ("--baseline", "d.npz", "--max-regression", "certified=0.1"),
]


@pytest.mark.parametrize("flags", REFUSED, ids=" ".join)
def test_a_run_that_is_refused_leaves_no_folder(digits, pipeline, flags):
    code, _, err = pipeline(*CERTIFY, *flags)
    assert code in (2, 3), err
    assert not Path("r.run").exists()
    code, _, err = pipeline(*RETRAIN, *flags)
    assert code in (2, 3), err
    assert not list(digits.glob("*.run"))


@pytest.mark.parametrize("place", ["file", "file/below", "link", "fifo"])
def test_a_report_that_is_no_folder_is_refused_before_any_work(digits, pipeline, place):
    (digits / "file").write_text("somebody's")
    (digits / "link").symlink_to("nowhere")
    os.mkfifo(digits / "fifo")
    (digits / "p.vnnlib").write_text("(declare-const X_0 Real)")
    before = sorted(path.name for path in digits.iterdir())
    for argv in (CERTIFY, RETRAIN, ("certify", "model.onnx", "--property", "p.vnnlib")):
        code, _, err = pipeline(*argv, "--report", place)
        assert code == 2, err
        assert "--report is a folder" in err
    assert sorted(path.name for path in digits.iterdir()) == before
    assert (digits / "file").read_text() == "somebody's"


def test_a_run_folder_that_leads_elsewhere_is_refused_and_nothing_is_removed_there(digits, pipeline):
    mine = digits / "mine"
    mine.mkdir()
    (mine / "key").write_text("precious")
    Path("r.run").symlink_to(mine)
    assert pipeline(*CERTIFY)[0] == 2
    Path("r.run").unlink()
    Path("r.run").mkdir()
    Path("r.run/lock").symlink_to(mine / "key")
    assert pipeline(*CERTIFY)[0] == 2
    assert (mine / "key").read_text() == "precious"
    Path("r.run/lock").unlink()
    Path("r.run/notes.txt").write_text("precious")
    planted(Path("r.run"))
    assert pipeline(*CERTIFY)[0] == 0
    assert [path.name for path in Path("r.run").iterdir()] == ["notes.txt"]


def test_training_goes_on_from_no_checkpoint_that_is_not_ones_own(digits, pipeline, monkeypatch):
    run = Path("model.certified.onnx.run")
    code, _, err = pipeline(*RETRAIN)
    assert code == 0, err
    content = (run / "checkpoint.pt").read_bytes()
    own = {name: (run / name).read_bytes() for name in ("key", "checkpoint.pt", "finished.json")}
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    assert state["finished"]
    torch.save(state, "forged.pt")
    forged = {
        "checkpoint.pt": Path("forged.pt").read_bytes() + content[-LENGTH:],
        "finished.json": own["finished.json"].replace(b'"epoch": 3', b'"epoch": 2'),
        "key": own["key"].replace(b"a", b"b", 1),
    }
    for name, planted_ in forged.items():
        Path("model.certified.onnx").unlink(missing_ok=True)
        for other, mine in own.items():
            (run / other).write_bytes(mine)
        (run / name).write_bytes(planted_)
        code, _, err = pipeline(*RETRAIN)
        assert code == 2
        assert f"{name}: no authentication code of yours" in " ".join(err.split())
    code, _, err = pipeline(*RETRAIN, "--force")
    assert code == 0, err
    assert "going on from the checkpoint" not in err
    code, _, err = pipeline(*RETRAIN)
    assert code == 0
    assert "nothing is trained" in err
    monkeypatch.setenv(VARIABLE, "01" * 32)
    assert pipeline(*RETRAIN)[0] == 2, "another user's, or another machine's"


def test_compiled_code_lies_in_a_folder_of_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    own_code_cache()
    place = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert place.is_relative_to(tmp_path)
    assert place.stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/somewhere")
    own_code_cache()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/somewhere"


def test_a_record_holds_what_a_run_did(digits, pipeline):
    assert pipeline(*RETRAIN)[0] == 0
    text = Path("model.certified.onnx.run/finished.json").read_text()
    told, _, code = text.rpartition("\nhmac-sha256 ")
    assert json.loads(told)["epoch"] == 3
    assert len(code) == 130
