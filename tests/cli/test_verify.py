"""``verify`` and ``compare``: whatever was changed is found, and what was not checked is said."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline.certify.ladder import certify as climb
from pipeline.cli.main import run
from pipeline.commands import verify_samples
from pipeline.data import load
from pipeline.results import Report, Samples, Verdict, dump, largest_eps, read, read_samples, write
from pipeline.results.canonical import digest

ROOT = Path(__file__).resolve().parents[2]
CERTIFY = ("--data", "npz:data.npz", "--eps", "1/1000,1/20", "--method", "crown-ibp")
ABOUT = ("--model", "model.onnx", "--data", "npz:data.npz")
GATES = ("--fail-under", "natural=0.5", "--fail-under", "class:3:certified@1/1000=0.1", "--require-parity", "1e-5")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a model whose weights lie beside it, data, and a report with gates, a baseline among them."""
    folder = tmp_path_factory.mktemp("made")
    model = onnx.load(ROOT / "models" / "digits.onnx")
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    digits = load("digits", part="test")
    np.savez(folder / "data.npz", x=digits.images[:40], y=digits.labels[:40])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["certify", "model.onnx", *CERTIFY, "--report", "kept"]) == 0
        held = ("--baseline", "kept", "--max-regression", "certified@1/1000=0.01", "--gate-on", "lower-ci")
        assert run(["certify", "model.onnx", *CERTIFY, *GATES, *held]) == 0
    return folder


@pytest.fixture
def folder(made, here):
    """All of it, to be spoilt."""
    shutil.copytree(made, here, dirs_exist_ok=True)
    return here


