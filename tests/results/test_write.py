"""Files: whole or as they were; strangers' text: fit to be shown."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import Contradiction, EnvironmentFailure
from pipeline.results import read, read_samples, write
from pipeline.results.text import clean, percent


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_three_files_that_agree(make_report: Callable, make_samples: Callable, tmp_path: Path) -> None:
    report, samples = make_report(), make_samples()
    page = write(report, samples, tmp_path / "new" / "a.report", page="")
    assert set(contents(page.parent)) == {"report.json", "report.html", "samples.npz"}
    assert read_samples(page.parent / "samples.npz", read(page.parent).result.samples).content == samples.content
    with pytest.raises(Contradiction):
        write(report, make_samples(n=50), tmp_path, page="")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_there(
    make_report: Callable, make_samples: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    write(make_report(), make_samples(), tmp_path, page="")
    before = contents(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(EnvironmentFailure, match="No space left"):
        write(make_report(("1/255",)), make_samples(("1/255",)), tmp_path, page="")
    assert contents(tmp_path) == before, "nothing replaced, no temporary file left"


def test_a_folder_that_cannot_be_is_an_environment_failure(make_report: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentFailure, match="--report"):
        write(make_report(), None, tmp_path / "file" / "report", page="")


def test_strangers_text_is_made_plain(hostile_name: str) -> None:
    assert clean("a\tb\nc\x1b[1;31md\x07\u202ee\u200b") == "a b cde"
    assert len(clean(hostile_name)) == 200
    assert clean("x" * 200) == "x" * 200
    assert clean("x" * 201).endswith("…")


@pytest.mark.parametrize(
    ("value", "shown"), [("0.3127", "31.27 %"), ("1.0000", "100.00 %"), ("0.0000", "0.00 %"), ("0.0540", "5.40 %")]
)
def test_percent_moves_the_point(value: str, shown: str) -> None:
    assert percent(value) == shown
