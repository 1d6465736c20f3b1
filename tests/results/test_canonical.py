"""The digest of a report is one that anybody can compute: RFC 8785; reports of version 1 keep theirs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.cli.main import run
from pipeline.errors import Contradiction, InputRejected
from pipeline.results import read, read_samples
from pipeline.results.canonical import canonical, digest

OLD = Path(__file__).with_name("version_1")
"""A certification of models/digits.onnx as version 1 wrote it."""


def test_the_example_of_the_standard():
    """RFC 8785, section 3.2.4, and the order of names in section 3.2.3."""
    numbers = [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001]
    value = {"numbers": numbers, "string": '\u20ac$\u000f\nA\'B"\\\\"/', "literals": [None, True, False]}
    want = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical(value) == want.encode()
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    assert list(json.loads(canonical(dict.fromkeys(names)))) == [
        *("\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33")
    ]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0"), (-0.0, "0"), (5e-324, "5e-324"), (-5e-324, "-5e-324"), (1.7976931348623157e308, "1.7976931348623157e+308"),
        (9007199254740992.0, "9007199254740992"), (295147905179352830000.0, "295147905179352830000"),
        (9.999999999999997e22, "9.999999999999997e+22"), (1e23, "1e+23"), (999999999999999700000.0, "999999999999999700000"),
        (1e21, "1e+21"), (9.999999999999997e-7, "9.999999999999997e-7"), (0.000001, "0.000001"), (1.0, "1"),
        (8 / 255, "0.03137254901960784"),
    ],
)  # fmt: skip
def test_numbers_of_the_standard(number, text):
    """RFC 8785, appendix B."""
    assert canonical(number) == text.encode()


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 2**53, -(2**53), "\ud800", [{"a": {"b": 2**60}}]])
def test_what_has_no_canonical_form_is_refused(value):
    with pytest.raises(ValueError):  # noqa: PT011 (whatever says so)
        canonical(value)


def test_nesting_without_end_is_refused():
    value: list = []
    for _ in range(10**5):
        value = [value]
    for version in ("1", "2"):
        with pytest.raises(ValueError, match="nested"):
            canonical(value, version)


@pytest.fixture
def old(tmp_path) -> Path:
    return shutil.copytree(OLD, tmp_path / "old.report")


def test_a_report_of_version_1_is_read_and_verified(old, capsys):
    report = read(old)
    assert report.schema_version == "1"
    assert report.result.samples is not None
    assert len(read_samples(old / "samples.npz", report.result.samples)) == report.result.data.n_evaluated == 12
    assert run(["verify", str(old)]) == 0, capsys.readouterr()


@pytest.mark.parametrize(
    ("before", "after"), [('"schema_version": "1"', '"schema_version": "2"'), ('"parameters": 41', '"parameters": 42')]
)
def test_a_report_of_version_1_that_was_changed_is_tampering(old, before, after):
    text = (old / "report.json").read_text()
    assert before in text
    (old / "report.json").write_text(text.replace(before, after))
    with pytest.raises(Contradiction, match="tampered"):
        read(old)


def test_numbers_beyond_doubles_are_no_report(old):
    raw = json.loads((old / "report.json").read_text()) | {"schema_version": "2"}
    raw["result"]["data"]["n_total"] = 2**53
    (old / "report.json").write_text(json.dumps(raw))
    with pytest.raises(InputRejected, match="digest"):
        read(old)


def test_the_two_versions_differ_in_how_numbers_are_written():
    assert digest({"a": 1.0}) == digest({"a": 1}) == digest({"a": 1}, "1") != digest({"a": 1.0}, "1")
