"""Fuzzing guided by coverage, where atheris is installed: it sees what code a file reaches, and finds what is wrong there."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

PLANTED = """
from tests.fuzz import coverage
from pipeline.vnnlib import parser
honest = parser.parse
def parse(text):
    assert "Y_0 Y_0" not in text, "planted where no seed leads"
    return honest(text)
parser.parse = parse
coverage.main()
"""


def test_a_planted_fault_is_found_and_kept(tmp_path, pytestconfig, monkeypatch):
    pytest.importorskip("atheris")
    monkeypatch.setenv("PYTHONPATH", str(pytestconfig.rootpath), prepend=":")
    command = [sys.executable, "-c", PLANTED, "vnnlib", "-runs=20000", "-seed=1"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    log = ran.stderr
    assert ran.returncode != 0
    assert "planted where no seed leads" in ran.stdout, log[-3000:]
    reached = [int(found) for found in re.findall(r"\t(?:INITED|NEW) .* ft: (\d+)", log)]
    assert reached[-1] > reached[0] > 100
    (kept,) = (tmp_path / ".fuzz").glob("crash-*")
    assert b"Y_0 Y_0" in kept.read_bytes()
    assert len(list((tmp_path / ".fuzz" / "vnnlib").iterdir())) > 3
