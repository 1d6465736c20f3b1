"""``pipeline doctor``: checks what certificates depend on here, beyond what is installed (``installation.py``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch

from pipeline.bounds.float32_sites import self_test
from pipeline.certify import Progress
from pipeline.commands.events import Note
from pipeline.errors import EnvironmentFailure, PipelineError, UsageError
from pipeline.onnx import kernel_table, runtime
from pipeline.onnx.kernel_sweep import PATTERNS, Measured, measure
from pipeline.onnx.kernels import OPERATORS
from pipeline.onnx.runtime import threads


@dataclass(frozen=True)
class Diagnosis:
    """The runtime, devices and arithmetic of this machine."""

    providers: tuple[str, ...]
    cuda: str | None
    """The name of the CUDA device, None where torch sees none."""
    threads: tuple[int, int]
    """(cores that this process may use, threads that torch uses)."""
    fault: str | None
    """Why float64 arithmetic or the kernel table is wrong on this machine, or None."""
    table: kernel_table.KernelTable
    file: Path
    ignored: str | None
    """Why the stored kernel table was not used, or None."""
    problems: tuple[str, ...] = ()
    """A sentence for each problem with a device, and how to mend it."""

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """Operators that ``float32-any-order`` refuses on this machine."""
        return tuple(name for name in OPERATORS if name not in self.table.operators)


@dataclass(frozen=True)
class KernelMeasurement:
    """The measurement of one kernel, and the file that it was stored in (None for a sample)."""

    operator: str
    measured: Measured
    file: Path | None


def diagnose() -> Diagnosis:
    """Check devices, float64 arithmetic and the stored kernel table; changes nothing."""
    table, ignored = kernel_table.load()
    try:
        self_test()
        kernel_table.spot_check(table, table.operators)
        fault = None
    except EnvironmentFailure as error:
        fault = str(error)
    return Diagnosis(
        providers=kernel_table.providers(),
        cuda=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        threads=(threads(), torch.get_num_threads()),
        fault=fault,
        table=table,
        file=kernel_table.file(),
        ignored=ignored,
        problems=unused_gpu(),
    )


def measure_kernels(
    operators: Sequence[str], *, sample: int | None = None
) -> Iterator[Note | Progress | KernelMeasurement]:
    """Measure the errors of kernels at every float32, and store each; with ``sample``, at that many inputs and not stored.

    Raises UsageError (2) for an operator that is not a function of one number, EnvironmentFailure (74) for a kernel that is not
    finite where its function is, and where the user has no key to authenticate a stored measurement.
    """
    unknown = [name for name in operators if name not in OPERATORS]
    if unknown:
        raise UsageError(f"{', '.join(unknown)} cannot be measured; choose from {', '.join(OPERATORS)}.")
    if sample is not None and not 1 <= sample <= PATTERNS:
        raise UsageError(f"--sample takes between 1 and {PATTERNS} points; received {sample}.")
    for name in operators:
        announced = False
        for event in measure(name, count=sample or PATTERNS):
            if isinstance(event, Measured):
                yield KernelMeasurement(name, event, None if sample else kernel_table.store(name, event))
                continue
            if not announced and event.done >= min(event.total, 1 << 22):
                announced = True
                yield Note(f"{name}: {event.total} inputs, about {max(1, round(event.seconds / 60))} min")
            yield Progress(f"kernel {name}", event.done, event.total)


def unused_gpu() -> tuple[str, ...]:
    """A sentence where torch sees a GPU that ONNX Runtime does not use: it silently falls back to the CPU."""
    if not torch.cuda.is_available():
        return ()
    if "CUDA" not in kernel_table.providers():
        return ("torch sees a GPU and this ONNX Runtime has no CUDA provider: pip install onnxruntime-gpu",)
    try:
        runtime.session((files("pipeline.data") / "digits.onnx").read_bytes(), provider="cuda")
    except PipelineError as error:
        return (f"ONNX Runtime does not run on the GPU that torch sees: {error}",)
    return ()
