"""The program knows its own distribution, and takes no other project's of the same name for it."""

from __future__ import annotations

import tomllib
from importlib.metadata import EntryPoint, PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import package

ROOT = Path(__file__).resolve().parents[1]


def test_the_name_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["name"] == package.NAME
    assert project["scripts"] == {"pipeline": package._COMMAND}
    assert package.version() == project["version"]


@pytest.mark.parametrize(("command", "known"), [("pipeline.cli:main", True), ("pipeline.main:run", False)])
def test_another_project_of_that_name_is_not_taken_for_it(monkeypatch, command: str, known: bool) -> None:
    other = SimpleNamespace(version="9", entry_points=[EntryPoint("pipeline", command, "console_scripts")])

    def installed(name: str) -> SimpleNamespace:
        if name != "pipeline":
            raise PackageNotFoundError(name)
        return other

    monkeypatch.setattr(package, "distribution", installed)
    assert package.version() == ("9" if known else "unknown")