def flipped(path: Path, position: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def positions(size: int, count: int) -> list[tuple[int, int]]:
    """Bytes and bits all over a file, its ends among them."""
    rng = np.random.default_rng(size)
    some = [0, size - 1, *rng.integers(0, size, count - 2).tolist()]
    return [(int(at), int(rng.integers(8))) for at in some]


def test_what_was_not_touched_passes_and_says_what_was_not_checked(pipeline, folder):
    code, out, err = pipeline("verify", "model.report")
    assert code == 0, out + err
    assert "not checked  the model" in out
    code, out, err = pipeline("verify", "model.report/report.json", *ABOUT, "--recheck", "15", "--format", "json")
    assert code == 0, out + err
    found = json.loads(out)
    assert found["faults"] == []
    told = " ".join(found["checked"])
    for what in (
        "4 gates",
        "counterexamples lie within",
        "ONNX Runtime gives",
        "15 samples certified again",
        "the data",
    ):
        assert what in told
    assert any("sign report.json" in line for line in found["unchecked"])


def test_a_flipped_bit_in_the_result_is_found(pipeline, folder):
    path = folder / "model.report" / "report.json"
    whole = path.read_bytes()
    start, end = whole.index(b'"result":'), whole.index(b'"run":')
    for at, bit in positions(end - start, 150):
        flipped(path, start + at, bit)
        code, out, _ = pipeline("verify", "model.report")
        assert code in (3, 5), (at, bit, whole[start + at :][:40])
        assert code == 3 or "FAULT" in out
        path.write_bytes(whole)


@pytest.mark.parametrize(("name", "count"), [("samples.npz", 60), ("counterexamples.npz", 60)])
def test_a_flipped_bit_in_a_file_of_the_report_is_found(pipeline, folder, name, count):
    path = folder / "model.report" / name
    whole = path.read_bytes()
    for at, bit in positions(len(whole), count):
        flipped(path, at, bit)
        code, out, _ = pipeline("verify", "model.report")
        assert (code, f"FAULT        {name}" in out) == (5, True), (at, bit)
        path.write_bytes(whole)
    path.unlink()
    assert pipeline("verify", "model.report")[0] == 5


@pytest.mark.parametrize(("name", "count"), [("model.onnx", 40), ("weights.bin", 40)])
def test_a_flipped_bit_in_the_model_is_found(pipeline, folder, name, count):
    path = folder / name
    whole = path.read_bytes()
    for at, bit in positions(len(whole), count):
        flipped(path, at, bit)
        code, out, _ = pipeline("verify", "model.report", "--model", "model.onnx")
        assert (code, "FAULT        model.onnx" in out) == (5, True), (at, bit)
        path.write_bytes(whole)


def test_a_flipped_bit_in_the_data_is_found(pipeline, folder):
    """In the archive, some bits (a date) are no part of the data: whatever they change of an array is found."""
    path = folder / "data.npz"
    whole, right = path.read_bytes(), load("npz:data.npz", part=None).digest
    harmless = 0
    for at, bit in positions(len(whole), 60):
        flipped(path, at, bit)
        code, _, err = pipeline("verify", "model.report", "--data", "npz:data.npz")
        if code == 0:
            harmless += 1
            assert load("npz:data.npz", part=None).digest == right, (at, bit)
        else:
            assert code in (2, 3, 5), err
        path.write_bytes(whole)
    assert harmless < 6


def rewritten(folder: Path, change) -> None:
    """The result changed, and its digest computed anew, as a forger would."""
    path = folder / "model.report" / "report.json"
    raw = json.loads(path.read_text())
    change(raw["result"])
    raw["result_sha256"] = digest(raw["result"])
    path.write_text(json.dumps(raw, indent=2, ensure_ascii=False) + "\n")


LEFT = {
    "index": 10**6,
    "why": "charge",
    "domains": 9,
    "depth": 3,
    "bound": 0.5,
    "charge": 1.0,
    "layer": None,
    "share": None,
}

FORGERIES = [
    ("a gate passed", lambda r: r["gates"][0].update(passed=False) or r.update(verdict="fail"), "gate 'natural=0.5'"),
    ("a class gate", lambda r: r["gates"][1].update(observed="0.9999"), "class:3"),
    ("fewer lost", lambda r: r["gates"][2]["baseline"].update(lost=1), "certified@1/1000=0.01"),
    ("a looser parity", lambda r: r["gates"][3].update(observed="0"), "parity"),
    ("a p-value", lambda r: r["gates"][2]["baseline"].update(p_value="0.5"), "p = 0.5"),
    ("a margin", lambda r: r["levels"][0]["margin"].update(p50=1.0), "margin.p50"),
    ("a rung", lambda r: r["levels"][0]["rungs"][0].update(decided=7), "rungs[0].decided"),
    ("a class", lambda r: r["per_class"][0].update(label=9), "per_class"),
    ("no samples", lambda r: r.update(samples=None), "no samples"),
    ("no counterexamples", lambda r: r.update(counterexamples=None), "no counterexamples"),
    ("another eps", lambda r: r["gates"][2].update(eps="1/3"), "not in the result"),
    (
        "a reason",
        lambda r: r["levels"][1].update(unfinished=[LEFT]),
        "none of the unknown",
    ),
    ("laws", lambda r: r["levels"][0]["verdicts"].update(certified=40), "breaks a law"),
]


@pytest.mark.parametrize(("change", "says"), [f[1:] for f in FORGERIES], ids=[f[0] for f in FORGERIES])
def test_a_forged_result_with_a_right_digest_is_found(pipeline, folder, change, says):
    rewritten(folder, change)
    code, out, err = pipeline("verify", "model.report")
    assert code == 5, out + err
    assert says in out


def test_a_report_from_before_the_digest_told_where_a_file_ends(pipeline, folder):
    """It joined the model and its data: believed as long as each file has the digest that the report states of it."""
    joined = (folder / "model.onnx").read_bytes() + (folder / "weights.bin").read_bytes()
    rewritten(folder, lambda r: r["model"].update(sha256=hashlib.sha256(joined).hexdigest()))
    assert pipeline("verify", "model.report", "--model", "model.onnx")[0] == 0
    rewritten(folder, lambda r: r["model"]["external_data"][0].update(bytes=1))
    code, out, _ = pipeline("verify", "model.report", "--model", "model.onnx")
    assert (code, "this is not the model of the report" in out) == (5, True)


@pytest.mark.parametrize("eps", ["1/0", "1e999999999", "nan", "", "-1"])
def test_what_is_no_eps_is_no_report(pipeline, folder, eps):
    rewritten(folder, lambda r: r["levels"][0].update(eps=eps))
    assert pipeline("verify", "model.report")[0] == 3
    assert pipeline("compare", "model.report", "kept")[0] == 3


def test_another_spelling_of_the_same_number_is_found_and_white_space_is_none(pipeline, folder):
    path = folder / "model.report" / "report.json"
    text = path.read_text()
    path.write_text(json.dumps(json.loads(text), ensure_ascii=False))
    assert pipeline("verify", "model.report")[0] == 0
    # The last two have the digest that is stated: RFC 8785 knows doubles alone.
    for old, new in (
        ('"eps_float": 0.05', '"eps_float": 0.050'),
        ('"partial": false', '"partial": 0'),
        (": 0.0,", ": 0,"),
    ):
        assert old in text
        path.write_text(text.replace(old, new, 1))
        assert pipeline("verify", "model.report")[0] == 5


def spoilt(folder: Path, **columns) -> None:
    """Samples changed, with everything in the report that follows from them left as it was."""
    report = read(folder / "model.report")
    samples = read_samples(folder / "model.report" / "samples.npz", None)
    known = {name: getattr(samples, name) for name in samples.__dataclass_fields__} | columns
    changed = Samples(**known)
    result = report.result.model_copy(update={"samples": changed.described})
    (folder / "model.report" / "samples.npz").write_bytes(changed.content)
    path = folder / "model.report" / "report.json"
    path.write_text(dump(Report.of("certification", result, report.run)))


def test_counts_that_the_samples_do_not_give_are_found(pipeline, folder):
    samples = read_samples(folder / "model.report" / "samples.npz", None)
    verdict, decided = samples.verdict.copy(), samples.decided_by.copy()
    row = int(np.flatnonzero(verdict[0] == Verdict.CERTIFIED)[0])
    verdict[:, row], decided[:, row] = 3, 0
    spoilt(folder, verdict=verdict, decided_by=decided, survived=samples.survived | (verdict == 3))
    code, out, _ = pipeline("verify", "model.report")
    assert code == 5
    assert "levels[0].certified.k" in out


def test_a_certificate_at_a_larger_eps_alone_breaks_a_law(pipeline, folder):
    samples = read_samples(folder / "model.report" / "samples.npz", None)
    verdict, decided, margin = (getattr(samples, n).copy() for n in ("verdict", "decided_by", "margin_lower"))
    survived = samples.survived.copy()
    row = int(np.flatnonzero(samples.predicted == samples.label)[0])
    verdict[:, row], decided[:, row], margin[1, row], survived[:, row] = (3, 0), (0, 3), 1.0, True
    spoilt(folder, verdict=verdict, decided_by=decided, margin_lower=margin, survived=survived)
    code, out, _ = pipeline("verify", "model.report")
    assert code == 5
    assert "certified at eps 1/20 and not at 1/1000" in out


def test_a_lie_that_only_a_proof_uncovers(pipeline, folder):
    """Every file agrees with every other, and a sample that cannot be certified is stated as certified."""
    report = read(folder / "model.report")
    samples = read_samples(folder / "model.report" / "samples.npz", None)
    verdict, decided, margin = (getattr(samples, n).copy() for n in ("verdict", "decided_by", "margin_lower"))
    lie = int(np.flatnonzero(verdict[1] == 3)[0])
    verdict[:, lie], decided[:, lie], margin[:, lie] = Verdict.CERTIFIED, 3, 1.0
    known = {name: getattr(samples, name) for name in samples.__dataclass_fields__}
    forged = Samples(**{**known, "verdict": verdict, "decided_by": decided, "margin_lower": margin})
    from pipeline.results import LevelDetails, levels, per_class
    from pipeline.results.samples import read_counterexamples

    points = read_counterexamples(folder / "model.report" / "counterexamples.npz", None)
    forged = Samples(**{**{n: getattr(forged, n) for n in forged.__dataclass_fields__}, "counterexamples": points})
    details = [
        LevelDetails(x.layers, x.rounding, tuple((r.name, r.examined) for r in x.rungs)) for x in report.result.levels
    ]
    result = report.result.model_copy(
        update={
            "levels": levels(forged, details=details),
            "per_class": per_class(forged),
            "samples": forged.described,
            "gates": (),
        }
    )
    write(Report.of("certification", result, report.run), forged, folder / "model.report", page="")
    assert pipeline("verify", "model.report", *ABOUT)[0] == 0
    code, out, _ = pipeline("verify", "model.report", *ABOUT, "--recheck", "40")
    assert code == 5
    assert f"cannot be certified again; the first is {samples.index[lie]}" in out
    drawn = {seed: np.random.default_rng(seed).permutation(len(samples))[:3] for seed in range(100)}
    for caught in (True, False):
        seed = next(seed for seed, rows in drawn.items() if (lie in rows) == caught)
        code, _, err = pipeline("verify", "model.report", *ABOUT, "--recheck", "3", "--seed", str(seed))
        assert code == (5 if caught else 0)
        assert f"--seed {seed}" in err


def test_nobody_can_foresee_which_samples_are_proved_again(pipeline, folder):
    seeds = set()
    for _ in range(2):
        code, _, err = pipeline("verify", "model.report", *ABOUT, "--recheck", "1")
        assert code == 0
        seeds.add(re.search(r"--seed (\d+)", " ".join(err.split()))[1])
    assert len(seeds) == 2


def test_points_outside_their_balls_and_harmless_ones_are_found(pipeline, folder):
    from pipeline.results.samples import COUNTEREXAMPLES_NAME, Counterexamples, read_counterexamples

    path = folder / "model.report" / COUNTEREXAMPLES_NAME
    points = read_counterexamples(path, None)
    samples = read_samples(folder / "model.report" / "samples.npz", None)
    assert (samples.verdict == Verdict.FALSIFIED).any()
    clean = load("npz:data.npz", part=None).images[points.index].reshape(points.image.shape)
    for image, says in ((points.image + np.float32(0.3), "outside its ball"), (clean, "another label than stated")):
        forged = Counterexamples(points.index, points.eps, image.astype(np.float32), points.predicted)
        path.write_bytes(forged.content)
        rewritten(folder, lambda r, f=forged: r["counterexamples"].update(sha256=f.described.sha256))
        assert pipeline("verify", "model.report")[0] == 0, "nothing but model and data can tell"
        code, out, _ = pipeline("verify", "model.report", *ABOUT)
        assert code == 5
        assert says in out


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("absent.report",), 2),
        (("data.npz",), 3),
        (("model.report", "--recheck", "5"), 2),
        (("model.report", "--recheck", "0", *ABOUT), 2),
        (("model.report", "--seed", "1"), 2),
        (("model.report", "--recheck", "1", "--seed", "-1", *ABOUT), 2),
        (("model.report", "--property", "p.vnnlib"), 2),
        (("model.report", "--model", "absent.onnx"), 3),
        (("model.report", "--data", "npz:absent.npz"), 2),
    ],
)
def test_what_cannot_be_verified_is_refused(pipeline, folder, argv, code):
    got, out, err = pipeline("verify", *argv)
    assert (got, out) == (code, ""), err


