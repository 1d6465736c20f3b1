"""Proofs: what certify writes is replayed, and whatever is changed in it is found, even where every digest is made to fit."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from pipeline.certify import complete
from pipeline.checker.proof import Checked, check
from pipeline.cli.main import run
from pipeline.commands import proving
from pipeline.commands.check_proof import without_proof
from pipeline.results import Samples, Verdict
from pipeline.results.canonical import digest
from tests.checker.small import Drawing

Arrays = dict[str, np.ndarray]
EPS = "1/14"


def data() -> tuple[bytes, np.ndarray, np.ndarray]:
    """A model, samples and their labels; its logits are centred, so that each class is the label of some."""
    x = np.random.default_rng(2).random((60, 6)).astype(np.float32)

    def model(middle: np.ndarray) -> bytes:
        d, last = Drawing(1), "x"
        for before, after in ((6, 20), (20, 20)):
            last = d.node("Relu", d.node("Gemm", last, d.weight(before, after), d.weight(after)))
        return d.model(d.node("Sub", d.node("MatMul", last, d.weight(20, 3)), d.constant(middle)), "n", 6)

    def logits(content: bytes) -> np.ndarray:
        return onnxruntime.InferenceSession(content).run(None, {"x": x})[0]

    content = model(logits(model(np.zeros(3, np.float32))).mean(0))
    return content, x, logits(content).argmax(1)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, proofs of samples of which some take splits and boxes by slopes of their own, and the report."""
    folder = tmp_path_factory.mktemp("proofs")
    content, x, labels = data()
    (folder / "model.onnx").write_bytes(content)
    np.savez(folder / "data.npz", x_test=x, y_test=labels)
    asked = (
        "certify",
        folder / "model.onnx",
        "--data",
        f"npz:{folder / 'data.npz'}",
        "--eps",
        EPS,
        "--method",
        "complete",
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(complete, "EARLY", 4)
        assert run([*map(str, asked), "--proof", str(folder / "proofs"), "--report", str(folder / "report")]) == 0
    return folder


@pytest.fixture
def copied(kept: Path, here: Path) -> Path:
    """The same in the working folder."""
    return Path(shutil.copytree(kept, here / "copy"))


def told(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "proofs.json").read_text())


def stored(folder: Path, index: int) -> Arrays:
    return dict(np.load(folder / f"{index}.npz"))


def restated(folder: Path, index: int, change: Callable[[Arrays, dict[str, Any]], Any]) -> None:
    """A proof that was changed, with the digests of what it is now."""
    about = told(folder)
    (entry,) = (one for one in about["samples"] if one["index"] == index)
    arrays = stored(folder, index)
    change(arrays, entry)
    np.savez(folder / f"{index}.npz", **arrays)
    entry["sha256"] = hashlib.sha256((folder / f"{index}.npz").read_bytes()).hexdigest()
    (folder / "proofs.json").write_text(json.dumps(about))


def split_most(folder: Path) -> int:
    """The sample of the most leaves, of those with boxes by slopes of their own."""
    found = {one["index"]: stored(folder, one["index"]) for one in told(folder)["samples"]}
    return max(found, key=lambda index: (len(found[index]["box_at"]) > 0, len(found[index]["split"])))


def test_proofs_hold_and_are_those_of_the_report(pipeline, copied: Path) -> None:
    data = "--data", f"npz:{copied / 'data.npz'}"
    for named in ((), ("--report", copied / "report"), ("--report", copied / "report", *data)):
        code, out, err = pipeline("check-proof", copied / "model.onnx", copied / "proofs", *named)
        assert code == 0, out + err
        assert ("Not compared with a report" in out) == (not named)
        assert ("not compared with data" in out) == (data[0] not in named)
        assert (", 0 without a proof" in out) == bool(named)
    code, _, err = pipeline("check-proof", copied / "model.onnx", copied / "proofs", *data)
    assert (code, "--report" in err) == (2, True), err
    samples = [stored(copied / "proofs", one["index"]) for one in told(copied / "proofs")["samples"]]
    assert len(samples) > 8
    assert any(len(one["split"]) == 0 for one in samples)
    assert max(len(one["split"]) for one in samples) > 8
    assert any(len(one["box_at"]) for one in samples)


def without_leaf(arrays: Arrays, entry: object) -> None:
    leaf = arrays["split"][0, 0]
    others = arrays["split"][:, 0] != leaf
    arrays["split"] = arrays["split"][others] - [[1, 0]] * (arrays["split"][others] > leaf)[:, :1]
    arrays["sign"], arrays["beta"] = arrays["sign"][others], arrays["beta"][others]
    arrays["row"], arrays["alpha"] = np.delete(arrays["row"], leaf), np.delete(arrays["alpha"], leaf, 0)


def put(name: str, value: float, at: object = 0) -> Callable[[Arrays, object], None]:
    def change(arrays: Arrays, entry: object) -> None:
        arrays[name][at] = value

    return change


