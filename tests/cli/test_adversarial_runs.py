"""What strangers can put around a model, a dozen and more of each kind: certificates are true, or the run ends in its code with
the words that say what is wrong.

The kinds: tails behind the logits; folders and reports that somebody made; files read once; budgets; inputs of all sorts; and
the network, which nothing but ``--download`` opens.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, helper

from pipeline.certify import Progress, Strategy, Work
from pipeline.certify.ladder import certify as climb
from pipeline.certify.prover import Prover
from pipeline.commands.subject import open_model
from pipeline.core.threat import LinfBall
from pipeline.data import load, npz
from pipeline.errors import InputRejected
from pipeline.onnx import importer, model_file, runtime
from pipeline.results import LevelDetails, Report, Samples, Verdict, levels, per_class, read, read_samples, write
from pipeline.results.canonical import digest
from pipeline.results.samples import COUNTEREXAMPLES_NAME, Counterexamples, read_counterexamples
from pipeline.settings import Settings
from pipeline.system.seal import LENGTH, Seal
from tests.cli import bad_data as data
from tests.cli import bad_models as models
from tests.climbing import deployed, images_of, labels_of, lively
from tests.onnx.files import mlp, model, node

CERTIFY = ("certify", "m.onnx", "--data", "npz:d.npz", "--eps", "0.01", "--method", "ibp", "--no-attack")
INSPECT, VERIFY = ("inspect", "m.onnx"), ("verify", "r", "--model", "m.onnx", "--data", "npz:d.npz", "--recheck", "24")
PROPERTY = ("certify", "m.onnx", "--property", "p.vnnlib", "--time-budget", "5s")
RETRAIN = (
    "retrain",
    "m.onnx",
    "--data",
    "npz:d.npz",
    "--eps",
    "0.01",
    "--epochs",
    "1",
    "--no-attack",
    "--method",
    "ibp",
)
S = np.float32
OWN = Seal(bytes.fromhex("7e" * 32))
"""What the tests' own key seals (tests/conftest.py)."""


# Kind 6: tails.


@dataclass(frozen=True)
class Tail:
    """What stands behind the logits ``z`` of four classes; whether any box is certified in the default mode; a refusal."""

    name: str
    nodes: Sequence[onnx.NodeProto]
    some: bool = True
    constants: dict[str, Any] | None = None
    opset: int = 17
    says: str | None = None


def soft(given: str, made: str, axis: int = -1, kind: str = "Softmax") -> onnx.NodeProto:
    return node(kind, [given], [made], axis=axis)


PAIRS = {"two": np.array([0, 2, 2]), "four": np.array([0, 4])}
GROUPS = [node("Reshape", ["z", "two"], ["r"]), soft("r", "a", 1), node("Reshape", ["a", "four"], ["y"])]
NO_BOUND = "the float32 error of Softmax is bounded by no standard"
TAILS = [
    Tail("a Softmax of opset 11 that flattens its groups", GROUPS, constants=PAIRS, opset=11),
    Tail("the same nodes at opset 13", GROUPS, constants=PAIRS, says=NO_BOUND),
    Tail("a Softmax whose classes are named anew", [soft("z", "a"), node("Gather", ["a", "p"], ["y"], axis=1)], says=NO_BOUND,
         constants={"p": np.array([2, 0, 3, 1])}),
    Tail("a Softmax turned round", [soft("z", "a"), node("Mul", ["a", "k"], ["y"])], constants={"k": S([[-1]])}, says=NO_BOUND),
    Tail("a class of its own beside a Softmax", [soft("z", "a"), node("Pad", ["a", "p", "k"], ["y"])], says=NO_BOUND,
         constants={"p": np.array([0, 1, 0, 0]), "k": S(0.4)}),
    Tail("a temperature of a billion before a Softmax", [node("Div", ["z", "k"], ["a"]), soft("a", "y", kind="LogSoftmax")],
         constants={"k": S(1e9)}, some=False),
    Tail("an offset of ten millions before a Softmax", [node("Add", ["z", "k"], ["a"]), soft("a", "y")],
         constants={"k": S(1e7)}, some=False),
    Tail("logits over their sum, which changes sign", [node("ReduceSum", ["z", "k"], ["s"]), node("Div", ["z", "s"], ["y"])],
         constants={"k": np.array([1])}),
    Tail("a divisor of all classes below zero", [node("Div", ["z", "k"], ["y"])], constants={"k": S(-2)}),
    Tail("one over the logits", [node("Div", ["k", "z"], ["y"])], constants={"k": S(2)}),
    Tail("the largest less each", [node("ReduceMax", ["z"], ["m"], axes=[1]), node("Sub", ["m", "z"], ["y"])]),
    Tail("a Floor before a Softmax", [node("Floor", ["z"], ["a"]), soft("a", "y")]),
    Tail("a Clip whose ends are crossed", [node("Clip", ["z", "lo", "hi"], ["y"])], some=False,
         constants={"lo": S(1), "hi": S(-1)}),
    Tail("a LeakyRelu that falls", [node("LeakyRelu", ["z"], ["y"], alpha=-0.5)]),
    Tail("a HardSigmoid that falls", [node("HardSigmoid", ["z"], ["y"], alpha=-0.2, beta=0.5)]),
]  # fmt: skip


