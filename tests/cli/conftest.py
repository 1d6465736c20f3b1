"""Commands as a user runs them, in a folder of their own."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.cli.main import run

if TYPE_CHECKING:
    from tests.cli.nursery import Nursery

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def here(tmp_path, monkeypatch, drawn_once):
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


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Starts commands as processes at once. One for all tests: it imports everything, which takes seconds of CPU."""
    if os.name != "posix":
        pytest.skip("processes that fork")
    from tests.cli.nursery import Nursery

    one = Nursery(ROOT)
    yield one
    one.close()


TERMINATED, INTERRUPTED = (signal.SIGTERM, 75), (signal.SIGINT, 130)


@pytest.fixture(params=[TERMINATED, pytest.param(INTERRUPTED, marks=pytest.mark.slow)], ids=["SIGTERM", "SIGINT"])
def stopped(here, nursery, request):
    """``stopped(begun, *argv)`` runs a command and stops it once there is a file like ``begun``; it must say so and exit."""
    number, code = request.param

    def call(begun: str, *argv: str, before: str = "") -> None:
        process = nursery.start(here, *argv, before=before)
        while not list(here.glob(begun)) and nursery.runs():
            time.sleep(0.005)
        with suppress(ProcessLookupError):
            os.kill(process, number)
        ended = nursery.end()
        assert ended.code == code, ended.err

    return call
