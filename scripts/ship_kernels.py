"""Puts what ``pipeline doctor --measure-kernels`` has measured here among the tables that are shipped with the package.

    python scripts/ship_kernels.py Sigmoid Tanh Exp Erf Softmax

An operator whose kernel calls the C library's mathematics is entered for this C library alone; which do so is counted, by a
library that is loaded before it (which takes a C compiler).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from pipeline.onnx import kernel_table

FILE = Path(kernel_table.__file__).with_name(kernel_table.SHIPPED)
FUNCTIONS = (
    *("expf", "exp2f", "expm1f", "logf", "log1pf", "erff", "sinf", "cosf", "tanf", "atanf"),
    *("sinhf", "coshf", "tanhf", "atanhf"),
)
SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
long kernel_calls;
#define COUNTED(name) float name(float x) { \\
    static float (*next)(float); if (!next) next = (float (*)(float))dlsym(RTLD_NEXT, #name); kernel_calls++; return next(x); }
"""
PROBE = """
import ctypes, sys, numpy
from pipeline.onnx.kernel_runs import full, in_pieces, rest
from pipeline.onnx.kernels import OPERATORS
calls = ctypes.c_long.in_dll(ctypes.CDLL(sys.argv[1]), "kernel_calls")
x = numpy.linspace(-4, 4, 4099, dtype=numpy.float32)
for operator in sys.argv[2:]:
    forms, kernel = [make(operator) for make in (full, rest, in_pieces)], OPERATORS[operator]
    before = calls.value
    for run in forms:
        run(x[(x >= kernel.least) & (x <= kernel.most)])
    print(operator, calls.value - before)
"""


def calling(operators: list[str]) -> set[str]:
    """Those whose kernels call the C library's mathematics."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "count.c"), Path(folder, "count.so")
        source.write_text(SOURCE + "\n".join(f"COUNTED({name})" for name in FUNCTIONS))
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        said = subprocess.run(
            [sys.executable, "-c", PROBE, str(library), "Atan", *operators],
            env=os.environ | {"LD_PRELOAD": str(library)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    counts = {name: int(count) for name, count in (line.split() for line in said.splitlines())}
    assert counts["Atan"] > 0, "nothing was counted where calls are known"
    return {name for name, count in counts.items() if count}


def main() -> int:
    operators, table = sys.argv[1:], kernel_table.load()[0]
    own = {name: m for name, m in table.operators.items() if name not in table.shipped}
    if missing := [name for name in operators if name not in own]:
        sys.exit(f"not measured here, or shipped already: {', '.join(missing)}")
    calls = calling(operators)
    tables = {t.build: dict(t.operators) for t in kernel_table.shipped()}
    for name in operators:
        build = table.build if name in calls else replace(table.build, libm="")
        tables.setdefault(build, {})[name] = own[name]
    made = [
        {"build": asdict(build), "operators": {n: asdict(m) for n, m in held.items()}} for build, held in tables.items()
    ]
    FILE.write_text(json.dumps({"schema": kernel_table.SCHEMA, "tables": made}, indent=1) + "\n")
    print(
        f"{', '.join(operators)} for {table.build}; of this C library alone: {', '.join(sorted(calls & set(operators)))}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
