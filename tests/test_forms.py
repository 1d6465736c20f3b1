"""Forms that GitHub can show, hooks that run what CI runs, a site that leaves no page out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[0-9]*.yml"))


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text("utf-8"))


def test_a_wrong_certificate_comes_first_and_is_reported_in_private():
    assert "wrong certificate" in read(FORMS[0])["description"].lower() + read(FORMS[0])["name"].lower()
    assert "SECURITY.md" in FORMS[0].read_text("utf-8")
    assert len(FORMS) == 3


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_keeps_the_schema_of_issue_forms(path):
    form = read(path)
    assert {"name", "description", "body"} <= set(form) <= {"name", "description", "body", "title", "labels"}
    questions = [part for part in form["body"] if part["type"] != "markdown"]
    assert all(part["attributes"]["label"] for part in questions)
    assert all(part["attributes"]["value"] for part in form["body"] if part["type"] == "markdown")
    names = [part["id"] for part in questions]
    assert len(set(names)) == len(names) > 0
    assert all(re.fullmatch(r"[\w-]+", name) for name in names)
    assert any(part.get("validations", {}).get("required") for part in questions)


def test_hooks_run_what_make_lint_runs():
    (repo,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repo["repo"] == "local", "the tools are the environment's own"
    hooks = {hook["entry"].split(" --")[0] for hook in repo["hooks"]}
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert recipe is not None
    lines = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    assert hooks == {line.split(" --")[0].removesuffix(" .") for line in lines}


def test_every_page_stands_once_in_the_site():
    (nav,) = re.findall(r"^nav:\n((?: .*\n)+)", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    assert sorted(re.findall(r"([\w-]+\.md)$", nav, re.MULTILINE)) == sorted(
        p.name for p in (ROOT / "docs").glob("*.md")
    )
