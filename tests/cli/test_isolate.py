"""``--isolate``: the same report from a child, and a sentence where the child is ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from pipeline.cli import isolate
from pipeline.errors import InputRejected

pytestmark = pytest.mark.skipif(not isolate.supported(), reason="no limits on this system")
CERTIFY = [
    "certify",
    "model.onnx",
    "--data",
    "digits",
    "--max-samples",
    "4",
    "--eps",
    "1/255",
    "--method",
    "ibp",
    "--format",
    "json",
]


def pipeline(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != "CI"} | environment
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *argv], capture_output=True, text=True, env=env, timeout=300
    )


@pytest.mark.slow
def test_a_child_writes_the_same_report_and_imports_nothing_that_lies_around(here):
    (here / "numpy.py").write_text("open('executed', 'w')")
    apart = subprocess.run(
        [sys.executable, "-P", "-m", "pipeline", *CERTIFY],
        capture_output=True, text=True, env=os.environ | {"CI": "true"}, timeout=300,
    )  # fmt: skip
    assert apart.returncode == 0, apart.stderr
    assert not (here / "executed").exists()
    (here / "numpy.py").unlink()
    alone = pipeline(*CERTIFY)
    a, b = json.loads(apart.stdout), json.loads(alone.stdout)
    assert a["result"] == b["result"]
    assert a["run"]["argv"] == b["run"]["argv"] == CERTIFY


def test_a_child_that_takes_too_long_is_a_rejected_input(here):
    done = pipeline("--isolate", "--isolate-time", "1s", *CERTIFY)
    assert done.returncode == 3, done.stderr
    assert "ends within 1 s" in done.stderr
    assert not (here / "model.report" / "report.json").exists()


def instead(does: str) -> str:
    """A child whose command does this."""
    return (
        "import click, os, sys, pipeline.cli; m = sys.modules['pipeline.cli.main'];"
        f"m.Lazy.get_command = lambda *a: click.Command('c', callback=lambda: {does}); m.main()"
    )


def test_a_child_that_takes_too_much_memory_is_a_rejected_input(capfd, here):
    assert isolate.run(["c"], isolate.Walls(2**30, 60.0), code=instead("bytearray(2**31)")) == 3
    assert "at most 1073741824 bytes of memory" in capfd.readouterr().err


def test_a_child_that_a_library_ends_is_a_rejected_input(here):
    with pytest.raises(InputRejected, match="signal SIGSEGV"):
        isolate.run(["c"], isolate.Walls(2**32, 60.0), code=instead("os.kill(os.getpid(), 11)"))


@pytest.mark.parametrize(
    ("asked", "environment", "expected"),
    [
        (None, {}, False),
        (None, {"CI": "true"}, True),
        (False, {"CI": "true"}, False),
        (True, {}, True),
        (True, {isolate.INSIDE: "1"}, False),
    ],
)
def test_when_it_is_wanted(asked, environment, expected):
    assert isolate.is_isolated(asked, environment) is expected
