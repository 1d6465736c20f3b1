"""Every command that a page shows is run, in order, in a folder with a model and data; links lead somewhere."""

from __future__ import annotations

import ast
import builtins
import re
import shlex
import shutil
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.bounds.margins import MarginBounds, margin_form
from pipeline.certify.property import prove
from pipeline.certify.refuter import Refuter
from pipeline.cli.main import run
from pipeline.core.rounding import rounding_of
from pipeline.core.threat import LinfBall
from pipeline.data import load
from pipeline.errors import InputRejected
from pipeline.methods import DECIDERS, METHODS
from pipeline.onnx.lowering.lower import LOWERINGS
from pipeline.onnx.operators import TABLE
from pipeline.results import levels
from pipeline.rules import rule_for, rules
from pipeline.settings import settled
from pipeline.system.clock import Clock
from pipeline.train import recipe
from pipeline.train.losses import LOSSES
from pipeline.vnnlib import Case, Constraint, Property
from tests import laws
from tests.climbing import climb, images_of, labels_of, lively, without_new_methods
from tests.nets import conv_net
from tests.onnx import files

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WRITTEN = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
MADE = {"tabular"}
"""Pages whose Python makes the files of their commands."""
PLACE = re.compile(r"`((?:pipeline|tests|scripts|models)/[\w./]*)`")
EXIT = re.compile(r"#\s*exit (\d+)\s*$")


def blocks(page: Path, language: str) -> list[str]:
    return [text for told, text in FENCE.findall(page.read_text("utf-8")) if told == language]


def commands(page: Path) -> list[tuple[str, int]]:
    """(command, the exit code that it is said to give) of a page's shell blocks."""
    lines = [line for text in blocks(page, "sh") for line in text.splitlines() if line.strip()]
    assert all(line.startswith("pipeline ") for line in lines), "what cannot be run here is no shell block"
    return [(EXIT.sub("", line), int(said[1]) if (said := EXIT.search(line)) else 0) for line in lines]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    shutil.copyfile(ROOT / "models" / "digits.onnx", tmp_path / "model.onnx")
    for name, part, count in (("test", "test", 32), ("train", "train", 256), ("empty", "test", 0)):
        data = load("digits", part=part)
        np.savez(tmp_path / f"{name}.npz", x=data.images[:count], y=data.labels[:count])
    raw = (load("digits", part="test").images[:24] * 255).astype(np.uint8)
    np.savez(tmp_path / "raw.npz", x=raw, y=load("digits", part="test").labels[:24])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIPELINE_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "sh")], ids=lambda page: page.stem)
def test_every_command_gives_the_exit_code_that_the_page_says(page, folder, capsys):
    if page.stem in MADE:
        for text in blocks(page, "python"):
            exec(text, {})
    for command, code in commands(page):
        got = run(shlex.split(command)[1:])
        assert got == code, f"{command}\n{capsys.readouterr().err}"


def test_the_operator_of_the_page_keeps_the_laws(monkeypatch):
    enrolled = sys.modules["pipeline.rules.rule"]
    monkeypatch.setattr(enrolled, "_RULES", dict(enrolled._RULES))
    _, text = blocks(ROOT / "docs" / "operators.md", "python")
    told: dict = {}
    exec(compile(text, "operators.md", "exec"), told)
    rule = rule_for(told["Difference"]())
    (example,) = rule.examples()
    for kind in laws.KINDS:
        inputs = laws.boxes(example, kind, seed=2)
        box = rule.interval(example.op, *inputs)
        for point in laws.points(example.op, inputs, seed=3):
            assert laws.violation(box, example.op(*point)) <= 1e-11
    monkeypatch.undo()
    assert told["Difference"] not in rules(), "a page's operator is not the program's"


def test_the_operator_of_the_page_is_read_from_a_file(tmp_path):
    text, _ = blocks(ROOT / "docs" / "operators.md", "python")
    divided = files.node("Mod", ["x", "c"], ["y"], fmod=1)
    path = files.saved(tmp_path, files.model([divided], ["batch", 6], {"c": files.weights(6)}))
    with pytest.raises(InputRejected, match="Mod"):
        files.load(path)
    try:
        exec(compile(text, "operators.md", "exec"), {})
        assert files.load(path).parity.holds
    finally:
        TABLE.pop("Mod", None)
        LOWERINGS.pop("Mod", None)


