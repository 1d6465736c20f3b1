"""What is wrong with an environment, and the one thing to do about each."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from importlib.resources import files

import torch
from packaging.requirements import Requirement

from pipeline.errors import PipelineError
from pipeline.graph import kernel_table, runtime


def remedies() -> tuple[str, ...]:
    """A sentence a fault: what was found, and how to mend it. Empty where there is nothing to mend."""
    return (*flavours(), *outdated(), *fallen_back())


def flavours() -> tuple[str, ...]:
    """Several distributions share the folder of ONNX Runtime: whichever was installed last has overwritten the others."""
    found = sorted(set(packages_distributions().get("onnxruntime", ())))
    if len(found) < 2:
        return ()
    keep = next((name for name in found if name.endswith("-gpu")), found[0])
    names = " ".join(found)
    return (f"{', '.join(found)} overwrite each other: pip uninstall -y {names} && pip install {keep}",)


def outdated() -> tuple[str, ...]:
    """Packages that are older than this program asks for, or absent."""
    told = []
    for text in _requirements():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            have = version(wanted.name)
        except PackageNotFoundError:
            have = "none"
        if have == "none" or not wanted.specifier.contains(have, prereleases=True):
            told.append(
                f"{wanted.name} {have} is installed, {wanted.specifier} needed: pip install '{wanted.name}{wanted.specifier}'"
            )
    return tuple(told)


def fallen_back() -> tuple[str, ...]:
    """A GPU that torch sees and ONNX Runtime does not use: it falls back to the CPU without a word."""
    if not torch.cuda.is_available():
        return ()
    if "CUDA" not in kernel_table.providers():
        return ("torch sees a GPU and this ONNX Runtime has no CUDA provider: pip install onnxruntime-gpu",)
    try:
        runtime.session((files("pipeline.data") / "digits.onnx").read_bytes(), provider="cuda")
    except PipelineError as error:
        return (f"ONNX Runtime does not run on the GPU that torch sees: {error}",)
    return ()


def _requirements() -> list[str]:
    try:
        return requires("pipeline") or []
    except PackageNotFoundError:
        return []