def headed(tail: Tail) -> tuple[bytes, np.ndarray]:
    """A small network with the tail, whose classes all occur, and samples."""
    rng = np.random.default_rng(5)
    x, w, v = rng.random((16, 6), S), rng.standard_normal((6, 16)).astype(S), rng.standard_normal((16, 4)).astype(S)
    held = {"w": w, "v": v, "b": -(np.maximum(x @ w, 0) @ v).mean(0)}
    body = [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["g"]), node("Gemm", ["g", "v", "b"], ["z"])]
    made = model([*body, *tail.nodes], ["N", 6], held | (tail.constants or {}), opset=tail.opset)
    return made.SerializeToString(), x


@pytest.mark.parametrize("tail", TAILS, ids=lambda tail: tail.name)
def test_a_tail_keeps_every_certificate_true(tail: Tail, tmp_path: Path) -> None:
    content, x = headed(tail)
    (tmp_path / "m.onnx").write_bytes(content)
    subject = open_model(model_file.read(tmp_path / "m.onnx"), Settings())
    labels, certified = subject.predict(x).argmax(1), 0
    prover = Prover(subject.network, x, labels, Strategy(method="ibp"))
    signs = np.random.default_rng(0).choice([-1, -0.5, 0, 0.5, 1], (400, 6)).astype(S)
    for eps in (Fraction(1, 512), Fraction(1, 16)):
        if tail.says is not None and not prover.settings.kernels:
            with pytest.raises(InputRejected, match=re.escape(tail.says)):
                prover.margins("ibp", LinfBall(eps), np.arange(len(x)))
            prover = Prover(subject.network, x, labels, Strategy(method="ibp", kernels={"Softmax": (2.0**-110, 4e-7)}))
        proved = prover.margins("ibp", LinfBall(eps), np.arange(len(x))) > 0
        certified += int(proved.sum())
        if not proved.any():
            continue
        points = np.clip(x[proved, None] + S(eps) * signs, 0, 1)
        exact = np.abs(points.astype(np.float64) - x[proved, None].astype(np.float64)) <= float(eps)
        assert exact.mean() > 0.5
        points = np.where(exact, points, x[proved, None])
        said = subject.predict(points.reshape(-1, 6)).argmax(1).reshape(points.shape[:2])
        assert (said == labels[proved, None]).all()
    assert (certified > 0) == tail.some


