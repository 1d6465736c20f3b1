"""Measured kernel errors, kept for each user: a table belongs to one ONNX Runtime build on one kind of processor."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pipeline.errors import EnvironmentFailure
from pipeline.onnx.kernels import OPERATORS, PATTERNS, Measured, measure, on_runtime

SCHEMA = 1
SPOTS = 1 << 14
"""Inputs of a spot check, some milliseconds a kernel."""
CPUINFO = Path("/proc/cpuinfo")
# What kernels are chosen by: vector and fused instructions, on x86, ARM and POWER.
_INSTRUCTIONS = re.compile(r"(sse|ssse|avx|fma|f16c|amx|neon|asimd|sve|sme(2|_|$)|bf16|fphp|altivec|vsx)")


@dataclass(frozen=True)
class Machine:
    """What a kernel's result may depend on besides its input."""

    onnxruntime: str
    build: str
    wheel: str
    """The distribution, and the digest of its native library."""
    processor: str
    instructions: tuple[str, ...]

    @property
    def key(self) -> str:
        """A file name for it."""
        return _digest({"schema": SCHEMA, **asdict(self)})[:16]


@dataclass(frozen=True)
class KernelTable:
    """The measured operators of one machine."""

    machine: Machine
    operators: Mapping[str, Measured] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 over machine and figures: reports name it."""
        return _digest(asdict(self))

    @property
    def errors(self) -> dict[str, tuple[float, float]]:
        """(absolute, relative) by operator, as ``Outward.kernels`` takes them."""
        return {name: (m.absolute, m.relative) for name, m in self.operators.items()}


_TABLE = TypeAdapter(KernelTable)


@cache
def here() -> Machine:
    """The ONNX Runtime and the processor of this process."""
    import onnxruntime as ort

    fields = _cpuinfo()
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    name = fields.get("model name") or platform.processor() or platform.machine()
    return Machine(
        onnxruntime=ort.__version__,
        build=ort.get_build_info(),
        wheel=_wheel(),
        processor=f"{name} ({platform.machine()})",
        instructions=tuple(sorted({f for f in flags if _INSTRUCTIONS.match(f)})),
    )


def providers() -> tuple[str, ...]:
    """The execution providers that this build of ONNX Runtime has, whether or not a device is there."""
    import onnxruntime as ort

    return tuple(name.removesuffix("ExecutionProvider") for name in ort.get_available_providers())


def folder() -> Path:
    """``PIPELINE_CACHE``, else ``XDG_CACHE_HOME/pipeline``, else ``~/.cache/pipeline``; tables lie in ``kernels``."""
    own = os.environ.get("PIPELINE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(own) if own else (Path(base) if base else Path.home() / ".cache") / "pipeline") / "kernels"


def load(machine: Machine | None = None) -> tuple[KernelTable, str | None]:
    """The table of this machine, empty where there is none, and why a file that is there was ignored."""
    machine = machine or here()
    path = folder() / f"{machine.key}.json"
    if not path.exists():
        return KernelTable(machine), None
    try:
        written = json.loads(path.read_text("utf-8"))
        claimed, schema = written.pop("sha256"), written.pop("schema")
        table = _TABLE.validate_python(written)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        return KernelTable(machine), f"the kernel table {path} was ignored: it cannot be read ({type(error).__name__})"
    reason = _fault(table, machine, schema, claimed)
    return (table, None) if reason is None else (KernelTable(machine), f"the kernel table {path} was ignored: {reason}")


def store(operator: str, measured: Measured) -> Path:
    """Add one exhaustive measurement to this machine's table, atomically; a partial one is refused."""
    if measured.patterns != PATTERNS:
        raise ValueError(f"only all {PATTERNS} patterns make a table; {measured.patterns} were tried")
    table, _ = load()
    table = replace(table, operators={**table.operators, operator: measured})
    path = folder() / f"{table.machine.key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False, encoding="utf-8") as file:
        json.dump({"schema": SCHEMA, **asdict(table), "sha256": table.digest}, file, indent=2)
    Path(file.name).replace(path)
    return path


def spot_check(table: KernelTable, operators: Iterable[str]) -> None:
    """Run each kernel at a few thousand inputs against its stored error; EnvironmentFailure (74) where it errs by more."""
    for name in (o for o in operators if o in table.operators):
        kept, run = table.operators[name], on_runtime(name)
        *_, seen = measure(name, count=SPOTS, full=run, rest=run)
        assert isinstance(seen, Measured)
        if seen.absolute > kept.absolute or seen.relative > kept.relative:
            raise EnvironmentFailure(
                f"{name} errs by {max(seen.absolute, seen.relative):.3g} here, and the kernel table says at most "
                f"{kept.absolute:.3g} + {kept.relative:.3g} |f|; run `pipeline doctor --measure-kernels {name}` again."
            )


def _fault(table: KernelTable, machine: Machine, schema: object, claimed: object) -> str | None:
    """Why a table that was read must not be used."""
    if schema != SCHEMA or table.machine != machine:
        return "it was made for another ONNX Runtime, processor or schema"
    if table.digest != claimed:
        return "its digest does not match what it says"
    for name, m in table.operators.items():
        if name not in OPERATORS or m.patterns != PATTERNS or not (0 <= m.absolute < 1 and 0 <= m.relative < 1):
            return f"its entry for {name!r} is no exhaustive measurement"
    return None


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _cpuinfo() -> dict[str, str]:
    """The first processor of ``/proc/cpuinfo``, where the system has one."""
    try:
        first = CPUINFO.read_text("utf-8", "replace").split("\n\n")[0]
    except OSError:
        return {}
    return {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in first.splitlines())}


def _wheel() -> str:
    for name in ("onnxruntime-gpu", "onnxruntime"):
        try:
            files = distribution(name).files or ()
        except PackageNotFoundError:
            continue
        native = next((f for f in files if "onnxruntime_pybind11_state" in f.name and f.hash), None)
        return f"{name} {native.hash.value if native and native.hash else ''}".strip()
    return "not installed as a wheel"
