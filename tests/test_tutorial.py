"""The package's docstring is its tutorial: it runs as it stands."""

from __future__ import annotations

import doctest
import shutil
from pathlib import Path

import pytest

import pipeline

DIGITS = Path(__file__).resolve().parent.parent / "models" / "digits.onnx"


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path, monkeypatch):
    shutil.copyfile(DIGITS, tmp_path / "digits.onnx")
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(pipeline)
    assert result.attempted > 10
    assert result.failed == 0