CHANGES: dict[str, tuple[Callable[[Arrays, dict[str, Any]], Any], str]] = {
    "a wrong leaf": (lambda arrays, entry: np.negative(arrays["sign"][:1], out=arrays["sign"][:1]), "sibling"),
    "a missing sibling": (without_leaf, "sibling"),
    "a rival that no leaf is about": (
        lambda arrays, entry: put("row", arrays["row"][0], slice(None))(arrays, entry),
        "class",
    ),
    "another label": (lambda arrays, entry: entry.update(label=(entry["label"] + 1) % 3), "class"),
    "a label that is no number": (lambda arrays, entry: entry.update(label=7), "class"),
    "a larger eps": (lambda arrays, entry: entry.update(eps="1/4"), "margin"),
    "a negative eps": (lambda arrays, entry: entry.update(eps="-1/4"), "eps"),
    "a negative multiplier": (put("beta", -0.5), "multiplier"),
    "a slope above one": (put("alpha", 1.5), "slope"),
    "a slope below zero": (put("alpha", -0.1), "slope"),
    "a slope that is NaN": (put("alpha", np.nan), "slope"),
    "a slope of a box above one": (put("box_alpha", 1.5), "slope"),
    "a split that is none": (put("sign", 0), "sibling"),
    "a neuron named twice": (lambda arrays, entry: put("at", arrays["at"][1])(arrays, entry), "twice"),
    "a neuron of no ReLU": (put("relu", 9), "none"),
    "a pixel out of range": (put("x", 1.5), "range"),
    "an array left out": (lambda arrays, entry: arrays.pop("beta"), "beta"),
    "slopes of fewer leaves": (lambda arrays, entry: arrays.update(alpha=arrays["alpha"][1:]), "shapes"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_found(copied: Path, what: str) -> None:
    change, fault = CHANGES[what]
    folder, content = copied / "proofs", (copied / "model.onnx").read_bytes()
    index = split_most(folder)
    restated(folder, index, lambda arrays, entry: None)
    assert not any(one.fault for one in check(content, folder))
    restated(folder, index, change)
    assert [(one.index, fault in one.fault) for one in check(content, folder) if one.fault] == [(index, True)]


def test_a_changed_weight_is_found_and_swapped_samples_are(copied: Path) -> None:
    """By digests, and where digests are made to fit by the margins."""
    folder, content, about = copied / "proofs", (copied / "model.onnx").read_bytes(), told(copied / "proofs")
    other = onnx.ModelProto.FromString(content)
    last = other.graph.initializer[-1]
    label = about["samples"][0]["label"]
    lowered = numpy_helper.to_array(last) + 50 * np.eye(3, dtype=np.float32)[label]
    last.CopyFrom(numpy_helper.from_array(lowered, last.name))
    changed = other.SerializeToString()
    assert all("another" in one.fault for one in check(changed, folder))
    about["model_sha256"] = hashlib.sha256(changed).hexdigest()
    (folder / "proofs.json").write_text(json.dumps(about))
    found = list(check(changed, folder))
    assert all(one.fault == "" or "margin" in one.fault for one in found)
    assert all(one.fault for one in found if one.label == label)
    about["model_sha256"] = hashlib.sha256(content).hexdigest()
    first = about["samples"][0]
    second = next(one for one in about["samples"] if one["label"] != first["label"])
    pair = [folder / f"{one['index']}.npz" for one in (first, second)]
    for path, bytes_ in zip(pair, [path.read_bytes() for path in pair[::-1]], strict=True):
        path.write_bytes(bytes_)
    (folder / "proofs.json").write_text(json.dumps(about))
    swapped = {first["index"], second["index"]}
    assert {one.index for one in check(content, folder) if "digest" in one.fault} == swapped
    first["sha256"], second["sha256"] = second["sha256"], first["sha256"]
    (folder / "proofs.json").write_text(json.dumps(about))
    assert {one.index for one in check(content, folder) if one.fault} == swapped


def test_proofs_of_another_run_are_not_those_of_the_report(pipeline, copied: Path) -> None:
    about = told(copied / "proofs")
    del about["samples"][0]
    (copied / "proofs" / "proofs.json").write_text(json.dumps(about))
    code, _, err = pipeline("check-proof", copied / "model.onnx", copied / "proofs", "--report", copied / "report")
    assert code == 5
    assert "digest of other proofs" in err


def refitted(copied: Path) -> None:
    """A report that states the digest of the proofs as they are now."""
    file = copied / "report" / "report.json"
    raw = json.loads(file.read_text())
    manifest = (copied / "proofs" / "proofs.json").read_bytes()
    raw["result"]["proofs"] = {
        "sha256": hashlib.sha256(manifest).hexdigest(),
        "samples": len(json.loads(manifest)["samples"]),
    }
    raw["result_sha256"] = digest(raw["result"])
    file.write_text(json.dumps(raw))


def test_a_certified_sample_without_a_proof_is_said_and_ends_in_4(pipeline, copied: Path) -> None:
    about = told(copied / "proofs")
    left = about["samples"].pop(0)
    (copied / "proofs" / "proofs.json").write_text(json.dumps(about))
    refitted(copied)
    asked = ("check-proof", copied / "model.onnx", copied / "proofs", "--report", copied / "report")
    code, out, err = pipeline(*asked)
    assert (code, "1 have none" in err, ", 1 without a proof" in out) == (4, True, True), out + err
    assert f"NO PROOF  sample {left['index']}, label {left['label']}, eps {EPS}" in out
    code, out, err = pipeline(*asked, "--partial")
    assert (code, "NO PROOF" in out) == (0, True), out + err
    code, out, _ = pipeline(*asked, "--partial", "--format", "json")
    listed = json.loads(out)
    assert (code, listed[-1]) == (0, {"index": left["index"], "label": left["label"], "eps": EPS, "proof": None})
    assert len(listed) == len(about["samples"]) + 1
    assert pipeline(*asked[:3], "--partial")[0] == 2


def test_what_the_checker_does_not_accept_is_no_proof(pipeline, kept: Path, here: Path, monkeypatch) -> None:
    """As where its account of rounding, which is another, has no room left; the sample remains certified."""
    refused, made = "the margin to class 1 is only at least -1e-07", proving.check

    def strict(content: bytes, folder: Path) -> Iterator[Checked]:
        first, *others = made(content, folder)
        yield from (replace(first, fault=refused), *others)

    monkeypatch.setattr(proving, "check", strict)
    asked = ("certify", kept / "model.onnx", "--data", f"npz:{kept / 'data.npz'}", "--eps", EPS, "--method", "crown")
    code, out, err = pipeline(*asked, "--proof", here / "proofs", "--report", here / "report", "--no-attack")
    assert (code, "1 certified samples have no proof" in err, refused in err) == (0, True, True), out + err
    names = {int(file.stem) for file in (here / "proofs").glob("*.npz")}
    assert names == {one["index"] for one in told(here / "proofs")["samples"]}
    assert len(names) > 0
    asked = ("check-proof", kept / "model.onnx", here / "proofs", "--report", here / "report")
    code, out, err = pipeline(*asked)
    assert (code, ", 1 without a proof" in out) == (4, True), out + err


def test_a_proof_covers_every_smaller_eps_and_no_larger_one() -> None:
    certified, falsified = Verdict.CERTIFIED, Verdict.FALSIFIED
    verdict = np.array([[certified, certified, certified], [certified, falsified, certified]], np.uint8)
    one = np.array([4, 6, 9])
    samples = Samples(("1/9", "1/5"), one, 0 * one, 0 * one, verdict, np.where(verdict == certified, 1.0, np.nan))
    proofs = [Checked(4, 0, "1/9"), Checked(6, 0, "1/9"), Checked(9, 0, "1/5")]
    assert [(lack.index, lack.eps) for lack in without_proof(samples, proofs)] == [(4, "1/5")]


def test_samples_of_other_data_are_not_those_of_the_report(pipeline, copied: Path) -> None:
    """Even where a report was made to fit the proofs of samples that were moved."""
    folder = copied / "proofs"
    index = told(folder)["samples"][0]["index"]
    restated(folder, index, lambda arrays, entry: arrays["x"].__iadd__(1e-6))
    refitted(copied)
    asked = ("check-proof", copied / "model.onnx", folder, "--report", copied / "report")
    assert pipeline(*asked)[0] == 0
    code, _, err = pipeline(*asked, "--data", f"npz:{copied / 'data.npz'}")
    assert (code, "other pixels" in err) == (5, True), err
    (folder / f"{index}.npz").write_bytes(b"nothing")
    code, out, _ = pipeline(*asked, "--data", f"npz:{copied / 'data.npz'}")
    assert (code, "digest" in out) == (5, True), out


@pytest.mark.parametrize(
    ("flags", "code", "word"),
    [
        (("--norm", "l2"), 2, "--norm"),
        (("--shard", "1/2"), 2, "--shard"),
        (("--time-budget", "1h"), 2, "--time-budget"),
        (("--arithmetic", "none"), 2, "--arithmetic"),
        (("--devices", "2"), 2, "--devices"),
    ],
)
def test_what_cannot_be_proved_to_others_is_refused(pipeline, copied: Path, flags, code: int, word: str) -> None:
    data = f"npz:{copied / 'data.npz'}"
    found, _, err = pipeline("certify", copied / "model.onnx", "--data", data, "--eps", EPS, "--proof", "p", *flags)
    assert (found, word in err) == (code, True), err
    assert not Path("p").exists()


def test_an_operator_that_the_checker_does_not_know_is_refused_by_name(pipeline, here: Path) -> None:
    d = Drawing(0)
    content = d.model(d.node("LeakyRelu", d.node("Gemm", "x", d.weight(6, 3))), "n", 6)
    Path("leaky.onnx").write_bytes(content)
    np.savez("data.npz", x_test=np.zeros((4, 6), np.float32), y_test=np.arange(4) % 3)
    code, _, err = pipeline("certify", "leaky.onnx", "--data", "npz:data.npz", "--eps", EPS, "--proof", "p")
    assert (code, "LeakyRelu" in err) == (3, True), err
