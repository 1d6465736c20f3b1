"""Commands as a user runs them, in a folder of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.cli.main import run

DIGITS = Path(__file__).resolve().parents[2] / "models" / "digits.onnx"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder with the digits model in it."""
    shutil.copyfile(DIGITS, tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
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
