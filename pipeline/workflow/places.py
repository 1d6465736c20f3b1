"""Where results go unless the user says otherwise."""

from __future__ import annotations

from pathlib import Path


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