def test_a_retraining_is_verified_with_the_tenth_that_was_set_aside(pipeline, here):
    data = load("digits", part="train")
    np.savez(here / "all.npz", x=data.images, y=data.labels)
    short = ("--data", "npz:all.npz", "--eps", "0.05", "--epochs", "1", "--no-attack")
    assert pipeline("retrain", "model.onnx", *short)[0] == 0
    about = ("--model", "model.certified.onnx", "--data", "npz:all.npz", "--recheck", "20")
    code, out, err = pipeline("verify", "model.certified.report", *about)
    assert code == 0, out + err
    assert "20 samples certified again" in out


VIOLATED = (
    "".join(f"(declare-const {v} Real)" for v in (*(f"X_{i}" for i in range(64)), *(f"Y_{j}" for j in range(10))))
    + "".join(f"(assert (>= X_{i} 0))(assert (<= X_{i} 1))" for i in range(64))
    + "(assert (>= Y_0 Y_1))"
)


def test_the_report_of_a_property_is_verified_to_its_witness(pipeline, folder):
    (folder / "p.vnnlib").write_text(VIOLATED)
    assert pipeline("certify", "model.onnx", "--property", "p.vnnlib")[0] == 1
    about = ("--model", "model.onnx", "--property", "p.vnnlib")
    code, out, err = pipeline("verify", "p.report", *about)
    assert code == 0, out + err
    assert "the judge find the witness" in out
    for name, count in (
        ("p.report/report.json", 40),
        ("p.report/counterexample.txt", 10),
        ("p.vnnlib", 10),
        ("weights.bin", 10),
    ):
        path = folder / name
        whole = path.read_bytes()
        start, end = (whole.index(b'"result":'), whole.index(b'"run":')) if name.endswith("json") else (0, len(whole))
        for at, bit in positions(end - start, count):
            flipped(path, start + at, bit)
            assert pipeline("verify", "p.report", *about)[0] in (3, 5), (name, at, bit)
            path.write_bytes(whole)
    assert pipeline("verify", "p.report", "--recheck", "1")[0] == 2
    raw = json.loads((folder / "p.report" / "report.json").read_text())
    raw["result"]["witness"]["x"] = ["0"] * 64
    raw["result_sha256"] = digest(raw["result"])
    (folder / "p.report" / "report.json").write_text(json.dumps(raw, ensure_ascii=False))
    assert pipeline("verify", "p.report")[0] == 5, "counterexample.txt is another"
    raw["result"]["witness"]["x"] = ["1e999999999"] * 64
    raw["result_sha256"] = digest(raw["result"])
    (folder / "p.report" / "report.json").write_text(json.dumps(raw, ensure_ascii=False))
    assert pipeline("verify", "p.report")[0] == 3


