"""Markdown, JUnit and in-toto: they say what the report says, and a stranger's name says nothing in their languages."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from xml.etree import ElementTree

import pytest

from pipeline.render import junit, markdown, signing, statement
from pipeline.render.markdown import cell, prose
from pipeline.results import Report

GATES = ("certified=0.3", "natural=0.99")
NAMES = [
    "a|b", "`x`", "``", "`", "<script>alert(1)</script>", "[a](http://b)", "![a](b)", "*a* _b_ ~~c~~", "# a", "- a",
    "@someone", "www.a.example", "&lt;b&gt;", "\\", "\\|", "|", "a\r\n| b |", "```\nx", "\x1b[31mred", "\u202ea", "]]>", "<!--",
    "--> x", "$x$", "\x00\x08\ufffe\ud800", " ", "",
]  # fmt: skip


STRANGE = [pytest.param(name, marks=[pytest.mark.slow] if i % 3 else []) for i, name in enumerate(NAMES)]
"""A report is drawn for a third of the names in `make test`; by themselves all are shown there."""


@pytest.fixture(params=[None, *STRANGE], ids=lambda name: ascii(name))
def strange(request: pytest.FixtureRequest, hostile_report: Report, make_report: Callable) -> Report:
    """A report in which file, data, classes, nodes and notes have this name."""
    if request.param is None:
        return hostile_report
    base, name = make_report().result, request.param.encode("utf-8", "replace").decode()
    return make_report(
        model=base.model.model_copy(update={"file": name}),
        data=base.data.model_copy(update={"uri": name, "class_names": (name,) * 10}),
        warnings=(base.warnings[0].model_copy(update={"message": name}),),
        gates=GATES,
    )


def test_markdown_says_what_was_found(make_report: Callable) -> None:
    text = markdown(make_report(gates=GATES))
    for expected in (
        "55.00 %",
        "220 of 400",
        "0.5500",
        "\\>= 0.3",
        "pass",
        "**fail**",
        "1 of 2 gates failed",
        "worst class",
    ):
        assert expected.lower() in text.lower()
    assert "No gate was asked" in markdown(make_report())
    assert "| ε = 8/255 | before | after |" in markdown(make_report(retrained=True))
    curve = markdown(make_report(("1/255", "8/255"), attack=False))
    assert "| 1/255 | 93.25 % | – |" in curve


def test_markdown_stays_small_and_plain(strange: Report) -> None:
    text = markdown(strange)
    assert len(text.encode()) < 20_000
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\ud800-\udfff]", text)
    tables = [line for line in text.split("\n") if line.startswith("|")]
    bars = {line.count("|") for line in tables}
    assert bars <= {3, 5, 6}, "no name opens a column"
    ours = {"<details>", "<summary>", "</summary>", "</details>"}
    outside = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", re.sub("(?m)^    .*", "", text))  # code says nothing
    assert set(re.findall(r"(?<!\\)<[^ ]*?>", outside)) <= ours
    assert not re.search(r"(?<!\\)[\[@](?!\u2060)", outside)


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_is_one_code_span(name: str) -> None:
    shown = cell(name)
    if shown == "–":
        return
    fence = re.match("`+", shown)[0]
    inside = shown[len(fence) : -len(fence)]
    assert fence not in re.findall("`+", inside)
    assert "|" not in inside


def test_prose_escapes_whatever_means_something() -> None:
    assert prose("*a* [b](c) <i> #1 a|b") == r"\*a\* \[b\]\(c\) \<i\> \#1 a\|b"
    assert prose("see https://a.example or WWW.b.example") == r"see https\://a.example or WWW\.b.example"
    assert prose("@someone") == "@\u2060someone"


def test_junit_counts_its_cases(make_report: Callable) -> None:
    root = ElementTree.fromstring(junit(make_report(gates=GATES)))
    suite = root[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors"), suite.get("skipped")) == (
        "3",
        "1",
        "0",
        "0",
    )
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert list(cases) == [*GATES, "no contradiction"]
    assert cases["natural=0.99"].find("failure").get("message") == "natural 0.9325 < 0.99 (373 of 400)"
    assert cases["certified=0.3"].find("failure") is None
    assert root.find(".//property[@name='result.sha256']").get("value") == make_report(gates=GATES).result_sha256


def test_junit_calls_an_open_gate_an_error_and_lost_parity_a_failure(make_report: Callable) -> None:
    base = make_report(gates=GATES).result
    undecided = tuple(gate.model_copy(update={"passed": None}) for gate in base.gates)
    parity = base.parity.model_copy(update={"argmax_disagreements": 2})
    report = make_report().model_copy(update={"result": base.model_copy(update={"gates": undecided, "parity": parity})})
    suite = ElementTree.fromstring(junit(report))[0]
    assert (suite.get("errors"), suite.get("failures")) == ("2", "1")
    assert "differ in 2" in suite.find(".//failure").get("message")
    assert json.loads(statement(report))["predicate"]["result"] == "FAILED"
    alone = make_report(attack=False, parity=None)
    assert ElementTree.fromstring(junit(alone))[0].get("skipped") == "1"


def test_junit_is_xml_whatever_the_names(strange: Report) -> None:
    text = junit(strange)
    root = ElementTree.fromstring(text)
    assert {element.tag for element in root.iter()} <= {
        "testsuites", "testsuite", "properties", "property", "testcase", "failure", "error", "skipped", "system-out"
    }  # fmt: skip
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\ufffe\uffff\ud800-\udfff]", text)
    assert len(text) < 20_000


def test_a_statement_names_the_file_by_its_digest(make_report: Callable) -> None:
    report = make_report(gates=GATES)
    told = json.loads(statement(report))
    assert told["_type"] == "https://in-toto.io/Statement/v1"
    assert told["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert told["subject"] == [{"name": "digits.onnx", "digest": {"sha256": report.result.model.sha256}}]
    predicate = told["predicate"]
    assert (predicate["result"], predicate["failedTests"]) == ("FAILED", ["natural=0.99"])
    assert predicate["passedTests"] == ["certified=0.3", "no contradiction"]
    assert predicate["byproducts"][0]["digest"]["sha256"] == report.result_sha256
    assert json.loads(statement(make_report(gates=GATES[:1])))["predicate"]["result"] == "PASSED"
    assert json.loads(statement(make_report()))["predicate"]["result"] == "WARNED", "without a gate nothing passed"


def test_a_statement_holds_any_name_as_a_string(strange: Report) -> None:
    text = statement(strange)
    assert text.isascii()
    assert len(json.loads(text)["subject"][0]["name"]) <= 200


def test_the_signing_command_quotes_its_path() -> None:
    assert "'a b; rm'" in signing("a b; rm")
