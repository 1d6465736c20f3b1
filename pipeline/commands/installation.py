"""What is installed: versions, packages that are absent or in conflict, telemetry. None of them is imported for it."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec

from packaging.requirements import Requirement

from pipeline import package
from pipeline.system import telemetry

PACKAGES = ("torch", "onnx", "onnx2torch", "numpy")
OPTIONAL = {
    "torchvision": "data by torchvision:NAME",
    "datasets": "data by hf:NAME",
    "pyarrow": "data by parquet:PATH",
    "pandas": "RunReport.to_pandas",
}
"""Optional packages, and what they are needed for."""


@dataclass(frozen=True)
class Installation:
    """What can be known without importing a package that computes."""

    versions: dict[str, str]
    telemetry: dict[str, str]
    """For each package with telemetry, whether it may send events."""
    absent: tuple[str, ...]
    """The packages of ``OPTIONAL`` that are not installed."""
    problems: tuple[str, ...]
    """A sentence for each problem, and how to mend it."""

    @classmethod
    def here(cls) -> Installation:
        """Of the Python that runs."""
        return cls(
            versions={"python": platform.python_version(), **{p: _version(p) for p in PACKAGES}}
            | {name: _version(name) for name in _runtimes()},
            telemetry={package: telemetry.describe(package) for package in telemetry.OPT_OUT},
            absent=tuple(package for package in OPTIONAL if find_spec(package) is None),
            problems=(*conflicting_runtimes(), *outdated()),
        )


def conflicting_runtimes() -> tuple[str, ...]:
    """A sentence where several distributions of ONNX Runtime are installed: they share a folder and overwrite each other."""
    names = _runtimes()
    if len(names) < 2:
        return ()
    keep = next((name for name in names if name.endswith("-gpu")), names[0])
    return (f"{', '.join(names)} overwrite each other: pip uninstall -y {' '.join(names)} && pip install {keep}",)


def outdated() -> tuple[str, ...]:
    """A sentence for each required package that is absent, or has a version that this program does not accept."""
    sentences = []
    for text in _requirements():
        required = Requirement(text)
        if required.marker is not None and not required.marker.evaluate({"extra": ""}):
            continue
        name, specifier = required.name, required.specifier
        installed = _version(name)
        if installed == "none" or not specifier.contains(installed, prereleases=True):
            sentences.append(f"{name} {installed} is installed, {specifier} needed: pip install '{name}{specifier}'")
    return tuple(sentences)


def _requirements() -> list[str]:
    found = package.found()
    return [] if found is None else found.requires or []


def _runtimes() -> list[str]:
    """The distributions of ONNX Runtime."""
    return sorted(set(packages_distributions().get("onnxruntime", ())))


def _version(name: str) -> str:
    """The version of a distribution, or ``none``."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
