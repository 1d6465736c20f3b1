"""Switches off the telemetry of the libraries in use, before any of them is loaded.

ONNX Runtime's wheels from version 1.29 on send events about sessions, models and errors, and leave an identifier of the device
in the user's cache and a file in the folder for temporary files. The variable counts only if it is set before the library is
loaded; then this process and those that it starts send nothing. What the user has set stays.
"""

from __future__ import annotations

import os
import sys
import warnings

OPT_OUT = {"onnxruntime": "ORT_DISABLE_TELEMETRY", "huggingface_hub": "HF_HUB_DISABLE_TELEMETRY"}
"""For each package the environment variable that switches its telemetry off."""
YES = ("1", "true", "yes", "on")


def _switch_off() -> tuple[str, ...]:
    """Set the variables that the user has not set, and return the packages that were loaded before."""
    late = []
    for package, variable in OPT_OUT.items():
        if not os.environ.get(variable):
            os.environ[variable] = "1"
            if package in sys.modules:
                late.append(package)
    return tuple(late)


LATE = _switch_off()
"""Packages that were loaded before this one, with telemetry at its default: on."""


def describe(package: str) -> str:
    """Whether a package of ``OPT_OUT`` may send events from this process, and what to do about it, in a sentence."""
    variable = OPT_OUT[package]
    value = os.environ.get(variable, "")
    if package in LATE:
        return (
            f"{package} was loaded before this program, without {variable}=1, and may send events to its maker; "
            f"import pipeline first, or set {variable}=1 before Python starts"
        )
    if value.lower() not in YES:
        return f"on, as the environment asks by {variable}={value}: {package} may send events to its maker"
    return f"off by {variable}={value}"


for _package in LATE:
    warnings.warn(describe(_package), stacklevel=2)
