"""Bad inputs, one a row: the exit code, and the sentence as it stands in ``bad_inputs.txt``.

The table is that of the files people send by mistake, and of those that they send on purpose. ``…`` in a sentence stands for
the words of a library.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from tests.cli import bad_data as data
from tests.cli import bad_models as models
from tests.onnx.files import mlp, node

GOLDEN = Path(__file__).with_name("bad_inputs.txt")
CERTIFY = ("certify", "m.onnx", "--data", "npz:d.npz", "--eps", "0.1", "--method", "ibp")


@dataclass(frozen=True)
class Bad:
    """What is wrong, made in an empty folder beside what is right; the command that meets it; its exit code."""

    make: Callable[[Path], object]
    argv: tuple[str, ...] = CERTIFY
    code: int = 3


def eps(text: str) -> Bad:
    return Bad(models.changed(lambda made: None), (*CERTIFY[:-3], text), 2)


def folder(content: bytes, name: str = "0.png") -> Bad:
    return Bad(data.picture(content, name), (*CERTIFY[:3], "dir:d", *CERTIFY[4:]))


TABLE = {
    "1 an empty file": Bad(models.written(b"")),
    "2 a Git LFS pointer": Bad(models.written(b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n")),
    "3 a truncated file": Bad(models.written(mlp().SerializeToString()[:200])),
    "3 no ONNX at all": Bad(models.written(b"\x00\x01 not a model")),
    "3 a name that is no text": Bad(models.written(mlp().SerializeToString().replace(b"Relu", b"R\xffl\xff"))),
    "4 external data above the folder": Bad(models.beside(location="../m.data")),
    "4 external data at an absolute path": Bad(models.beside(location="/etc/passwd")),
    "5 external data behind a symbolic link": Bad(models.beside(models.linked)),
    "5 external data in a linked folder": Bad(models.beside(models.linked_folder, location="sub/m.data")),
    "6 external data with two hard links": Bad(models.beside(lambda f: (f / "second").hardlink_to(f / "m.data"))),
    "7 external data cut short": Bad(models.beside(models.cut)),
    "8 dimensions of zettabytes": Bad(models.changed(models.dims(2**40, 2**30))),
    "8 negative dimensions": Bad(models.changed(models.dims(-6, 5))),
    "8 one mebibyte, twenty thousand times": Bad(models.shares_one_sidecar),
    "9 ConstantOfShape": Bad(models.bomb("ConstantOfShape", {"s": np.array([2**20, 2**20])}, ["s"])),
    "9 Expand": Bad(models.bomb("Expand", {"v": np.ones((1, 1), np.float32), "s": np.array([2**20] * 2)}, ["v", "s"])),
    "9 Tile": Bad(models.bomb("Tile", {"v": np.ones((2, 2), np.float32), "s": np.array([2**20] * 2)}, ["v", "s"])),
    "9 Range": Bad(models.bomb("Range", {k: np.array(v) for k, v in (("a", 0), ("b", 2**40), ("c", 1))}, list("abc"))),
    "9 an outer product": Bad(models.outer_product()),
    "9 a shape computed from the input's": Bad(models.of_the_input()),
    "9 free sizes multiplied": Bad(models.free_sizes()),
    "10 If, 45 deep": Bad(models.nested(45)),
    "10 If": Bad(models.nested(1)),
    "10 Loop": Bad(models.with_graph("Loop")),
    "10 Scan": Bad(models.with_graph("Scan")),
    "10 a graph within an operator that has none": Bad(models.with_graph("Relu")),
    "11 NaN weights": Bad(models.changed(models.weights_of("w1", np.full((6, 5), np.nan)))),
    "11 an infinite weight": Bad(models.changed(models.weights_of("b1", np.array([1, 2, np.inf, 3, 4])))),
    "12 weights that are inputs too": Bad(models.changed(models.overridable), code=0),
    "13 RandomNormalLike": Bad(models.changed(models.appended(node("RandomNormalLike", ["x"], ["z"])))),
    "13 Bernoulli and Multinomial": Bad(
        models.changed(models.appended(node("Bernoulli", ["x"], ["z"]), node("Multinomial", ["x"], ["u"])))
    ),
    "13 Dropout in training mode": Bad(
        models.built([node("Dropout", ["x", "", "t"], ["y"])], constants={"t": np.array(True)})
    ),
    "13 BatchNormalization in training mode": Bad(
        models.built(
            [node("BatchNormalization", list("xsbmv"), ["y", "m1", "v1"], training_mode=1)],
            constants={k: np.ones(6, np.float32) for k in "sbmv"},
        )
    ),
    "14 operators of an unknown domain": Bad(
        models.changed(
            models.appended(
                node("Fused", ["x"], ["z"], domain="com.microsoft"),
                node("Fused", ["x"], ["u"], domain="com.microsoft"),
                node(models.HOSTILE, ["x"], ["v"], domain=models.HOSTILE),
            )
        )
    ),
    "14 operators that ONNX does not have": Bad(
        models.changed(models.appended(node("Whatever", ["x"], ["z"]), node(models.HOSTILE, ["x"], ["u"])))
    ),
    "14 operators that are not imported": Bad(
        models.built(
            [
                node("Cos", ["x"], ["a"]),
                node("Cos", ["a"], ["b"]),
                node("Sinh", ["b"], ["y"]),
            ]
        )
    ),
    "14 an unused import of a domain": Bad(
        models.changed(lambda made: made.opset_import.add(domain="ai.onnx.ml", version=3)), code=0
    ),
    "15 opset 99": Bad(models.changed(lambda made: made.opset_import.__getitem__(0).__setattr__("version", 99))),
    "15 opset 6": Bad(models.changed(lambda made: made.opset_import.__getitem__(0).__setattr__("version", 6))),
    "15 a version of the format from the future": Bad(models.changed(lambda made: setattr(made, "ir_version", 99))),
    "16 a final Softmax": Bad(
        models.built(
            [node("MatMul", ["x", "w"], ["h"]), node("Softmax", ["h"], ["y"])],
            constants={"w": np.eye(6, 3, dtype=np.float32)},
        ),
        code=0,
    ),
    "16 two outputs": Bad(models.changed(models.two_outputs), code=2),
    "17 pickled images": Bad(data.arrays(x=np.array([data.Trap()] * 4, dtype=object))),
    "17 pickled labels": Bad(data.arrays(y=np.array([data.Trap()] * 4, dtype=object))),
    "18 an archive bomb": Bad(data.bomb),
    "18 a header that claims 3.6 TiB": Bad(data.member(data.header("(1000000000000,)") + bytes(96))),
    "18 a header that is code": Bad(data.member(data.header("__import__('os').mkdir('executed')") + bytes(96))),
    "18 a truncated archive": Bad(data.cut),
    "19 labels out of range": Bad(data.arrays(y=np.array([0, 1, 2, 9]))),
    "19 labels from one": Bad(data.arrays(y=data.Y + 1)),
    "19 labels that are halves": Bad(data.arrays(y=data.Y + 0.5)),
    "19 one-hot labels": Bad(data.arrays(y=np.eye(3)[data.Y]), code=0),
    "19 one-hot labels of another count": Bad(data.arrays(y=np.eye(5)[[4, 0, 1, 2]])),
    "19 images of another size": Bad(data.arrays(x=np.zeros((4, 28, 28), np.uint8))),
    "19 images with channels last": Bad(
        lambda f: (
            models.built(
                [node("Flatten", ["x"], ["f"]), node("MatMul", ["f", "w"], ["y"])],
                ["batch", 3, 4, 5],
                {"w": np.random.default_rng(0).standard_normal((60, 3)).astype(np.float32)},
            )(f),
            data.arrays(x=np.random.default_rng(1).random((4, 4, 5, 3)))(f),
        ),
        code=0,
    ),
    "20 hostile names everywhere": Bad(models.named(models.HOSTILE), code=0),
    "20 names of a megabyte": Bad(models.named("a" * 2**20), code=0),
    "20 a hostile name in a refusal": Bad(
        models.changed(lambda made: made.graph.initializer.add(name=models.HOSTILE, dims=[-1], data_type=1))
    ),
    "20 hostile metadata": Bad(models.metadata("pipeline.preprocessing", models.HOSTILE), code=2),
    "a value defined twice": Bad(models.changed(models.appended(node("Relu", ["x"], ["h1"])))),
    "an initialiser held twice": Bad(
        models.changed(lambda made: made.graph.initializer.append(made.graph.initializer[0]))
    ),
    "a cycle": Bad(models.changed(lambda made: made.graph.node[0].input.__setitem__(0, "h5"))),
    "a value that nothing defines": Bad(models.changed(lambda made: made.graph.node[0].input.__setitem__(0, "nobody"))),
    "local functions that double thirty times": Bad(models.doubling(30)),
    "sparse weights": Bad(models.changed(lambda made: made.graph.sparse_initializer.add())),
    "text for an input": Bad(models.built([node("Identity", ["x"], ["y"])], dtype=TensorProto.STRING)),
    "an input of petabytes": Bad(
        models.changed(lambda made: made.graph.input[0].type.tensor_type.shape.dim.add(dim_value=2**50))
    ),
    "eps in the metadata that takes for ever": Bad(models.metadata("pipeline.eps", "1e999999999"), CERTIFY[:4], code=2),
    "eps that takes for ever": eps("1e999999999"),
    "eps that takes for ever, in digits": eps("1" * 10_000),
    "eps that takes for ever, as a fraction": eps("1/1e-99999999"),
    "eps that is code": eps("__import__('os').mkdir('executed')"),
    "eps that is no number": eps("nan"),
    "NaN in the images": Bad(data.arrays(x=np.full((4, 6), np.nan, np.float32))),
    "infinity in the images": Bad(data.arrays(x=np.full((4, 6), np.inf, np.float32))),
    "no samples": Bad(data.arrays(x=np.zeros((0, 6), np.float32), y=np.zeros(0, int)), code=4),
    "fewer labels than images": Bad(data.arrays(y=data.Y[:3])),
    "no archive": Bad(data.written(b"not a zip")),
    "a Git LFS pointer for data": Bad(data.written(b"version https://git-lfs.github.com/spec/v1\n")),
    "an archive without images": Bad(lambda f: np.savez(f / "d.npz", a=data.X, b=data.Y)),
    "a label out of range that the draw leaves out": Bad(
        data.arrays(x=np.tile(data.X, (10, 1)), y=np.r_[np.tile(data.Y, 10)[:-1], 9]), (*CERTIFY, "--max-samples", "2")
    ),
    "labels beyond all counting": Bad(data.arrays(y=np.array([0, 1, 2, 2**64 - 1], np.uint64))),
    "labels beyond all counting, as floats": Bad(data.arrays(y=np.array([0, 1, 2, 1e300]))),
    "a FIFO for data": Bad(lambda f: (os.unlink(f / "d.npz"), os.mkfifo(f / "d.npz"))),
    "a folder for data": Bad(lambda f: (os.unlink(f / "d.npz"), (f / "d.npz").mkdir())),
    "a device for data": Bad(lambda f: None, (*CERTIFY[:3], "npz:/dev/zero", *CERTIFY[4:])),
    "a circle of links for data": Bad(lambda f: (os.unlink(f / "d.npz"), (f / "d.npz").symlink_to("d.npz"))),
    "a FIFO for data, without a scheme": Bad(lambda f: os.mkfifo(f / "d"), (*CERTIFY[:3], "d", *CERTIFY[4:])),
    "a file for a folder of images": Bad(lambda f: None, (*CERTIFY[:3], "dir:d.npz", *CERTIFY[4:])),
    "a FIFO among the images": Bad(
        lambda f: (data.picture(data.png(2, 3))(f), os.mkfifo(f / "d" / "cat" / "1.png")),
        (*CERTIFY[:3], "dir:d", *CERTIFY[4:]),
    ),
    "a FIFO among torchvision's files": Bad(
        lambda f: ((f / "MNIST" / "raw").mkdir(parents=True), os.mkfifo(f / "MNIST" / "raw" / "x")),
        (*CERTIFY[:3], "torchvision:MNIST?root=.", *CERTIFY[4:]),
    ),
    "a FIFO for a report": Bad(lambda f: ((f / "r").mkdir(), os.mkfifo(f / "r" / "report.json")), ("verify", "r")),
    "a FIFO for a baseline": Bad(
        lambda f: os.mkfifo(f / "r"), (*CERTIFY, "--baseline", "r", "--max-regression", "certified=0")
    ),
    "digits of another script in a gate": Bad(lambda f: None, (*CERTIFY, "--fail-under", "certified=０.３"), 2),
    "an underscore in a whole number": Bad(lambda f: None, (*CERTIFY, "--max-samples", "1_0"), 2),
    "a whole number without end": Bad(lambda f: None, (*CERTIFY, "--seed", "9" * 40), 2),
    "a picture that is none": folder(b"\x89PNG\r\n\x1a\n nothing"),
    "a picture of a gigapixel": folder(data.png(40_000, 25_000)),
    "a picture that runs a program": folder(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\n(touch executed) system\n"
    ),
}


def sentences() -> dict[str, tuple[int, str]]:
    """By row: exit code and sentence."""
    found = re.findall(r"(?m)^\[(.+)\] exit (\d+)\n((?:.+\n)*)", GOLDEN.read_text("utf-8"))
    return {name: (int(code), " ".join(said.split("\n")).strip()) for name, code, said in found}


@pytest.mark.parametrize("name", TABLE)
def test_a_bad_input_ends_in_its_code_and_its_sentence(name, pipeline, here):
    bad, (code, expected) = TABLE[name], sentences()[name]
    models.changed(lambda made: None)(here)
    data.arrays()(here)
    bad.make(here)
    got, out, err = pipeline(*bad.argv)
    assert (got, code) == (bad.code, bad.code), err
    said = " ".join(err.split())
    said = re.sub(r" ?note: import, file and certificates [^;]*; --parity-seed \d+ draws the same", "", said).strip()
    pattern = ".*".join(re.escape(part) for part in expected.split("…"))
    assert re.fullmatch(pattern, said), said
    assert len(err) < 3000
    assert "Traceback" not in err
    assert not (here / "executed").exists()
    assert got == 0 or not (here / "m.report" / "report.json").exists()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", out + err)


def test_every_sentence_has_its_row():
    assert sentences().keys() == TABLE.keys()
