"""Tables of kernel errors: those shipped for builds of ONNX Runtime, and those that the user has measured.

A kernel is identified by its code: the native library that Python loaded, the vector instructions by which that chooses its code,
and the C library's mathematics where it calls them. Errors of another build are never used.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path

from platformdirs import user_state_path
from pydantic import TypeAdapter, ValidationError

from pipeline.errors import EnvironmentFailure
from pipeline.onnx.kernel_sweep import PATTERNS, Measured, contradiction
from pipeline.onnx.kernels import OPERATORS
from pipeline.system.seal import Foreign, Seal
from pipeline.system.user_key import user_key

SCHEMA = 2
SHIPPED = "kernel_tables.json"
CPUINFO, MAPS = Path("/proc/cpuinfo"), Path("/proc/self/maps")
# The instruction sets by which float32 code is chosen: on x86 these alone, since others (VNNI, AMX, BF16) only add integer and
# half-precision instructions; elsewhere every vector extension.
_X86 = ("avx", "avx2", "f16c", "fma", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx10_1", "avx10_2")
_OTHER = re.compile(r"(neon|asimd|sve|sme(2|_|$)|fphp|altivec|vsx)")


@dataclass(frozen=True)
class Build:
    """Everything that a kernel's output may depend on besides its input."""

    onnxruntime: str
    runtime_sha256: str
    """SHA-256 of the native library that Python loads."""
    instructions: str
    """The architecture, and the vector instructions by which kernels are chosen."""
    libm: str = ""
    """SHA-256 of the C library's mathematics; empty in a table whose kernels do not call them."""

    @property
    def key(self) -> str:
        """The stem of the name of this build's file."""
        return hashlib.sha256(json.dumps({"schema": SCHEMA, **asdict(self)}, sort_keys=True).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"ONNX Runtime {self.onnxruntime} on CPU, library SHA-256 {self.runtime_sha256}, {self.instructions}"

    def runs_as(self, other: Build) -> bool:
        """Whether a table of this build holds for the other."""
        return replace(self, libm="") == replace(other, libm="") and self.libm in ("", other.libm)


@dataclass(frozen=True)
class KernelTable:
    """The measured errors of kernels on one build, by operator."""

    build: Build
    operators: Mapping[str, Measured] = field(default_factory=dict)
    shipped: frozenset[str] = frozenset()
    """The operators whose errors came with this program."""
    alone: frozenset[str] = frozenset()
    """The operators known not to call the C library's mathematics."""

    def libm(self, operators: Iterable[str]) -> str | None:
        """The digest of the C library's mathematics if one of these operators may call them, else None."""
        return None if self.alone.issuperset(operators) else self.build.libm

    def errors(self, operators: Iterable[str]) -> dict[str, tuple[float, float]]:
        """(absolute, relative) by operator, as ``Outward.kernels`` takes them."""
        return {name: (self.operators[name].absolute, self.operators[name].relative) for name in operators}


_TABLES = TypeAdapter(list[KernelTable])


@cache
def here() -> Build:
    """The build of this process."""
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as native

    return Build(ort.__version__, _sha256(Path(native.__file__)), _instructions(), _libm())


def providers() -> tuple[str, ...]:
    """The execution providers of this ONNX Runtime, whether or not their devices are there."""
    import onnxruntime as ort

    return tuple(name.removesuffix("ExecutionProvider") for name in ort.get_available_providers())


def folder() -> Path:
    """The folder of the user's own measurements: ``kernels`` in the user's folder for state."""
    return user_state_path("pipeline", appauthor=False) / "kernels"


def file() -> Path:
    """The file of the user's own measurements on this build."""
    return folder() / f"{here().key}.json"


@cache
def shipped() -> tuple[KernelTable, ...]:
    """The tables that came with this program, of all builds."""
    content = json.loads(files("pipeline.onnx").joinpath(SHIPPED).read_text("utf-8"))
    return tuple(_TABLES.validate_python(content["tables"]))


def load() -> tuple[KernelTable, str | None]:
    """The table of this build, and why the user's own file was ignored, or None."""
    build = here()
    tables = [table for table in shipped() if table.build.runs_as(build)]
    from_program = {name: m for table in tables for name, m in table.operators.items()}
    alone = frozenset(name for table in tables if not table.build.libm for name in table.operators)
    own, ignored = _own_measurements(build)
    return KernelTable(build, {**own, **from_program}, frozenset(from_program), alone), ignored


def store(operator: str, measured: Measured) -> Path:
    """Add an exhaustive measurement to the user's own of this build, authenticated by the user's key; returns the file.

    Raises ValueError for a partial measurement, EnvironmentFailure (74) where there is no key or the file cannot be written.
    """
    if measured.patterns != PATTERNS:
        raise ValueError(f"only all {PATTERNS} patterns make a table; {measured.patterns} were tried")
    seal, path = _seal(), file()
    if isinstance(seal, str):
        raise EnvironmentFailure(f"A measurement is kept under the user's key, and there is none: {seal}.")
    own, _ = _own_measurements(here())
    table = KernelTable(here(), {**own, operator: measured})
    content = {"schema": SCHEMA, "tables": [{"build": asdict(table.build), "operators": _plain(table)}]}
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        seal.write(path, json.dumps(content, indent=2).encode())
    except OSError as error:
        raise EnvironmentFailure(f"{path} cannot be written: {error.strerror or error}.") from None
    return path


def spot_check(table: KernelTable, operators: Iterable[str]) -> None:
    """Compare each kernel at some thousand inputs with its table, bit by bit; EnvironmentFailure (74) names one that differs."""
    for name in (o for o in operators if o in table.operators):
        if (what := contradiction(name, table.operators[name])) is None:
            continue
        if name in table.shipped:
            raise EnvironmentFailure(
                f"{name} {what}, though this is {table.build}: something changes what it computes here. Use `--arithmetic real`."
            )
        raise EnvironmentFailure(
            f"{name} {what}; measure it again: `pipeline doctor --measure-kernels {name}`, or use `--arithmetic real`."
        )


def _plain(table: KernelTable) -> dict[str, object]:
    return {name: asdict(m) for name, m in table.operators.items()}


def _own_measurements(build: Build) -> tuple[Mapping[str, Measured], str | None]:
    """The user's own measurements of a build, and why their file was ignored, or None."""
    path, seal = folder() / f"{build.key}.json", _seal()
    if isinstance(seal, str):
        return {}, f"{path} was ignored: {seal}" if path.exists() else None
    try:
        content = seal.read(path)
        if content is None:
            return {}, None
        stored = json.loads(content)
        (table,) = _TABLES.validate_python(stored["tables"]) if stored["schema"] == SCHEMA else []
    except Foreign as error:
        return {}, f"a kernel table was ignored: {error}"
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        return {}, f"the kernel table {path} was ignored: it cannot be read ({type(error).__name__})"
    unfit = [n for n, m in table.operators.items() if n not in OPERATORS or not _whole(m)]
    if table.build != build or unfit:
        why = f"its entry for {unfit[0]!r} is no exhaustive measurement" if unfit else "it is of another build"
        return {}, f"the kernel table {path} was ignored: {why}"
    return table.operators, None


def _whole(m: Measured) -> bool:
    return m.patterns == PATTERNS and 0 <= m.absolute < 1 and 0 <= m.relative < 1


def _seal() -> Seal | str:
    """The seal of the user's own tables, or why there is none."""
    key = user_key()
    return key.reason if key.secret is None else Seal(key.secret, "kernel tables")


def _instructions() -> str:
    """The architecture and its vector instructions, as the system reports them."""
    fields, machine = _cpuinfo(), platform.machine()
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    x86 = machine.lower() in ("x86_64", "amd64")
    relevant = [f for f in _X86 if f in flags] if x86 else sorted({f for f in flags if _OTHER.match(f)})
    return " ".join([machine, *(f.upper() for f in relevant)]) if flags else f"{machine}, {platform.processor()}"


def _cpuinfo() -> dict[str, str]:
    """The entries of the first processor in ``/proc/cpuinfo``; empty where there is no such file."""
    try:
        first = CPUINFO.read_text("utf-8", "replace").split("\n\n")[0]
    except OSError:
        return {}
    return {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in first.splitlines())}


def _libm() -> str:
    """The digest of the C library's mathematics that this process has mapped; the platform where that cannot be read."""
    try:
        lines = MAPS.read_text("utf-8", "replace").splitlines()
        library = next(p for p in (line.split()[-1] for line in lines) if re.search(r"/libm[.-][^/]*so[^/]*$", p))
        return _sha256(Path(library))
    except (OSError, StopIteration):
        return platform.platform()


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as library:
            return hashlib.file_digest(library, "sha256").hexdigest()
    except OSError as error:
        raise EnvironmentFailure(f"the library {path} cannot be read: {error.strerror or error}.") from None