# Kind 7: reports. Every forgery has the digests that a forger would compute.


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits, and a report of them."""
    from pipeline.cli.main import run

    folder = tmp_path_factory.mktemp("made")
    shutil.copyfile(Path(__file__).parents[2] / "models" / "digits.onnx", folder / "m.onnx")
    digits = load("digits", part="test")
    np.savez(folder / "d.npz", x=digits.images[:24], y=digits.labels[:24])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        flags = ("--eps", "1/100,1/20", "--method", "crown-ibp", "--report", "r")
        assert run(["certify", "m.onnx", "--data", "npz:d.npz", *flags]) == 0
    return folder


def stated(change: Callable[[dict[str, Any]], object]) -> Callable[[], None]:
    def forge() -> None:
        path = Path("r/report.json")
        raw = json.loads(path.read_text())
        change(raw["result"])
        raw["result_sha256"] = digest(raw["result"], raw["schema_version"])
        path.write_text(json.dumps(raw, indent=2) + "\n")

    return forge


def picked(selection: dict[str, Any]) -> Callable[[], None]:
    """Those samples alone that are certified, and everything that follows from them."""

    def forge() -> None:
        report, samples = read(Path("r")), read_samples(Path("r/samples.npz"), None)
        keep = samples.verdict[0] == Verdict.CERTIFIED
        assert 0 < keep.sum() < len(samples)
        known = {n: getattr(samples, n) for n in samples.__dataclass_fields__ if n not in ("eps", "counterexamples")}
        all_points = read_counterexamples(Path("r") / COUNTEREXAMPLES_NAME, None)
        broken = np.isin(all_points.index, samples.index[keep])
        points = Counterexamples(*(getattr(all_points, n)[broken] for n in all_points.__dataclass_fields__))
        told = {n: None if v is None else v[..., keep] for n, v in known.items()}
        kept = Samples(samples.eps, **told, counterexamples=points)
        rewritten(report, kept, n_evaluated=len(kept), **{k: v(len(kept)) for k, v in selection.items()})

    return forge


def survivors() -> None:
    """No attack is said to have broken anything."""
    report, samples = read(Path("r")), read_samples(Path("r/samples.npz"), None)
    broken = samples.verdict == Verdict.FALSIFIED
    assert broken.any()
    known = {n: getattr(samples, n) for n in samples.__dataclass_fields__ if n != "counterexamples"}
    assert samples.survived is not None
    assert samples.decided_by is not None
    known |= {"verdict": np.where(broken, Verdict.UNKNOWN, samples.verdict).astype(np.uint8)}
    known |= {"survived": samples.survived | broken}
    known |= {"decided_by": np.where(broken, 0, samples.decided_by).astype(np.uint8)}
    rewritten(report, Samples(**known))


def rewritten(report: Report, samples: Samples, **about_data: Any) -> None:
    result, points = report.result, samples.counterexamples
    details = [LevelDetails(x.layers, x.rounding, tuple((r.name, r.examined) for r in x.rungs)) for x in result.levels]
    followed = {
        "levels": levels(samples, details=details),
        "per_class": per_class(samples),
        "samples": samples.described,
    }
    followed |= {"data": result.data.model_copy(update=about_data), "counterexamples": points and points.described}
    changed = result.model_copy(update=followed)
    write(Report.of("certification", changed, report.run), samples, Path("r"), page="")


def swapped(name: str, make: Callable[[Path], object]) -> Callable[[], None]:
    def forge() -> None:
        (Path("r") / name).unlink(missing_ok=True)
        make(Path("r") / name)

    return forge


def randomly(count: int) -> Any:
    return read(Path("r")).result.data.selection.model_copy(
        update={"method": "random", "seed": 3, "max_samples": count}
    )


FORGERIES: dict[str, tuple[Callable[[], None], int, str]] = {
    "the certified samples alone": (picked({}), 5, "its selection takes 24"),
    "the certified samples, as if drawn": (picked({"selection": randomly}), 5, "not those that the selection"),
    "an attacker who may do little": (stated(lambda r: r["threat"].update(range=[0.4, 0.6])), 5, "and the attacker's in"),
    "a statement of one's own": (stated(lambda r: r["method"].update(statement="safe")), 5, "is not the one of this program"),
    "no assumptions": (stated(lambda r: r["method"].update(assumptions=[])), 5, "leaves out what its statement assumes"),
    "another executed graph": (
        stated(lambda r: r["method"]["execution"].update(graph_sha256="0" * 64)), 5, "its statement of what certified means"),
    "metadata that the model lacks": (stated(lambda r: r["model"].update(metadata={"by": "us"})), 5, "model.metadata.by"),
    "operators that the model lacks": (stated(lambda r: r["model"].update(ops={"Relu": 1})), 5, "model.ops."),
    "samples from another folder": (stated(lambda r: r["samples"].update(file="../samples.npz")), 3, "'samples.npz'"),
    "survivors of no attack": (survivors, 0, "the same attack breaks them here"),
    "a FIFO for samples": (swapped("samples.npz", os.mkfifo), 5, "is a FIFO"),
    "a device for samples": (swapped("samples.npz", lambda p: p.symlink_to("/dev/zero")), 5, "is a device"),
    "a circle of links for counterexamples": (
        swapped(COUNTEREXAMPLES_NAME, lambda p: p.symlink_to(COUNTEREXAMPLES_NAME)), 5, "circle of links"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_report_is_found_out(name: str, made: Path, here: Path, pipeline: Any) -> None:
    shutil.copytree(made, here, dirs_exist_ok=True)
    forge, code, says = FORGERIES[name]
    forge()
    got, out, err = pipeline(*VERIFY)
    assert got == code, out + err
    assert says in " ".join((out + err).split())


def test_the_points_of_a_report_that_is_whole_are_read_once(made: Path, here: Path, pipeline: Any) -> None:
    shutil.copytree(made, here, dirs_exist_ok=True)
    assert pipeline("verify", "r")[0] == 0
    assert len(read_counterexamples(here / "r" / COUNTEREXAMPLES_NAME, None))


# Kinds 7 to 11, by one command each, in a folder with a good model and good data.


@dataclass(frozen=True)
class Row:
    """What is put into the folder; the command, its code, and words that it says."""

    name: str
    make: Callable[[Path], object]
    code: int
    says: str
    argv: tuple[str, ...] = CERTIFY


def in_run(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        (folder / "m.report.run").mkdir()
        make(folder / "m.report.run" / name)

    return put


def sparse(path: Path, content: bytes = b"") -> None:
    """A terabyte of zeros, that ends in something."""
    with path.open("wb") as file:
        file.seek(2**40)
        file.write(content or b"\0")


def with_end_of_another(path: Path) -> None:
    """A terabyte whose end is a genuine one, of a smaller file of the same name."""
    OWN.write(path, b"0" * 64)
    sparse(path, path.read_bytes()[-LENGTH:])


def beside(*entries: tuple[str, str], then: Callable[[Path], object] = lambda folder: None) -> Callable[[Path], None]:
    """Weights beside the model; entries of the second tensor set, or added where there is one of that key."""

    def make(folder: Path) -> None:
        models.beside()(folder)
        held = onnx.load(folder / "m.onnx", load_external_data=False)
        for key, value in entries:
            held.graph.initializer[1].external_data.add(key=key, value=value)
        (folder / "m.onnx").write_bytes(held.SerializeToString())
        then(folder)

    return make


def replaced(key: str, value: str, *, every: bool = False) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        models.beside()(folder)
        held = onnx.load(folder / "m.onnx", load_external_data=False)
        for tensor in held.graph.initializer if every else held.graph.initializer[1:2]:
            for entry in tensor.external_data:
                entry.value = value if entry.key == key else entry.value
        (folder / "m.onnx").write_bytes(held.SerializeToString())

    return make


def in_memory(folder: Path) -> None:
    """The place by which ONNX Runtime means an address of its own process, and a file of that name."""
    replaced("location", "*/_ORT_MEM_ADDR_/*", every=True)(folder)
    (folder / "*" / "_ORT_MEM_ADDR_").mkdir(parents=True)
    shutil.copyfile(folder / "m.data", folder / "*" / "_ORT_MEM_ADDR_" / "*")


def archive(method: int, damage: int | None = None) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        with zipfile.ZipFile(folder / "d.npz") as good:
            members = {name: good.read(name) for name in good.namelist()}
        with zipfile.ZipFile(folder / "d.npz", "w", method) as file:
            for name, content in members.items():
                file.writestr(name, content)
        if damage is not None:
            content = bytearray((folder / "d.npz").read_bytes())
            content[content.index(b"x.npy") + damage] ^= 255
            (folder / "d.npz").write_bytes(content)

    return make


def toml(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "pipeline.toml").write_text(text)


def settings(make: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: make(folder / "pipeline.toml")


def constant(*attributes: AttributeProto) -> Callable[[Path], object]:
    def change(made: onnx.ModelProto) -> None:
        made.graph.node.add(op_type="Constant", output=["c"]).attribute.extend(attributes)

    return models.changed(change)


def referring(made: onnx.ModelProto) -> None:
    made.graph.node[0].op_type, made.graph.node[0].domain = "Flatten", ""
    del made.graph.node[0].input[1:]
    made.graph.node[0].attribute.add(name="axis", type=AttributeProto.INT, ref_attr_name="outer")


def no_channels(folder: Path) -> None:
    nodes = [node("Reshape", ["x", "s"], ["r"]), node("Conv", ["r", "w"], ["h"]), node("Flatten", ["h"], ["f"])]
    held = {"s": np.array([0, 1, 2, 3]), "w": np.zeros((0, 1, 1, 1), S), "v": np.zeros((0, 3), S)}
    models.built([*nodes, node("MatMul", ["f", "v"], ["y"])], constants=held)(folder)


def unsafe(text: str, inputs: int = 6) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        names = [f"(declare-const X_{i} Real)(assert (>= X_{i} 0))(assert (<= X_{i} 0.1))" for i in range(inputs)]
        names += [f"(declare-const Y_{i} Real)" for i in range(3)]
        (folder / "p.vnnlib").write_text("\n".join([*names, text]))

    return make


def wide(folder: Path) -> None:
    held = {"w": np.ones((6, 4000), S), "v": np.ones((4000, 300), S), "u": np.ones((300, 3), S)}
    reads = [("x", "w", "a"), ("a", "v", "b"), ("b", "u", "y")]
    models.built([node("MatMul", [x, w], [y]) for x, w, y in reads], constants=held)(folder)


def nothing(folder: Path) -> None:
    pass


DISJUNCTS = "(assert (or " + "".join(f"(and (>= X_0 {j / 1e4})(>= Y_0 0.{j + 1}))" for j in range(900)) + "))"
ROWS = {
    7: [
        Row("a FIFO for a run folder", lambda f: os.mkfifo(f / "m.report.run"), 2, "not what a run leaves there"),
        Row("a FIFO for its key", in_run("key", os.mkfifo), 0, "no authentication code of yours"),
        Row("a FIFO for a part", in_run("part-0-000000.npz", os.mkfifo), 0, "no authentication code of yours"),
        Row("a folder for a part", in_run("part-0-000000.npz", Path.mkdir), 74, "move it away"),
        Row("an own key of another run", in_run("key", lambda p: OWN.write(p, b"0" * 64)), 0, "belongs to another model"),
        Row("an own key under a part's name",
            in_run("part-0-000000.npz", lambda p: OWN.write(p, b"0" * 64)), 0, "no authentication code of yours"),
        Row("a FIFO for a checkpoint", lambda f: (MANY(f), (f / "m.certified.onnx.run").mkdir(),
            os.mkfifo(f / "m.certified.onnx.run" / "checkpoint.pt")), 2, "no authentication code of yours", RETRAIN),
        Row("gates behind a dead link", settings(lambda p: p.symlink_to("gone")), 2, "is a file of settings"),
    ],
    8: [
        Row("./m.data", replaced("location", "./m.data", every=True), 0, "draws the same"),
        Row("a folder's name", replaced("location", "m.data/", every=True), 3, "lies in the model's own folder"),
        Row("a name beyond the system's", replaced("location", "a" * 300, every=True), 3, "File name too long"),
        Row("an address in memory", in_memory, 3, "lies in the model's own folder"),
        Row("a FIFO on the way", lambda f: (replaced("location", "s/m.data", every=True)(f), os.mkfifo(f / "s")), 3,
            "Not a directory"),
        Row("an offset with an underscore", replaced("offset", "1_20"), 3, "in the digits 0 to 9"),
        Row("an offset in another script", replaced("offset", "\u0661\u0662\u0660"), 3, "in the digits 0 to 9"),
        Row("an offset with a sign", replaced("offset", "+120"), 3, "in the digits 0 to 9"),
        Row("an offset without end", replaced("offset", "9" * 5000), 3, "in the digits 0 to 9"),
        Row("an offset told twice", beside(("offset", "0")), 3, "a key stands there twice"),
        Row("a place told twice", beside(("location", "/etc/passwd")), 3, "a key stands there twice"),
        Row("a key that there is not", beside(("OFFSET", "0")), 3, "tells 'OFFSET'"),
        Row("a file without a size", nothing, 3, "is complete before it is read", ("inspect", "/proc/self/maps")),
        Row("a model behind a link, its data not", beside(then=lambda f: ((f / "sub").mkdir(),
            shutil.move(f / "m.onnx", f / "sub"), (f / "m.onnx").symlink_to("sub/m.onnx"))), 0, "draws the same"),
    ],
    9: [
        Row("a terabyte for a run's key", in_run("key", sparse), 0, "no authentication code of yours"),
        Row("a terabyte with a genuine end", in_run("key", with_end_of_another), 0, "no authentication code of yours"),
        Row("a terabyte for a checkpoint", lambda f: (MANY(f), (f / "m.certified.onnx.run").mkdir(),
            sparse(f / "m.certified.onnx.run" / "checkpoint.pt")), 2, "no authentication code of yours", RETRAIN),
        Row("no time at all", nothing, 4, "draws the same", (*CERTIFY, "--time-budget", "0s")),
        Row("an attack without end", nothing, 4, "draws the same",
            (*CERTIFY[:-1], "--time-budget", "1s", "--attack-steps", str(10**9))),
        Row("weights beyond the memory", wide, 2, "for the network in float64", (*CERTIFY, "--memory-budget", "10MB")),
        Row("hundreds of disjuncts", unsafe(DISJUNCTS), 1, "", (*PROPERTY, "--time-budget", "30s")),
        Row("a disjunction of all disjunctions", unsafe("(assert (or (>= Y_0 1)(>= Y_1 1)))" * 60), 3, "too large", PROPERTY),
        Row("brackets within brackets", unsafe("(assert " + "(and " * 3000 + "(>= Y_0 1)" + ")" * 3001), 3, "nest", PROPERTY),
        Row("lists within lists in the settings", toml("eps=" + "[" * 5000), 2, "cannot be read"),
    ],
    10: [
        Row("an archive that LZMA packed", archive(zipfile.ZIP_LZMA), 3, "compressed by method 14"),
        Row("one that LZMA packed, and damaged", archive(zipfile.ZIP_LZMA, 25), 3, "compressed by method 14"),
        Row("one of a method that no zip has", lambda f: (archive(0)(f), patched(f / "d.npz", b"PK\x01\x02", 10, 99)), 3,
            "compressed by method 99"),
        Row("an attribute of another's", models.changed(referring), 3, "of another function's"),
        Row("the same, inspected", models.changed(referring), 3, "of another function's", INSPECT),
        Row("a Constant of nothing", constant(), 3, "has 0 of them", INSPECT),
        Row("a Constant of two values",
            constant(helper.make_attribute("value_int", 1), helper.make_attribute("value_float", 1.0)), 3, "has 2 of them"),
        Row("no output", models.changed(lambda made: made.graph.output.pop()), 3, "A model has an output"),
        Row("an output twice", models.changed(lambda made: made.graph.output.append(made.graph.output[0])), 3,
            "named more than once"),
        Row("a layer without channels", no_channels, 3, "A layer has at least one unit"),
        Row("metadata within metadata", models.metadata("pipeline.preprocessing", "[" * 100_000), 2, "is not what `retrain`"),
        Row("a recipe that is no table", toml('retrain = "x"'), 2, "retrain is a table of settings"),
        Row("a FIFO for settings", settings(os.mkfifo), 2, "is a file of settings"),
        Row("a folder for settings", settings(Path.mkdir), 2, "is a file of settings", INSPECT),
        Row("a std that float32 has not", toml("mean = [0]\nstd = [1e-300]"), 2, "no subnormal"),
        Row("a mean that float32 has not", toml("mean = [1e308]\nstd = [1]"), 2, "lies in their range"),
        Row("a range that float32 has not", toml("range = [-1e308, 1e308]"), 2, "numbers that float32 holds"),
        Row("a folder for a property", lambda f: (f / "p.vnnlib").mkdir(), 3, "Is a directory", PROPERTY),
        Row("a FIFO for a fixed copy", lambda f: os.mkfifo(f / "o"), 2, "is something else", (*INSPECT, "--freeze", "o")),
        Row("a folder for a job", lambda f: (f / "o").mkdir(), 2, "is something else",
            ("init", "gitlab", "m.onnx", "--install", "x", "--data", "npz:d.npz", "--out", "o", "--force")),
        Row("a FIFO for a trained model", lambda f: (MANY(f), os.mkfifo(f / "o")), 2,
            "is something else", (*RETRAIN, "--out", "o", "--force")),
    ],
    11: [
        Row("settings that open the network", toml('data = "hf:no/such"\ndownload = true'), 2, "no file opens the network",
            CERTIFY[:2]),
        Row("settings that open it for a set by name", toml("download = true"), 2, "no file opens the network",
            ("certify", "m.onnx", "--data", "torchvision:MNIST?root=.", "--eps", "0.1")),
        Row("settings that open it for training", lambda f: (MANY(f), toml("download = true")(f)), 2,
            "no file opens the network", RETRAIN),
        Row("a model that names data of the Hub", models.metadata("pipeline.data", "hf:no/such"), 2, "--download",
            ("certify", "m.onnx", "--eps", "0.1")),
        Row("an address for the Hub", nothing, 2, "--download", (*CERTIFY[:2], "--data", "hf:https://localhost:9/x")),
        Row("an address for data", nothing, 2, "names no data", (*CERTIFY[:2], "--data", "http://localhost:9/d.npz")),
        Row("an address for an archive", nothing, 2, "No file", (*CERTIFY[:2], "--data", "npz:http://localhost:9/d.npz")),
        Row("an address for a folder", nothing, 2, "localhost:9", (*CERTIFY[:2], "--data", "dir:http://localhost:9/d")),
        Row("an address for a model", nothing, 3, "there is none", ("inspect", "http://localhost:9/m.onnx")),
        Row("an address for a report", nothing, 2, "No report", ("verify", "http://localhost:9/r")),
        Row("an address for a baseline", nothing, 2, "No report",
            (*CERTIFY, "--baseline", "http://localhost:9/r", "--max-regression", "certified=0")),
        Row("an address for a property", nothing, 3, "cannot be read",
            ("certify", "m.onnx", "--property", "http://localhost:9/p.vnnlib")),
        Row("external data at an address", replaced("location", "http://localhost:9/m.data", every=True), 3, "own folder"),
    ],
}  # fmt: skip
MANY = data.arrays(np.tile(data.X, (10, 1)), np.tile(data.Y, 10))


def patched(path: Path, mark: bytes, offset: int, value: int) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(mark) + offset] = value
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("kind", "row"), [(k, r) for k, rows in ROWS.items() for r in rows], ids=lambda v: getattr(v, "name", v)
)
def test_what_somebody_left_ends_in_its_code_and_its_words(
    kind: int, row: Row, here: Path, pipeline: Any, monkeypatch: Any
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    models.changed(lambda made: None)(here)
    data.arrays()(here)
    row.make(here)
    code, out, err = pipeline(*row.argv)
    assert code == row.code, out + err
    said = " ".join((out + err).split())
    assert row.says in said
    assert "Traceback" not in said


def test_there_are_twelve_of_each_kind() -> None:
    counts = {kind: len(rows) for kind, rows in ROWS.items()}
    counts[7] += len(FORGERIES)
    counts[9] += 3  # the clock twice, and the file's own batch, below
    assert min(len(TAILS), *counts.values()) >= 12, counts


# What a folder cannot show.


def test_a_device_is_not_replaced_by_what_is_written(made: Path, here: Path, pipeline: Any) -> None:
    """Whoever may write to the folder of devices lost one: the link stands for such a folder."""
    shutil.copytree(made, here, dirs_exist_ok=True)
    (here / "null").symlink_to("/dev/null")
    for target in ("null", "/proc/self/fd/1", "r"):
        code, _, err = pipeline("report", "r", "--md", target)
        assert (code, "is something else" in err) == (2, True)
    assert (here / "null").is_symlink()
    code, _, err = pipeline("export-vnnlib", "r", "--index", "0", "--data", "npz:d.npz", "--out", "null")
    assert (code, "is something else" in err) == (2, True)


def test_data_that_change_between_two_looks_are_refused(here: Path, pipeline: Any, monkeypatch: Any) -> None:
    models.changed(lambda made: None)(here)
    data.arrays()(here)
    whole = npz.read

    def then_gone(path: Path, name: str) -> np.ndarray:
        found = whole(path, name)
        np.savez(path, z=data.X)
        return found

    monkeypatch.setattr(npz, "read", then_gone)
    code, _, err = pipeline(*CERTIFY)
    assert (code, "was changed meanwhile" in " ".join(err.split())) == (3, True)


@pytest.mark.parametrize("moment", ["while layers are looked into", "while memory is measured"])
def test_a_clock_that_runs_out_anywhere_leaves_what_was_decided(moment: str) -> None:
    network, work = lively(), Work(budget=1000.0)
    images = images_of(network, 12)
    settings = Strategy(method="ibp", attack=None, memory=None if "layers" in moment else 100 << 20)
    if "memory" in moment:
        object.__setattr__(work.clock, "deadline", 0.0)
    event: Any = None
    balls = [LinfBall(Fraction(1, 100))]
    for event in climb(network, deployed(network), images, labels_of(network, images), balls, settings, work=work):
        if isinstance(event, Progress) and event.phase == "ibp" and event.done == event.total:
            object.__setattr__(work.clock, "deadline", 0.0)
    decided = int((event.samples.verdict == Verdict.CERTIFIED).sum())
    assert (decided > 0, event.incomplete) == (("layers" in moment), "memory" in moment)
    assert event.details[0].layers == ()


def test_the_file_is_run_on_as_many_samples_as_memory_has_room_for(tmp_path: Path) -> None:
    held = {"w": np.ones((32, 1, 3, 3), S), "u": np.ones((32, 3), S)}
    reads = [
        node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
        node("Relu", ["a"], ["b"]),
        node("GlobalAveragePool", ["b"], ["c"]),
    ]
    made = model([*reads, node("Flatten", ["c"], ["f"]), node("MatMul", ["f", "u"], ["y"])], ["N", 1, 48, 48], held)
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    file = model_file.read(tmp_path / "m.onnx")
    batch_size = [open_model(file, Settings(memory_budget=size)).batch_size for size in ("10MB", "1GB")]
    assert batch_size[0] < 10
    assert batch_size[1] == 256


def test_an_output_that_is_chosen_is_compared_at_the_level_that_was_asked_for(tmp_path: Path, monkeypatch: Any) -> None:
    made = mlp()
    models.two_outputs(made)
    made.graph.output[1].type.tensor_type.shape.dim.add(dim_value=1)
    made.graph.node.append(node("Unsqueeze", ["y", "at"], ["h6"]))
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "at"))
    made.graph.output[1].CopyFrom(helper.make_tensor_value_info("h6", 1, ["batch", 1, 3]))
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    asked, session = [], runtime.session

    def seen(*args: Any, **how: Any) -> Any:
        asked.append(how.get("level"))
        return session(*args, **how)

    monkeypatch.setattr(runtime, "session", seen)
    importer.load(model_file.read(tmp_path / "m.onnx"), level="basic")
    assert "all" not in asked
    assert "basic" in asked
