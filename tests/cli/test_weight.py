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
path, absent, *argv = sys.argv[1:]
sys.modules |= dict.fromkeys(absent.split())  # importing one of them fails
from pipeline.cli.main import run
code = run(argv)
times, status = os.times(), dict(line.split(":", 1) for line in open("/proc/self/status"))
used = {"code": code, "modules": sorted(name for name, module in sys.modules.items() if module is not None)}
used |= {"seconds": times.user + times.system, "mebibytes": int(status["VmHWM"].split()[0]) / 1024}
open(path, "w").write(json.dumps(used))
"""
"""A command in a process of its own: what it imported, its CPU time and the most memory that it held."""
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """A report of the digits model, made once for all commands that read it."""
    folder = tmp_path_factory.mktemp("made")
    model = str(ROOT / "models" / "digits.onnx")
    few = ("--data", "digits", "--max-samples", "8", "--method", "ibp", "--eps", "1/20")
    assert run(["certify", model, *few, "--report", str(folder / "kept")]) == 0
    return folder / "kept"


def used(folder: Path, *argv: str, absent: tuple[str, ...] = ()) -> dict:
    command = [sys.executable, "-c", SCRIPT, "used.json", " ".join(absent), *argv]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "used.json").read_text()) | {"out": done.stdout, "err": done.stderr}


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
    taken = used(here, *(str(report) if word == "KEPT" else word for word in LIGHT[name]))
    assert taken["code"] == 0
    assert not set(HEAVY) & set(taken["modules"])
    assert taken["seconds"] < 3, "a second, on a machine that does nothing else"
    assert taken["mebibytes"] < 150


def test_doctor_says_what_is_installed_before_it_imports_what_may_not_start(here: Path) -> None:
    """Of a broken installation too: 74, after versions and remedies, and not a fault of the program."""
    taken = used(here, "doctor", absent=HEAVY)
    assert taken["code"] == 74
    assert "versions   python" in taken["out"]
    assert "cannot be imported" in taken["err"]
    assert taken["seconds"] < 3
    assert taken["mebibytes"] < 150


def test_the_help_imports_no_library_but_click(here: Path) -> None:
    """Its 0.2 s of CPU are for Python and click; numpy alone would take as long again."""
    taken = used(here, "--help")
    assert not {*HEAVY, "numpy", "scipy", "pydantic", "rich"} & set(taken["modules"])
    assert taken["seconds"] < 0.9, "0.3 s, on a machine that does nothing else"


def test_certify_imports_no_compiler_and_no_plotting_by_states(here: Path) -> None:
    """onnx2torch would import torchvision, which imports torch._dynamo, as torch's optimisers and vector-Jacobian products
    do; torch.broadcast_shapes would import SymPy, and matplotlib's backend pyplot."""
    few = ("--data", "digits", "--max-samples", "4", "--method", "complete", "--max-domains", "16", "--eps", "1/10")
    taken = used(here, "certify", "model.onnx", *few, "--report", "kept")
    assert taken["code"] == 0
    rungs = json.loads((here / "kept" / "report.json").read_text())["result"]["levels"][0]["rungs"]
    assert rungs[-1]["name"] == "complete"
    assert rungs[-1]["examined"], "every rung was climbed"
    assert {"torch", "onnx2torch", "matplotlib"} <= set(taken["modules"]), "the check can fail"
    assert not {"torchvision", "torch._dynamo", "sympy", "matplotlib.pyplot"} & set(taken["modules"])
