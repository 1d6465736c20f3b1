"""The checker is small, and shares no code with what it checks."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

FILES = sorted((Path(__file__).resolve().parents[2] / "pipeline" / "checker").glob("*.py"))
KNOWN = {"numpy", "onnx", "pipeline.checker", "pipeline.errors"}


def lines_of_code(source: str) -> int:
    """Lines that are neither blank nor documentation."""
    said: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            said.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(source.splitlines(), 1)
    return sum(bool(line.strip()) and not line.strip().startswith("#") and number not in said for number, line in lines)


def test_the_checker_has_at_most_500_lines() -> None:
    assert lines_of_code('"""What\n\nit is."""\n\n\n# why\nx = 1\ny = """no\ndocumentation"""\n') == 3
    assert sum(lines_of_code(path.read_text("utf-8")) for path in FILES) <= 500


def test_the_checker_imports_numpy_and_onnx_alone() -> None:
    found = set()
    for node in (node for path in FILES for node in ast.walk(ast.parse(path.read_text("utf-8")))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    strange = {name for name in found if name.split(".")[0] not in sys.stdlib_module_names}
    assert {n for n in strange if not any(n == k or n.startswith(f"{k}.") for k in KNOWN)} == set()
    assert "pipeline.checker.graph" in found
