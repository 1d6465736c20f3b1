"""Where results go unless the user says otherwise."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import UsageError


def of_certification(model: Path) -> Path:
    """The report folder of ``certify``: in the working folder, named after the model."""
    return Path(f"{model.stem}.report")


def of_property(property_file: Path) -> Path:
    """The report folder of ``certify --property``: in the working folder, named after the property."""
    return Path(f"{property_file.name.partition('.vnnlib')[0]}.report")


def retrained(model: Path) -> Path:
    """The file that ``retrain`` writes: beside the one given."""
    return model.with_name(f"{model.stem}.certified.onnx")


def of_retraining(out: Path) -> Path:
    """The report folder of ``retrain``: beside the file written."""
    return out.with_name(f"{out.stem}.report")


def require_folder(folder: Path) -> None:
    """Before any work: a report can be put there, or a folder made for it. Raises UsageError (2)."""
    there = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), Path())
    if not there.is_dir():
        raise UsageError(f"--report is a folder, and {there} is something else; name another, or move that away.")
