"""Shards and their merge: to the bit what one process writes; nothing missing, twice, changed or of another run is taken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli.main import run
from pipeline.results import LevelDetails, Report, Verdict, largest_eps, levels, per_class, read, read_samples
from pipeline.results.canonical import digest
from pipeline.results.samples import Samples
from pipeline.results.write import dump

ROOT = Path(__file__).resolve().parents[2]
MODEL = str(ROOT / "models" / "digits.onnx")
SHARDS = 3
ASKED = (
    *("certify", MODEL, "--data", "digits", "--max-samples", "48", "--eps", "1/1000,1/40", "--method", "crown-ibp"),
    *("--largest-eps", "--fail-under", "certified@1/1000=0.99", "--fail-under", "natural=0.5"),
)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """One process's report, and those of three shards, in one folder."""
    folder = tmp_path_factory.mktemp("merge")
    assert run([*ASKED, "--report", str(folder / "whole"), "--parity-seed", "7"]) == 1
    for i in range(1, SHARDS + 1):
        assert run([*ASKED, "--shard", f"{i}/{SHARDS}", "--report", str(folder / f"shard-{i}")]) == 0
    return folder


@pytest.fixture
def shards(kept, here):
    """Copies of the shards' reports in the working folder."""
    for folder in kept.iterdir():
        shutil.copytree(folder, here / folder.name)
    return [f"shard-{i}" for i in range(1, SHARDS + 1)]


def restated(folder: Path, change) -> None:
    """A report changed and given the digest of what it says now, as a forger would."""
    file = folder / "report.json"
    raw = json.loads(file.read_text())
    change(raw["result"])
    raw["result_sha256"] = digest(raw["result"])
    file.write_text(json.dumps(raw, indent=2) + "\n")


def test_the_merge_is_to_the_bit_what_one_process_writes(pipeline, here, shards):
    code, out, err = pipeline("merge", *shards[::-1], "--report", "merged")
    assert code == 1, err
    one, merged = read(here / "whole"), read(here / "merged")
    assert merged.result_sha256 == one.result_sha256
    for name in ("samples.npz", "counterexamples.npz"):
        assert (here / "merged" / name).read_bytes() == (here / "whole" / name).read_bytes()
    assert [gate.passed for gate in merged.result.gates] == [False, True]
    found = read_samples(here / "merged" / "samples.npz", merged.result.samples)
    assert set(found.verdict.ravel().tolist()) == set(Verdict), "a test in which a verdict is missing shows less"
    assert json.loads((here / "merged" / "status.json").read_text())["exit_code"] == 1
    assert "certified@1/1000" in out


def test_a_merged_report_is_verified_as_any(pipeline, shards):
    assert pipeline("merge", *shards, "--report", "merged")[0] == 1
    code, out, err = pipeline("verify", "merged", "--model", MODEL, "--data", "digits", "--recheck", "3", "--seed", "1")
    assert code == 0, out + err
    assert "no verdict is contradicted" in out


def test_a_shard_decides_no_gate_and_says_what_it_is(pipeline, here, shards):
    result = read(here / shards[0]).result
    assert (result.gates, result.verdict, str(result.shard)) == ((), "incomplete", "1/3")
    assert result.shard.asked.fail_under == ("certified@1/1000=0.99", "natural=0.5")
    code, out, _ = pipeline("report", shards[0], "--junit", "-")
    assert code == 0
    assert 'errors="1"' in out, "nobody takes a share for a run that passed"
    code, out, err = pipeline("verify", shards[0], "--data", "digits")
    assert code == 0, out + err


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [
        (("shard-1", "shard-3"), 4, "missing: 2"),
        (("shard-1", "shard-2", "shard-3", "shard-2"), 3, "both shard 2/3"),
        (("shard-1", "shard-2", "whole"), 3, "of a whole run"),
        (("shard-1", "shard-2", "nowhere"), 2, "No report"),
        ((), 2, "received none"),
        (("shard-1", "shard-2", "shard-3", "--baseline", "whole"), 2, "the shards have no such gate"),
    ],
)
def test_what_is_not_one_run_is_refused(pipeline, here, shards, given, code, says):
    found, out, err = pipeline("merge", *given, "--report", "merged")
    assert (found, out) == (code, ""), err
    assert says in err
    assert not (here / "merged" / "report.json").exists()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model.sha256", lambda r: r["model"].update(sha256="0" * 64)),
        ("data.sha256", lambda r: r["data"].update(sha256="0" * 64)),
        ("tool.version", lambda r: r["tool"].update(version="0.0.1")),
        ("of method.attack.seed", lambda r: r["method"]["attack"].update(seed=5)),
        ("the digest of settings", lambda r: r["shard"].update(run_sha256="0" * 64)),
        ("shard asked.fail_under", lambda r: r["shard"]["asked"].update(fail_under=[])),
        ("shard of", lambda r: r["shard"].update(of=4)),
    ],
)
def test_a_shard_of_another_run_is_refused_by_name(pipeline, here, shards, name, change):
    restated(here / "shard-2", change)
    code, _, err = pipeline("merge", *shards, "--report", "merged")
    # A share of another size contradicts its own samples first.
    assert code == (5 if name == "shard of" else 3), err
    assert name == "shard of" or name in err


