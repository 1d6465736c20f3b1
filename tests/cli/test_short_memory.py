"""Memory that is too short to load the libraries is the environment's fault: 74, and not the code of a failed gate."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli.beginning import ready
from pipeline.cli.main import _clean

resource = pytest.importorskip("resource")
MODEL = Path(__file__).resolve().parents[2] / "models" / "digits.onnx"


@pytest.mark.parametrize("mebibytes", [120, 400])
def test_address_space_that_no_library_fits_into(mebibytes: int, tmp_path: Path) -> None:
    most = mebibytes * 2**20
    made = subprocess.run(
        [sys.executable, "-m", "pipeline", "certify", str(MODEL), "--data", "digits", "--eps", "1/100"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (most, most)),
    )
    assert made.returncode == 74
    assert made.stderr.startswith("pipeline: this process may take ")


@pytest.mark.parametrize("said", ["libtorch.so: failed to map segment from shared object", "can't start new thread"])
def test_a_library_that_does_not_load(said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, ready():
        raise ImportError(said)
    assert ended.value.code == 74
    assert said in capsys.readouterr().err


def test_any_other_fault_of_loading_is_shown() -> None:
    with pytest.raises(ImportError, match="no such module"), ready():
        raise ImportError("no such module")


def test_a_message_is_told_where_what_cleans_it_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pipeline.results", None)
    with pytest.raises(ImportError):
        _clean("\x1b[31mred")
    monkeypatch.setattr(sys.modules["pipeline.cli.main"], "out_of_memory", lambda error: True)
    assert _clean("\x1b[31mred\nline") == "?[31mred\nline"
