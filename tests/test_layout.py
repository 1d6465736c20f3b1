"""Imports run one way, as docs/architecture.md draws it, in no circle, and some libraries are known to one package alone."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "pipeline"
FILES = sorted(ROOT.rglob("*.py"))
PAGE = (ROOT.parent / "docs" / "architecture.md").read_text("utf-8")
ONLY_IN = {
    "onnx2torch": ("onnx/conversion.py",),
    "onnxruntime": ("onnx/",),
    "onnx": ("onnx/", "checker/"),
    "click": ("cli/",),
    "matplotlib": ("render/",),
    "jinja2": ("render/",),
    "torchvision": ("data/",),
    "datasets": ("data/hub.py",),
    "pyarrow": ("data/table.py",),
    "huggingface_hub": ("data/hub.py",),
}


def drawn(page: str) -> dict[str, set[str]]:
    """Each package of the diagram, and those that it has arrows to; a box of several modules stands for each of them."""
    (diagram,) = re.findall(r"^```mermaid\ngraph TD\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    boxes: dict[str, list[str]] = {}
    arrows: list[tuple[str, list[str]]] = []
    for line in diagram.strip().splitlines():
        if box := re.fullmatch(r'(\w+)\["([\w, ]+)"\]', line.strip()):
            boxes[box[1]] = box[2].split(", ")
        else:
            tail, heads = line.strip().split(" --> ")
            arrows.append((tail, heads.split(" & ")))
    graph: dict[str, set[str]] = {}
    for tail, heads in arrows:
        for head in heads:
            for name in boxes.get(head, [head]):
                graph.setdefault(name, set())
                graph.setdefault(tail, set()).add(name)
    return graph


MAY_IMPORT = drawn(PAGE)
(BASICS,) = (set(names.split(", ")) for names in re.findall(r'basics\["(.*)"\]', PAGE))


@cache
def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def packages_of(path: Path) -> set[str]:
    """The packages that a file imports besides its own; names of ``pipeline`` itself, such as its version, are none."""
    named = {name.split(".")[1] for name in imports(path) if name.startswith("pipeline.")}
    return {name for name in named if name in MAY_IMPORT or (ROOT / name).exists()} - {package_of(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    here = package_of(path)
    if here != "__init__":
        beyond = packages_of(path) - MAY_IMPORT[here] - (BASICS - {here} if here not in BASICS else {"errors"})
        assert not beyond, f"{here} may not import {', '.join(beyond)}: docs/architecture.md draws no such arrow"
    for library in {name.split(".")[0] for name in imports(path)} & set(ONLY_IN):
        inside = str(path.relative_to(ROOT)).startswith(ONLY_IN[library])
        assert inside, f"{path} imports {library}, which is known to {ONLY_IN[library]} alone"


def test_every_arrow_is_used():
    used = {(package_of(path), name) for path in FILES for name in packages_of(path)}
    assert not {(a, b) for a, bs in MAY_IMPORT.items() for b in bs if b not in BASICS} - used


def test_the_diagram_has_every_package_and_no_circle():
    assert {package_of(path) for path in FILES} - {"__init__"} == set(MAY_IMPORT)
    assert list(TopologicalSorter(MAY_IMPORT).static_order())


def module(path: Path) -> str:
    return ".".join(("pipeline", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def test_no_modules_import_each_other_in_a_circle():
    """Not inside functions, nor for types alone."""
    names = {module(path) for path in FILES}
    graph = {
        module(path): {name if name in names else name.rpartition(".")[0] for name in imports(path)} & names
        for path in FILES
    }
    assert len(graph) > 300
    assert list(TopologicalSorter({name: used - {name} for name, used in graph.items()}).static_order())


def test_the_law_can_fail():
    assert "certify" not in MAY_IMPORT["train"]
    assert "train" not in MAY_IMPORT["certify"]
    assert "core" in MAY_IMPORT["rules"]
    assert "rules" not in MAY_IMPORT["core"]
    assert imports(ROOT / "onnx" / "conversion.py").count("onnx2torch.onnx_graph.OnnxGraph") == 1
    assert drawn('```mermaid\ngraph TD\n    low["a, b"]\n    c --> d & low\n```\n') == {
        "a": set(),
        "b": set(),
        "c": {"a", "b", "d"},
        "d": set(),
    }


def test_a_property_is_read_twice_by_strangers():
    """The judge of counterexamples shares no code with the parser whose mistakes it must catch."""
    assert not [name for name in imports(ROOT / "certify" / "witness.py") if name.startswith("pipeline.vnnlib")]
    known = {name for path in (ROOT / "vnnlib").glob("*.py") for name in packages_of(path)}
    assert known <= {"errors", "limits"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_is_too_long_to_be_read_at_once(path):
    """A file that grows past 250 lines usually holds two ideas: move what belongs elsewhere."""
    lines = path.read_text("utf-8").count("\n")
    assert lines <= 250, f"{path} has {lines}"


def test_no_two_classes_share_a_name():
    names = [
        node.name
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if type(node) is ast.ClassDef
    ]
    assert len(names) > 100
    assert [name for name, count in Counter(names).items() if count > 1] == []