def forged(folder: Path) -> int:
    """A shard in which one falsified or unknown sample became certified, consistent in all that it says; its index."""
    report = read(folder)
    samples = read_samples(folder / "samples.npz", report.result.samples)
    row = int(np.flatnonzero((samples.verdict[0] == Verdict.UNKNOWN) | (samples.verdict[1] == Verdict.UNKNOWN))[0])
    verdict, margin, by = samples.verdict.copy(), samples.margin_lower.copy(), samples.decided_by.copy()
    verdict[:, row], margin[:, row], by[:, row] = Verdict.CERTIFIED, 1.0, 3
    told = {name: getattr(samples, name) for name in ("eps", "index", "label", "predicted", "survived", "largest_eps")}
    lie = Samples(**told, verdict=verdict, margin_lower=margin, decided_by=by)
    details = [
        LevelDetails(x.layers, x.rounding, tuple((r.name, r.examined) for r in x.rungs)) for x in report.result.levels
    ]
    result = report.result.model_copy(
        update={
            "levels": levels(lie, details=details),
            "per_class": per_class(lie),
            "samples": lie.described,
            "largest_eps": largest_eps(lie, tolerance=report.result.largest_eps.tolerance),
        }
    )
    (folder / "samples.npz").write_bytes(lie.content)
    (folder / "report.json").write_text(dump(Report.of("certification", result, report.run)))
    return int(samples.index[row])


def test_a_changed_shard_is_found_by_its_digest(pipeline, here, shards):
    content = bytearray((here / "shard-2" / "samples.npz").read_bytes())
    content[-200] ^= 1
    (here / "shard-2" / "samples.npz").write_bytes(content)
    code, _, err = pipeline("merge", *shards, "--report", "merged")
    assert code == 5
    assert "shard-2" in err


def test_a_shard_that_its_own_samples_deny_is_found_though_its_digest_is_right(pipeline, here, shards):
    def denied(result):
        margin = result["levels"][0]["margin"]
        margin["p50"] = (margin["p05"] + margin["p50"]) / 2

    restated(here / "shard-2", denied)
    code, _, err = pipeline("merge", *shards, "--report", "merged")
    assert code == 5
    assert "shard-2" in err
    assert "margin.p50 is stated as" in " ".join(err.split())


def test_a_forged_certificate_is_found_by_verify(pipeline, here, shards):
    forged(here / "shard-1")
    assert pipeline("merge", *shards, "--report", "merged")[0] in (0, 1), "what is consistent cannot be told by itself"
    code, out, _ = pipeline("verify", "merged", "--model", MODEL, "--data", "digits", "--recheck", "40", "--seed", "1")
    assert code == 5
    assert "cannot be certified again" in out


@pytest.mark.parametrize("shard", ["0/3", "4/3", "3", "1/0", "a/b", "1/3/2"])
def test_a_shard_is_one_of_so_many(pipeline, here, shard):
    code, _, err = pipeline(*ASKED, "--shard", shard)
    assert code == 2
    assert "such as 3/16" in err


def test_few_samples_are_shared_out_among_few(pipeline, here):
    code, _, err = pipeline(*ASKED, "--shard", "1/6")
    assert code == 2
    assert "at most 3" in err
