"""The distribution of this program: pip knows it as ``onnx-certify``, import and command are ``pipeline``."""

from __future__ import annotations

from importlib.metadata import Distribution, PackageNotFoundError, distribution

NAME = "onnx-certify"
_COMMAND = "pipeline.cli:main"


def found() -> Distribution | None:
    """The installed distribution; None where the package runs from a folder that was never installed.

    Until it had its own name it was ``pipeline``, which is that of another project as well: its command tells them apart.
    """
    for name in (NAME, "pipeline"):
        try:
            candidate = distribution(name)
        except PackageNotFoundError:
            continue
        if any(entry.value == _COMMAND for entry in candidate.entry_points):
            return candidate
    return None


def version() -> str:
    """The version that is installed, or ``unknown``."""
    package = found()
    return "unknown" if package is None else package.version