HOLDS = VIOLATED.replace("(assert (>= Y_0 Y_1))", "(assert (>= Y_0 1000))")


def test_the_proof_of_a_property_is_made_again(pipeline, folder):
    (folder / "p.vnnlib").write_text(HOLDS)
    assert pipeline("certify", "model.onnx", "--property", "p.vnnlib", "--method", "crown-ibp")[0] == 0
    about = ("--model", "model.onnx", "--property", "p.vnnlib")
    code, out, _ = pipeline("verify", "p.report", *about)
    assert code == 0
    assert "not checked  the proof" in out
    code, out, err = pipeline("verify", "p.report", *about, "--recheck", "1")
    assert code == 0, out + err
    assert "ok           the property, decided again: it holds" in out


@pytest.mark.parametrize(
    ("unsafe", "says"),
    [("(>= Y_0 Y_1)", "a counterexample was found"), ("(>= Y_0 60)", "1 of 1 boxes cannot be refuted again")],
)
def test_a_property_that_does_not_hold_is_uncovered_by_the_proof_alone(pipeline, folder, unsafe, says):
    """The report of another property, in which everything but the proof fits."""
    (folder / "p.vnnlib").write_text(HOLDS)
    assert pipeline("certify", "model.onnx", "--property", "p.vnnlib", "--method", "ibp")[0] == 0
    (folder / "p.vnnlib").write_text(VIOLATED.replace("(>= Y_0 Y_1)", unsafe))
    path = folder / "p.report" / "report.json"
    raw = json.loads(path.read_text())
    raw["result"]["property"]["sha256"] = hashlib.sha256((folder / "p.vnnlib").read_bytes()).hexdigest()
    raw["result_sha256"] = digest(raw["result"])
    path.write_text(json.dumps(raw, ensure_ascii=False))
    about = ("--model", "model.onnx", "--property", "p.vnnlib")
    assert pipeline("verify", "p.report", *about)[0] == 0
    code, out, err = pipeline("verify", "p.report", *about, "--recheck", "1")
    assert code == 5, out + err
    assert says in out


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_largest_eps_that_only_a_proof_uncovers(pipeline, folder, norm):
    asked = (*CERTIFY[:2], "--eps", "1/1000", "--norm", norm, "--method", "crown-ibp", "--largest-eps")
    assert pipeline("certify", "model.onnx", *asked)[0] == 0
    recheck = ("verify", "model.report", *ABOUT, "--recheck", "40")
    code, out, err = pipeline(*recheck)
    assert code == 0, out + err
    assert "the largest eps of 40 samples, certified again" in out
    samples = read_samples(folder / "model.report" / "samples.npz", None)
    lie = int(np.nanargmax(samples.largest_eps))
    for value, says in (
        (samples.largest_eps[lie] + 2 / 4096, f"at their largest eps; the first is {samples.index[lie]}"),
        (np.nan, "a number of at least 0"),
    ):
        largest = samples.largest_eps.copy()
        largest[lie] = value
        known = {name: getattr(samples, name) for name in samples.__dataclass_fields__} | {"largest_eps": largest}
        forged = Samples(**known)
        (folder / "model.report" / "samples.npz").write_bytes(forged.content)
        quantiles = largest_eps(forged, tolerance="1/4096").model_dump(mode="json")
        sha = forged.described.sha256
        rewritten(folder, lambda r, q=quantiles, s=sha: r.update(largest_eps=q) or r["samples"].update(sha256=s))
        assert pipeline("verify", "model.report", *ABOUT)[0] == 0
        code, out, err = pipeline(*recheck)
        assert code == 5, out + err
        assert says in out


