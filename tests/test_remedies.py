"""What ``pipeline doctor`` finds wrong with an installation, shown installations that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import package
from pipeline.commands.installation import conflicting_runtimes, outdated


@pytest.fixture
def install(tmp_path, monkeypatch):
    """``install(name, version, *lines)`` puts a distribution's record where Python finds it first."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(name: str, version: str, *, package: str | None = None, requires: tuple[str, ...] = ()) -> Path:
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        needs = "".join(f"Requires-Dist: {text}\n" for text in requires)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        (folder / "top_level.txt").write_text(f"{package or name}\n")
        return folder

    return put


def test_two_flavours_of_onnx_runtime_overwrite_each_other(install):
    before = conflicting_runtimes()
    install("onnxruntime-gpu", "1.31.0", package="onnxruntime")
    install("onnxruntime", "1.31.0", package="onnxruntime")
    (told,) = conflicting_runtimes()
    assert before == ()
    assert told.endswith("pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu")


def test_what_is_too_old_or_absent_is_named_with_its_fix(install):
    needs = ("click>=8", "numpy>=999", "no-such-package>=1", "other>=1; extra == 'dev'")
    folder = install(package.NAME, "9", package="pipeline", requires=needs)
    (folder / "entry_points.txt").write_text("[console_scripts]\npipeline = pipeline.cli:main\n")
    old, absent = outdated()
    assert old.endswith("pip install 'numpy>=999'")
    assert absent.startswith("no-such-package none is installed")


def test_nothing_is_wrong_with_what_was_installed_as_the_project_asks():
    assert outdated() == ()
