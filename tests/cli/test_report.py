"""``pipeline report``: what was found, drawn again; and the page of a CI job."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np

FAST = ("certify", "model.onnx", "--data", "digits", "--max-samples", "40", "--method", "ibp", "--eps", "1/1000")


def test_renderings_are_drawn_from_the_report_alone(pipeline, here):
    pipeline(*FAST, "--fail-under", "certified=0.1", "--no-thumbnails")
    page = (here / "model.report" / "report.html").read_bytes()
    alone = (here / "model.report" / "report.json").rename(here / "alone.json")
    for file in ("report.html", "samples.npz"):
        (here / "model.report" / file).unlink()
    code, out, err = pipeline(
        "report", alone, "--html", "a.html", "--md", "-", "--junit", "a.xml", "--intoto", "a b.json"
    )
    assert code == 0, err
    assert (here / "a.html").read_bytes() == page
    assert out.startswith("### ")
    assert ElementTree.parse(here / "a.xml").getroot().get("failures") == "0"
    assert json.loads((here / "a b.json").read_text())["predicate"]["result"] == "PASSED"
    assert "cosign attest-blob --yes --statement 'a b.json'" in err
    code, out, err = pipeline("report", alone)
    assert (code, err) == (0, "")
    assert "certified" in out


def test_the_page_shows_samples_where_the_data_are_at_hand(pipeline, here):
    assert pipeline(*FAST)[0] == 0
    page = (here / "model.report" / "report.html").read_bytes()
    assert page.count(b"<img") == 10
    assert pipeline("report", "model.report", "--html", "again.html", "--data", "digits")[0] == 0
    assert (here / "again.html").read_bytes() == page
    (here / "pipeline.toml").write_text("thumbnails = false\n")
    assert pipeline(*FAST, "--report", "private")[0] == 0
    assert b"<img" not in (here / "private" / "report.html").read_bytes()
    one, two = ((here / name / "report.json").read_bytes() for name in ("model.report", "private"))
    assert one[: one.index(b'"run"')] == two[: two.index(b'"run"')], "a report holds no pixel"


def test_what_is_refused(pipeline, here):
    pipeline(*FAST)
    assert pipeline("report", "model.report", "--data", "digits")[0] == 2
    np.savez(here / "other.npz", x=np.zeros((40, 8, 8), np.float32), y=np.zeros(40, int))
    code, _, err = pipeline("report", "model.report", "--html", "-", "--data", "npz:other.npz")
    assert (code, "other data" in err) == (3, True)
    assert pipeline("report", "model.report", "--md", "-", "--html", "-")[0] == 2
    assert pipeline("report", "nowhere")[0] == 2
    code, _, err = pipeline("report", "model.report", "--md", "no/such/folder.md")
    assert code == 74, err
    told = json.loads((here / "model.report" / "report.json").read_text())
    told["result"]["levels"][0]["undecided"] = 1
    (here / "model.report" / "report.json").write_text(json.dumps(told))
    code, out, err = pipeline("report", "model.report", "--md", "-")
    assert (code, out) == (5, "")
    assert "tampered" in err


def test_the_page_of_a_job_says_what_happened(pipeline, here, monkeypatch):
    page = here / "summary.md"
    page.write_text("of another step\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    assert pipeline(*FAST, "--fail-under", "certified=1")[0] == 1
    text = page.read_text()
    assert text.startswith("of another step\n### ")
    assert "1 of 1 gates failed" in text
    assert pipeline("certify", "absent_model.onnx", "--data", "digits", "--eps", "0.1")[0] == 3
    assert "exit code 3" in page.read_text()
    assert "absent\\_model" in page.read_text()
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(here))
    code, _, err = pipeline(*FAST, "--fail-under", "certified=1")
    assert code == 1, "a page that cannot be written changes nothing"
    assert "GITHUB_STEP_SUMMARY" in err
