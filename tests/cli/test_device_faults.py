"""A device that fails, or refuses memory, in the middle of a run: 74 and a sentence, and the same command goes on.

Without a GPU the errors are raised that PyTorch raises for one. On a GPU they are real: an assertion on the device, after which
it answers nothing more, and an allocator that is allowed little.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.results import read
from tests.cli.nursery import Nursery
from tests.cli.test_faults import CERTIFY, COMMANDS, RETRAIN, ROOT, model_in

CUDA = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))

FAULTS = {
    "told": "raise getattr(torch, 'AcceleratorError', RuntimeError)('CUDA error: unspecified launch failure')",
    "real": "torch.zeros(1, device='cuda')[torch.tensor([9], device='cuda')]",
}
WHERE = {"retrain": "pipeline.train.step.Trainer.step", "certify": "pipeline.bounds.margins.MarginBounds.least"}
AFTER = """
import importlib, itertools, sys, torch
where, calls = {where!r}.rsplit(".", 2), itertools.count()
owner = getattr(importlib.import_module(where[0]), where[1])
whole = getattr(owner, where[2])

def failing(*args, **kwargs):
    if next(calls) == {calls}:
        {fault}
    return whole(*args, **kwargs)

setattr(owner, where[2], failing)
"""
"""Puts a fault into the call of that number."""
LITTLE = """
import sys, torch
torch.cuda.set_per_process_memory_fraction({mib} * 2**20 / torch.cuda.get_device_properties(0).total_memory)
"""


def run(nursery: Nursery, folder: Path, argv: list[str], device: str, before: str = "") -> tuple[int, str]:
    """Exit code and standard error of a command, in a process in which ``before`` runs first."""
    if device == "cpu":
        ended = nursery.run(folder, *argv, "--device", device, before=before)
        return ended.code, ended.err
    script = f"import sys\n{before}\nfrom pipeline.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, *argv, "--device", device]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("device", "fault"), [("cpu", "told"), pytest.param("cuda", "real", marks=CUDA)], ids=["told", "real"]
)
@pytest.mark.parametrize(("name", "calls"), [("retrain", 15), ("certify", 1)])
def test_a_device_that_is_gone(
    name: str, calls: int, device: str, fault: str, nursery: Nursery, tmp_path: Path
) -> None:
    argv, report = COMMANDS[name]
    folder = model_in(tmp_path)
    code, err = run(nursery, folder, argv, device, AFTER.format(where=WHERE[name], calls=calls, fault=FAULTS[fault]))
    assert code == 74, err
    assert "the device failed" in err
    assert "Traceback" not in err
    assert not (folder / report / "report.json").exists()
    assert not (folder / "model.certified.onnx").exists()
    code, err = run(nursery, folder, argv, device)
    assert code == 0, err
    if name == "retrain":
        assert "going on from the checkpoint" in err
    read(folder / report)


@pytest.mark.parametrize("mib", [pytest.param(n, marks=CUDA) for n in (256, 128)])
def test_where_a_batch_does_not_fit_its_halves_are_certified(mib: int, nursery: Nursery, tmp_path: Path) -> None:
    """The workspace of cuBLAS alone takes 32 MiB. Products of other sizes round otherwise: verdicts are compared, not margins."""
    argv = [*CERTIFY, "--method", "crown"]
    code, err = run(nursery, model_in(tmp_path), argv, "cuda")
    assert code == 0, err
    whole = [level.verdicts for level in read(tmp_path / "model.report").result.levels]
    code, err = run(nursery, tmp_path, [*argv, "--report", "other.report"], "cuda", LITTLE.format(mib=mib))
    assert code == 0, err
    assert [level.verdicts for level in read(tmp_path / "other.report").result.levels] == whole


@pytest.mark.parametrize("argv", [pytest.param(c, marks=CUDA, id=c[0]) for c in (RETRAIN, CERTIFY)])
def test_a_device_with_too_little_memory_is_said(argv: list[str], nursery: Nursery, tmp_path: Path) -> None:
    code, err = run(nursery, model_in(tmp_path), argv, "cuda", LITTLE.format(mib=2))
    assert code == 74, err
    assert "too little memory" in err
    assert run(nursery, tmp_path, argv, "cuda")[0] == 0
