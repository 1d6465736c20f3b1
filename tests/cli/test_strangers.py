"""Strangers' names and files in a whole run: shown as text, never run, nothing fetched, limits and assumptions told."""

from __future__ import annotations

import json
import re
import socket
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest

from pipeline.results import read
from tests.cli import bad_data as data
from tests.cli import bad_models as models

CERTIFY = ("certify", "m.onnx", "--data", "npz:d.npz", "--eps", "0.001", "--method", "ibp")
NO_COMMAND = re.compile(r"##|^\s*::", re.MULTILINE)
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


MANY = data.arrays(np.tile(data.X, (10, 1)), np.tile(data.Y, 10))
"""Enough to hold some out."""


@pytest.fixture
def hostile(here):
    models.named(models.HOSTILE)(here)
    MANY(here)
    return here


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)


def test_hostile_names_are_text_wherever_they_are_shown(hostile, pipeline):
    for argv in (
        CERTIFY,
        (*CERTIFY, "--format", "json"),
        ("inspect", "m.onnx"),
        ("inspect", "m.onnx", "--format", "json"),
    ):
        code, out, err = pipeline(*argv)
        assert code == 0, err
        assert not CONTROL.search(out + err)
        assert not NO_COMMAND.search(out + err)
    assert json.loads(out)["inputs"][0]["name"].startswith(models.HOSTILE), "JSON holds the name itself"
    assert (
        pipeline("report", "m.report", "--html", "m.html", "--md", "m.md", "--junit", "m.xml", "--intoto", "m.json")[0]
        == 0
    )
    assert "script" not in Tags((hostile / "m.html").read_text("utf-8")).tags
    assert ElementTree.parse(hostile / "m.xml").getroot().tag == "testsuites"
    outside = re.sub(r"(`+).*?\1", "", (hostile / "m.md").read_text("utf-8"))
    assert not re.search(r"(?<!\\)<script|(?<!\\)\]\(", outside)
    assert pipeline("verify", "m.report", "--model", "m.onnx", "--data", "npz:d.npz")[0] == 0
    assert not (hostile / "executed").exists()


def test_a_name_that_is_python_runs_nowhere(hostile, pipeline):
    """Not through the source that torch.fx generates, while training, or in what is written."""
    code, _, err = pipeline(
        "retrain", "m.onnx", "--data", "npz:d.npz", "--eps", "0.01", "--epochs", "2", "--batch-size", "2"
    )
    assert code == 0, err
    assert not (hostile / "executed").exists()
    written = onnx.load(hostile / "m.certified.onnx")
    assert written.graph.node[0].name == f"{models.HOSTILE}0", "the file keeps its names"


def test_nothing_is_fetched(here, pipeline, monkeypatch):
    models.changed(lambda made: None)(here)
    MANY(here)

    def refuse(*args: object) -> None:
        raise AssertionError("a connection was asked for")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    retrain = ("retrain", "m.onnx", "--data", "npz:d.npz", "--eps", "0.01", "--epochs", "1", "--batch-size", "2")
    for argv in (CERTIFY, retrain, ("inspect", "m.onnx"), ("report", "m.report"), ("verify", "m.report")):
        code, _, err = pipeline(*argv)
        assert code == 0, err
    with pytest.raises(AssertionError):
        socket.create_connection(("127.0.0.1", 9))


def test_weights_that_are_inputs_are_an_assumption_until_they_are_frozen(here, pipeline):
    models.changed(models.overridable)(here)
    data.arrays()(here)
    assert pipeline(*CERTIFY)[0] == 0
    before = read(here / "m.report").result
    assert any("overrides the weights" in said and "'w1'" in said for said in before.method.assumptions)
    code, _, err = pipeline("inspect", "m.onnx", "--freeze", "fixed.onnx")
    assert code == 0
    assert "5 weights" in err
    original, fixed = onnx.load(here / "m.onnx"), onnx.load(here / "fixed.onnx")
    assert [i.name for i in fixed.graph.input] == ["x"]
    assert list(fixed.graph.node) == list(original.graph.node)
    assert list(fixed.graph.initializer) == list(original.graph.initializer)
    assert pipeline("certify", "fixed.onnx", *CERTIFY[2:])[0] == 0
    after = read(here / "fixed.report").result
    assert after.method.assumptions == before.method.assumptions[:-1]
    assert after.levels == before.levels
    assert pipeline("inspect", "m.onnx", "--freeze", "m.onnx")[0] == 2


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("model_bytes = 100", 3, "at most 100 bytes"),
        ("nodes = 3", 3, "at most 3 nodes"),
        ("weights_bytes = 100", 3, "at most 100 bytes"),
        ("tensor_elements = 5", 3, "at most 5 elements"),
        ("value_bytes = 20", 3, "at most 20 bytes"),
        ("data_bytes = 10", 3, "more than the 10 allowed"),
        ('data_bytes = "1GB"', 0, ""),
        ("bytes = 1", 2, "model_bytes"),
        ('nodes = "many"', 2, "received"),
        ("nodes = 0", 2, "from 1"),
    ],
)
def test_limits_are_settings_and_the_next_command_has_the_defaults_again(here, pipeline, line, code, says):
    models.changed(lambda made: None)(here)
    data.arrays()(here)
    (here / "pipeline.toml").write_text(f"[limits]\n{line}\n")
    got, _, err = pipeline(*CERTIFY)
    assert got == code, err
    assert says in err
    (here / "pipeline.toml").unlink()
    assert pipeline("inspect", "m.onnx")[0] == 0


def test_a_report_that_the_disk_refuses_leaves_the_one_before(here, pipeline):
    """A limit on the size of files stands for a full disk: the same system call fails."""
    resource = pytest.importorskip("resource")
    models.changed(lambda made: None)(here)
    data.arrays()(here)
    assert pipeline(*CERTIFY)[0] == 0
    before = (here / "m.report" / "report.json").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        code, _, err = pipeline(*CERTIFY, "--seed", "1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 74, err
    assert "--report" in err
    assert (here / "m.report" / "report.json").read_bytes() == before
    assert not list((here / "m.report").glob(".*.tmp"))


def test_samples_of_a_stranger_cannot_hold_an_eps_that_takes_for_ever(here, pipeline):
    models.changed(lambda made: None)(here)
    data.arrays()(here)
    assert pipeline(*CERTIFY)[0] == 0
    path = here / "m.report" / "samples.npz"
    with np.load(path) as held:
        arrays = dict(held)
    np.savez(path, **arrays | {"eps": np.array(["1e999999999"])})
    assert pipeline("verify", "m.report")[0] == 5
