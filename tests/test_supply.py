"""What is installed: pinned by hash, from nowhere in particular, and within the bounds that the project states."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
LOCK = (ROOT / "requirements.lock").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
ACTIONS = [*sorted((ROOT / ".github" / "workflows").glob("*.yml")), *sorted((ROOT / ".github").rglob("action.yml"))]
PYTHONS = ("3.11", "3.12", "3.13")


def pinned() -> list[tuple[Requirement, list[str]]]:
    """Each requirement of the lock with its hashes."""
    logical = re.sub(r"(?m)^\s*#.*\n", "", LOCK).replace("\\\n", " ").strip().split("\n")
    parts = [line.split("--hash=") for line in logical]
    return [(Requirement(first), [h.strip() for h in hashes]) for first, *hashes in parts]


def test_every_package_is_pinned_by_version_and_hash():
    for requirement, hashes in pinned():
        assert [s.operator for s in requirement.specifier] == ["=="], requirement
        assert hashes, requirement
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", h) for h in hashes), requirement


def test_the_lock_names_no_place_to_load_from():
    assert not re.search(r"://|index-url|find-links|^-", LOCK, re.MULTILINE)


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_is_locked_within_its_bounds(python):
    here = {
        "python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux", "platform_machine": "x86_64",
        "platform_system": "Linux", "implementation_name": "cpython", "platform_python_implementation": "CPython", "extra": "",
    }  # fmt: skip
    applies = [r for r, _ in pinned() if r.marker is None or r.marker.evaluate(here)]
    locked = {r.name: next(iter(r.specifier)).version for r in applies}
    assert len(locked) == len(applies), "one version each"
    for text in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]):
        wanted = Requirement(text)
        if wanted.marker is None or wanted.marker.evaluate(here):
            assert wanted.specifier.contains(locked[wanted.name]), text


@pytest.mark.parametrize("path", ACTIONS, ids=lambda path: path.stem)
def test_every_action_is_pinned_by_commit_and_says_its_version(path):
    uses = re.findall(r"^\s*(?:- )?uses: (.*)$", path.read_text("utf-8"), re.MULTILINE)
    ours = [place for place in uses if place.startswith("./")]
    assert all((ROOT / place / "action.yml").is_file() for place in ours)
    for action in set(uses) - set(ours):
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action
    assert uses


def test_an_action_has_one_version():
    pins: dict[str, set[str]] = {}
    for path in ACTIONS:
        for action, pin in re.findall(r"uses: ([\w./-]+)@(.*)$", path.read_text("utf-8"), re.MULTILINE):
            pins.setdefault(action, set()).add(pin)
    assert {action: found for action, found in pins.items() if len(found) > 1} == {}


def test_only_what_is_tested_is_published_and_nothing_secret_is_kept():
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text("utf-8")
    release = yaml.safe_load(text)
    jobs = release["jobs"]
    assert jobs["attest"]["needs"] == ["test", "build"]
    assert jobs["publish"]["needs"] == "attest"
    assert jobs["publish"]["environment"] == "release"
    assert "secrets." not in text
    assert release["permissions"] == {"contents": "read"}
    writes = {name for name, job in jobs.items() if "write" in job.get("permissions", {}).values()}
    assert writes == {"attest", "publish"}, "what runs the code of others may write nothing"


def test_the_tools_of_a_release_are_pinned_by_hash():
    lines = (ROOT / ".github" / "release-tools.txt").read_text("utf-8").splitlines()
    tools = [line for line in lines if not line.startswith("#")]
    assert tools
    assert all(re.fullmatch(r"[\w-]+==[\d.]+( --hash=sha256:[0-9a-f]{64})+", line) for line in tools)


def test_the_image_is_built_of_what_is_there_and_runs_as_nobody_special():
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text("utf-8"))
    told = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").split() if line.startswith("!")}
    copied = [rest.split()[:-1] for word, rest in told if word == "COPY" and not rest.startswith("--from=")]
    assert {name.removeprefix("./") for names in copied for name in names} == kept, "what is copied is let through"
    assert all((ROOT / name).exists() for name in kept)
    last = [rest for word, rest in told if word == "USER"]
    assert last
    assert last[-1] not in ("root", "0")
    assert [word for word, _ in told].count("FROM") == 2
    needed = {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml", "pipeline"}
    assert needed <= kept
