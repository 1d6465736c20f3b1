"""``pipeline doctor``: what this machine can promise, what is wrong with it, and the one thing to do about each fault."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import torch
from packaging.requirements import Requirement

from pipeline.bounds.float32_sites import self_test
from pipeline.certify import Progress
from pipeline.commands.events import Note
from pipeline.commands.facts import version_of
from pipeline.errors import EnvironmentFailure, PipelineError, UsageError
from pipeline.onnx import kernel_table, runtime
from pipeline.onnx.kernel_sweep import PATTERNS, Measured, measure
from pipeline.onnx.kernels import OPERATORS
from pipeline.onnx.runtime import threads
from pipeline.system import telemetry

PACKAGES = ("torch", "onnx", "onnx2torch", "numpy")
OPTIONAL = {
    "torchvision": "data by torchvision:NAME",
    "datasets": "data by hf:NAME",
    "pyarrow": "data by parquet:PATH",
    "pandas": "RunReport.to_pandas",
}
"""Packages that some users need, and what for."""


@dataclass(frozen=True)
class Diagnosis:
    """The environment as certificates see it."""

    versions: dict[str, str]
    providers: tuple[str, ...]
    cuda: str | None
    """The name of the CUDA device, None where torch sees none."""
    threads: tuple[int, int]
    """(cores this process may use, threads torch uses)."""
    fault: str | None
    """Why float64 or the kernel table cannot be trusted here, or None."""
    table: kernel_table.KernelTable
    file: Path
    ignored: str | None
    """Why a stored table was not used."""
    telemetry: dict[str, str] = field(default_factory=dict)
    """Of each package that has any, whether it may send events."""
    absent: tuple[str, ...] = ()
    """Of ``OPTIONAL``, those that are not installed."""
    remedies: tuple[str, ...] = ()
    """One sentence for each thing to mend."""

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """Operators that ``float32-any-order`` refuses on this machine."""
        return tuple(name for name in OPERATORS if name not in self.table.operators)


@dataclass(frozen=True)
class KernelMeasurement:
    """One finished measurement, and where it was stored: nowhere for a sample."""

    operator: str
    measured: Measured
    file: Path | None


def diagnose() -> Diagnosis:
    """Look at versions, devices, float64 and the stored kernel table; changes nothing."""
    table, ignored = kernel_table.load()
    try:
        self_test()
        kernel_table.spot_check(table, table.operators)
        fault = None
    except EnvironmentFailure as error:
        fault = str(error)
    return Diagnosis(
        versions={"python": platform.python_version(), **{p: version_of(p) for p in PACKAGES}}
        | {"onnxruntime": table.build.onnxruntime},
        providers=kernel_table.providers(),
        cuda=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        threads=(threads(), torch.get_num_threads()),
        fault=fault,
        table=table,
        file=kernel_table.file(),
        ignored=ignored,
        telemetry={package: telemetry.describe(package) for package in telemetry.OPT_OUT},
        absent=tuple(package for package in OPTIONAL if find_spec(package) is None),
        remedies=remedies(),
    )


def measure_kernels(
    operators: Sequence[str], *, sample: int | None = None
) -> Iterator[Note | Progress | KernelMeasurement]:
    """Measure kernels at every float32 and store each as it is done; a ``sample`` is shown and not stored.

    Raises UsageError (2) for an operator that is no function of one number, EnvironmentFailure (74) for a kernel that is not
    finite where its function is, and where there is no key to keep a measurement under.
    """
    unknown = [name for name in operators if name not in OPERATORS]
    if unknown:
        raise UsageError(f"{', '.join(unknown)} cannot be measured; choose from {', '.join(OPERATORS)}.")
    if sample is not None and not 1 <= sample <= PATTERNS:
        raise UsageError(f"--sample takes between 1 and {PATTERNS} points; received {sample}.")
    for name in operators:
        told = False
        for event in measure(name, count=sample or PATTERNS):
            if isinstance(event, Measured):
                yield KernelMeasurement(name, event, None if sample else kernel_table.store(name, event))
                continue
            if not told and event.done >= min(event.total, 1 << 22):
                told = True
                yield Note(f"{name}: {event.total} inputs, about {max(1, round(event.seconds / 60))} min")
            yield Progress(f"kernel {name}", event.done, event.total)


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
