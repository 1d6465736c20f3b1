"""What a command imports: those that need no tensors start at once and in little memory, and none imports what it never uses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli.main import run

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "onnx", "onnxruntime", "matplotlib")
SCRIPT = """
import json, os, sys
from pipeline.cli.main import run
code = run(sys.argv[2:])
times = os.times()
told = {"code": code, "modules": sorted(sys.modules), "seconds": times.user + times.system}
open(sys.argv[1], "w").write(json.dumps(told))
"""
"""A command in a process of its own, and what it imported."""


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """A report of the digits model, made once for all commands that read it."""
    folder = tmp_path_factory.mktemp("made")
    model = str(ROOT / "models" / "digits.onnx")
    few = ("--data", "digits", "--max-samples", "8", "--method", "ibp", "--eps", "1/20")
    assert run(["certify", model, *few, "--report", str(folder / "kept")]) == 0
    return folder / "kept"


def told(folder: Path, *argv: str) -> dict:
    command = [sys.executable, "-c", SCRIPT, "told.json", *argv]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "told.json").read_text())


LIGHT = {
    "help": ("--help",),
    "help of retrain": ("retrain", "--help"),
    "schema": ("schema",),
    "init": ("init", "github", "--data", "digits", "--install", "pipeline @ git+https://example.org/a/b@c0ffee"),
    "report": ("report", "KEPT", "--md", "-", "--junit", "gates.xml", "--intoto", "statement.json"),
    "compare": ("compare", "KEPT", "KEPT"),
    "verify": ("verify", "KEPT"),
}


@pytest.mark.parametrize("name", LIGHT)
def test_a_command_that_needs_no_tensors_imports_none(name: str, report: Path, here: Path) -> None:
    found = told(here, *(str(report) if word == "KEPT" else word for word in LIGHT[name]))
    assert found["code"] == 0
    assert not set(HEAVY) & set(found["modules"])
    assert found["seconds"] < 3, "a second, on a machine that does nothing else"


def test_certify_imports_no_compiler_and_no_plotting_by_states(here: Path) -> None:
    """onnx2torch would import torchvision, which imports torch._dynamo; matplotlib's backend would import pyplot."""
    few = ("--data", "digits", "--max-samples", "4", "--method", "ibp", "--no-attack", "--eps", "1/1000")
    found = told(here, "certify", "model.onnx", *few)
    assert found["code"] == 0
    assert {"torch", "onnx2torch", "matplotlib"} <= set(found["modules"]), "the check can fail"
    assert not {"torchvision", "torch._dynamo", "matplotlib.pyplot"} & set(found["modules"])