def test_a_largest_eps_where_no_sample_is_correct(pipeline, folder):
    digits = load("digits", part="test").take(np.arange(4))
    np.savez(folder / "wrong.npz", x=digits.images, y=(digits.labels + 1) % 10)
    about = ("--model", "model.onnx", "--data", "npz:wrong.npz")
    code, _, err = pipeline("certify", *about[1:], "--eps", "1/1000", "--method", "ibp", "--largest-eps")
    assert code == 0, err
    code, out, err = pipeline("verify", "model.report", *about, "--recheck", "4")
    assert code == 0, out + err
    assert "the largest eps of 4 samples, certified again" in out


def test_compare_says_what_flipped(pipeline, folder):
    code, out, err = pipeline("compare", "kept", "model.report", "--format", "json")
    assert code == 0, err
    same = json.loads(out)
    assert {change["p_value"] for change in same["changes"]} == {"1"}
    assert len(same["changes"]) == 5, "natural, and two metrics at two eps"

    model = onnx.load(folder / "model.onnx")
    for tensor in model.graph.initializer[:1]:
        noise = np.random.default_rng(0).normal(0, 0.3, tensor.dims)
        tensor.CopyFrom(
            onnx.numpy_helper.from_array((onnx.numpy_helper.to_array(tensor) + noise).astype("f4"), tensor.name)
        )
    onnx.save(model, folder / "other.onnx")
    assert (
        pipeline("certify", "other.onnx", *CERTIFY[:2], "--eps", "1/1000", "--method", "ibp", "--arithmetic", "real")[0]
        == 0
    )
    code, out, err = pipeline("compare", "kept", "other.report", "--format", "json")
    assert code == 0, err
    found = json.loads(out)
    assert "arithmetic" in found["differing"]
    assert [change["eps"] for change in found["changes"]] == [None, "1/1000", "1/1000"]
    one, two = (read_samples(folder / name / "samples.npz", None) for name in ("kept", "other.report"))
    for change, had, has in (
        (found["changes"][0], one.predicted == one.label, two.predicted == two.label),
        (found["changes"][2], one.verdict[0] == Verdict.CERTIFIED, two.verdict[0] == Verdict.CERTIFIED),
    ):
        assert change["lost_samples"] == one.index[had & ~has].tolist()
        assert change["gained_samples"] == one.index[has & ~had].tolist()
        assert sum(c["lost"] for c in change["classes"]) == change["lost"]
        assert change["after"]["k"] - change["before"]["k"] == change["gained"] - change["lost"]
    assert found["changes"][2]["lost"] > 0
    code, out, _ = pipeline("compare", "kept", "other.report")
    assert code == 0
    assert "certified@1/1000 lost: samples" in out


def test_compare_refuses_other_samples_and_eps(pipeline, folder):
    for change, says in (
        (("--max-samples", "7"), "samples"),
        (("--eps", "1/7"), "both have"),
        (("--norm", "l2"), "threat"),
    ):
        assert pipeline("certify", "model.onnx", *CERTIFY, "--no-attack", "--method", "ibp", *change)[0] == 0
        code, out, err = pipeline("compare", "kept", "model.report")
        assert (code, out) == (3, ""), err
        assert says in err
    flipped(folder / "kept" / "samples.npz", 300, 0)
    assert pipeline("compare", "kept", "model.report")[0] == 5


def test_a_contradiction_found_on_the_way_is_a_fault(pipeline, folder, monkeypatch):
    from pipeline.errors import Contradiction

    def refuted(*given, **named):
        yield from ()
        raise Contradiction("certified and attacked")

    assert verify_samples.verdicts.certify is climb
    monkeypatch.setattr(verify_samples.verdicts, "certify", refuted)
    code, out, _ = pipeline("verify", "model.report", *ABOUT, "--recheck", "3")
    assert code == 5
    assert "certified and attacked" in out
