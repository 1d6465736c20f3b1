"""Commands as a user runs them, in a folder of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.cli.main import run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder with the digits model in it; processes started there run this tree."""
    shutil.copyfile(ROOT / "models" / "digits.onnx", tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


@pytest.fixture
def pipeline(here, capsys):
    """``pipeline(...)`` runs a command line and gives (exit code, standard output, standard error)."""

    def call(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(a) for a in argv])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(params=[(signal.SIGTERM, 75), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"])
def stopped(here, request):
    """``stopped(run, *argv)`` runs a command and stops it soon after its folder ``run`` is there; it must say so and exit."""
    if os.name != "posix":
        pytest.skip("signals")
    number, code = request.param

    def call(run: str, *argv: str) -> None:
        command = [sys.executable, "-m", "pipeline", *argv]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while not (here / run / "key").exists() and process.poll() is None:
            time.sleep(0.02)
        time.sleep(0.3)
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
        assert process.returncode == code, err

    return call
