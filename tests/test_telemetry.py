"""No library beneath sends anything: system calls are traced, and HOME and TMPDIR are folders of the test's own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.data import load

ROOT = Path(__file__).resolve().parent.parent
SPOKEN_TO = re.compile(
    r"sa_family=AF_INET6?, sin6?_port=htons\((\d+)\), .*?inet_(?:addr\(|pton\(AF_INET6, )\"([^\"]+)\""
)
RESOLVER = "/run/systemd/resolve"
LOOPBACK = re.compile(r"127\.|::1$|::ffff:127\.")
# Where one of these is set, ONNX Runtime sends nothing of its own accord: a test that it sends something would fail.
BUILD_SERVERS = ("CI", "GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "TF_BUILD", "JENKINS_URL", "TRAVIS", "APPVEYOR")
SECONDS = 15
"""How long a process lives: ONNX Runtime sends nine seconds after it was loaded."""


@dataclass(frozen=True)
class Traces:
    """Addresses outside this machine that a process spoke to, and files that it left below HOME and TMPDIR."""

    addresses: frozenset[str]
    files: frozenset[str]


@pytest.fixture
def traced(tmp_path):
    """``traced(source, **environment)`` runs Python source under strace, without any opt-out but those stated."""
    strace = shutil.which("strace")
    if strace is None or subprocess.run([strace, "-o", "/dev/null", "true"], check=False).returncode:
        pytest.skip("strace, and leave to trace")

    def run(source: str, **environment: str) -> Traces:
        folders = {name: tmp_path / name for name in ("HOME", "TMPDIR")}
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        opted = (
            "ORT_",
            "HF_",
            "XDG_",
            "MPLCONFIGDIR",
            "DO_NOT_TRACK",
            "DISABLE_TELEMETRY",
            "PIPELINE_",
            *BUILD_SERVERS,
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith(opted)}
        said = kept | {name: str(path) for name, path in folders.items()} | {"PYTHONPATH": str(ROOT)} | environment
        log = tmp_path / "trace"
        command = [strace, "-f", "-qq", "-e", "trace=network", "-o", str(log), sys.executable, "-c", source]
        done = subprocess.run(command, env=said, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        text = log.read_text("utf-8", "replace")
        # A question to a resolver on this machine is one to the network.
        found = {a for port, a in SPOKEN_TO.findall(text) if port == "53" or not LOOPBACK.match(a)}
        found |= {RESOLVER} if RESOLVER in text else set()
        files = {str(p.relative_to(tmp_path)) for f in folders.values() for p in f.rglob("*") if p.is_file()}
        return Traces(frozenset(found), frozenset(files))

    return run


def runtime_sends(traced) -> bool:
    """Whether this build of ONNX Runtime has telemetry: then it leaves files as soon as it is loaded."""
    return bool(traced("import onnxruntime").files)


def test_onnx_runtime_leaves_nothing_where_pipeline_is_imported_first(traced):
    assert traced("import pipeline, onnxruntime") == Traces(frozenset(), frozenset())
    if not runtime_sends(traced):
        pytest.skip("this build of ONNX Runtime has no telemetry, so that nothing can be seen to be switched off")
    assert traced("import pipeline, onnxruntime", ORT_DISABLE_TELEMETRY="0").files, "what the user says holds"
    assert traced("import pipeline, onnxruntime", ORT_DISABLE_TELEMETRY="") == Traces(frozenset(), frozenset())


@pytest.mark.slow
def test_whole_commands_speak_to_nobody(traced, tmp_path):
    """Slow, since what is sent is sent some seconds after ONNX Runtime was loaded: both processes are waited for."""
    shutil.copyfile(ROOT / "models" / "digits.onnx", tmp_path / "m.onnx")
    digits = load("digits", part="test")
    np.savez(tmp_path / "d.npz", x=digits.images[:64], y=digits.labels[:64])
    commands = [
        "doctor",
        "inspect m.onnx",
        "certify m.onnx --data npz:d.npz --eps 1/255 --method ibp",
        "retrain m.onnx --data npz:d.npz --eps 1/255 --epochs 1 --no-attack",
        "verify m.report --model m.onnx --data npz:d.npz --recheck 2",
    ]
    source = f"""
import time
from pipeline.cli.main import run
assert [run(command.split()) for command in {commands!r}] == [0] * {len(commands)}
import datasets, huggingface_hub
assert huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY
time.sleep({SECONDS})
"""
    traces = traced(source)
    assert not traces.addresses
    # The two that SECURITY.md names.
    allowed = r"HOME/\.cache/matplotlib/fontlist-[\w.-]+\.json|HOME/\.local/state/pipeline/key"
    assert all(re.fullmatch(allowed, name) for name in traces.files), traces.files
    if not runtime_sends(traced):
        pytest.skip("this build of ONNX Runtime has no telemetry, so that nothing can be seen to be switched off")
    control = f"import onnxruntime, time; onnxruntime.InferenceSession('m.onnx'); time.sleep({SECONDS})"
    assert traced(control).addresses, "the same trace sees what ONNX Runtime sends by default"


LATE = """
import sys, types, warnings
sys.modules["onnxruntime"] = types.ModuleType("onnxruntime")
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    import pipeline
from pipeline.system.telemetry import describe
print(len(said), describe("onnxruntime"))
"""


@pytest.mark.parametrize(
    ("value", "says"),
    [(None, "1 onnxruntime was loaded before this program"), ("1", "0 off by"), ("0", "0 on, as the environment asks")],
)
def test_a_library_that_was_loaded_before_is_told(value, says):
    environment = {name: v for name, v in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"PYTHONPATH": str(ROOT)} | ({} if value is None else {"ORT_DISABLE_TELEMETRY": value})
    out = subprocess.run(
        [sys.executable, "-c", LATE], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert out.startswith(says)


def test_generated_and_own_jobs_switch_it_off():
    jobs = ROOT / "pipeline" / "commands" / "jobs"
    assert yaml.safe_load((jobs / "github.yml").read_text())["jobs"]["certify"]["env"]["ORT_DISABLE_TELEMETRY"] == "1"
    assert yaml.safe_load((jobs / "gitlab.yml").read_text())["certify"]["variables"]["ORT_DISABLE_TELEMETRY"] == "1"
    assert yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["env"]["ORT_DISABLE_TELEMETRY"] == "1"
    steps = yaml.safe_load((ROOT / ".github/actions/certify/action.yml").read_text())["runs"]["steps"]
    assert any('export ORT_DISABLE_TELEMETRY="${ORT_DISABLE_TELEMETRY:-1}"' in step.get("run", "") for step in steps)