def test_the_loss_of_the_page_is_found_by_its_name(monkeypatch):
    monkeypatch.setattr(LOSSES["ibp"], "margins", lambda self, samples, *, linear: samples)
    text, _ = blocks(ROOT / "docs" / "architecture.md", "python")
    margins = torch.tensor([[0.5, 2.0], [-1.0, 3.0]], dtype=torch.float64)
    try:
        exec(compile(text, "architecture.md", "exec"), {})
        made = recipe("shi2021", input_shape=(1, 8, 8), n_train=100, loss="ibp-hinge")
        total, certified = LOSSES["ibp-hinge"](conv_net(), made)(margins, linear=False)
    finally:
        LOSSES.pop("ibp-hinge", None)
    assert (float(total), float(certified)) == (0.5 + 2.0, 1.0)


def test_the_rung_of_the_page_is_climbed_and_keeps_the_laws():
    _, text = blocks(ROOT / "docs" / "architecture.md", "python")
    network, eps = lively(3), Fraction(1, 60)
    images = images_of(network, 40)
    labels, region = labels_of(network, images), LinfBall(eps).region(torch.from_numpy(images).double())
    question = Property(
        12, 5, (Case((Fraction(0),) * 12, (eps,) * 12, ((Constraint(((0, Fraction(-1)),), Fraction(9)),),)),)
    )
    exact = network.in_float64()
    with without_new_methods():
        exec(compile(text, "architecture.md", "exec"), {})
        assert [*METHODS][:4] == ["ibp", "crown-ibp", "both-ends", "crown"]
        assert settled({"method": "both-ends"}, {}).method == "both-ends"
        margins = {
            name: MarginBounds(exact, rounding_of("float32-any-order"), method=name).rows(
                region, torch.from_numpy(labels)
            )
            for name in ("crown-ibp", "both-ends")
        }
        climbed = climb(network, [str(eps)], method="both-ends")
        refuter = Refuter(exact, question, "float32-any-order", method="both-ends")
        phases = {progress.phase for progress in prove(refuter, Clock(), split=False)}
        decided = climbed.samples.decided_by[0] == DECIDERS.index("both-ends")
        (level,) = levels(climbed.samples, details=climbed.details)
    assert (margins["both-ends"] >= margins["crown-ibp"]).all()
    assert (margins["both-ends"] > margins["crown-ibp"]).any()
    drawn = torch.Generator().manual_seed(0)
    for _ in range(20):
        x = region.box.center + region.box.radius * (2 * torch.rand(images.shape, generator=drawn) - 1)
        form = margin_form(torch.from_numpy(labels), (5,), torch.float64)
        assert ((form.coeff * exact(x)).sum(2) >= margins["both-ends"]).all()
    assert phases == {"ibp", "crown-ibp", "both-ends"}
    assert decided.any()
    assert {rung.name: rung.decided for rung in level.rungs}["both-ends"] == decided.sum()
    assert "both-ends" not in METHODS, "a page's method is not the program's"


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.stem)
def test_links_lead_to_files_that_exist(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))
    assert not [link for link in links if "://" not in link and not (page.parent / link).exists()]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.stem)
def test_places_that_are_named_exist(page):
    assert not [place for place in PLACE.findall(page.read_text("utf-8")) if not (ROOT / place).exists()]


@pytest.mark.parametrize("page", ["glossary", "architecture"])
def test_modules_that_are_named_exist(page):
    """Of architecture.md also where a file is named without its package, in the paragraph about that."""
    named = re.findall(r"`([a-z_]+/[\w/]*(?:\.py)?|[a-z_]+\.py)`", (ROOT / "docs" / f"{page}.md").read_text("utf-8"))
    assert len(named) > 10
    inner = {path.name for path in (ROOT / "pipeline").rglob("*")}
    assert not [
        place
        for place in named
        if not (ROOT / "pipeline" / place).exists() and not (ROOT / place).exists() and place.rstrip("/") not in inner
    ]


def test_the_five_most_common_changes_are_made_in_places_and_by_names_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    (section,) = re.findall(r"^## The five most common changes\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    changes = re.split(r"^\*\*", section, flags=re.MULTILINE)[1:]
    assert len(changes) == 5
    assert all(re.search(r"`pipeline/[\w/.]+`", change) for change in changes)
    defined = defined_names()
    named = re.findall(r"`@?([A-Za-z_]+)(?:\([^`]*\))?`", section)
    assert len(named) > 12
    assert not [name for name in named if name not in defined and name not in dir(builtins)]


def defined_names() -> set[str]:
    """Every function, class, constant and field of the program."""
    names = set()
    for path in (ROOT / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
    return names
