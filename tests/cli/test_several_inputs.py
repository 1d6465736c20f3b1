"""Models of several inputs, one of them perturbed: the others come with each sample, or are said once, and never move."""

from __future__ import annotations

import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from pipeline.cli.main import run
from pipeline.results import read
from pipeline.results.samples import Verdict, read_counterexamples, read_samples

ASKED = ("certify", "two.onnx", "--data", "npz:d.npz", "--input", "image", "--method", "crown", "--eps", "0.02,0.2")


class Two(nn.Module):
    """An image beside numbers that check it, and a mask of integers."""

    def __init__(self, masked: bool):
        super().__init__()
        self.masked, self.first, self.last = masked, nn.Linear(15, 16), nn.Linear(16, 3)

    def forward(self, image, side, mask=None):
        x = torch.cat([image.flatten(1), side * image[:, 0, 0, :3]], 1)
        if mask is not None:
            x = x * mask.float()
        return self.last(torch.relu(self.first(x)))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Both models, data that give each sample its own numbers, and a report of the first one."""
    folder, rng = tmp_path_factory.mktemp("several"), np.random.default_rng(0)
    image = (rng.random((32, 1, 3, 4)) * 255).astype(np.uint8)
    side = rng.normal(0, 3, (32, 3)).astype(np.float32)
    args = (torch.from_numpy(image / np.float32(255)), torch.from_numpy(side), torch.arange(15)[None] % 2)
    for name, masked in (("two", False), ("three", True)):
        torch.manual_seed(0)
        model, given = Two(masked).eval(), args[: 2 + masked]
        names = ["image", "side", "mask"][: len(given)]
        free = {n: {0: "n"} for n in names}
        first = tuple(x[:1] for x in given)
        torch.onnx.export(model, first, folder / f"{name}.onnx", input_names=names, dynamic_axes=free, dynamo=False)
        with torch.no_grad():
            labels = model(*given).argmax(1).numpy()
        np.savez(folder / ("d.npz" if not masked else "m.npz"), image=image, side=side, y=labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run([*ASKED, "--report", "kept"]) == 0
    return folder


@pytest.fixture
def folder(made, here):
    shutil.copytree(made, here, dirs_exist_ok=True)
    return here


def test_one_input_is_perturbed_and_the_others_stay_with_their_sample(pipeline, folder):
    result = read(folder / "kept").result
    assert [(i.name, i.use) for i in result.model.inputs or ()] == [("image", "perturbed"), ("side", "data")]
    assert result.threat.features is not None
    assert result.threat.features.radii == (1.0,) * 12 + (0.0,) * 3
    assert 0 < result.levels[0].certified.k < 32 > result.levels[1].attacked.k
    points = read_counterexamples(folder / "kept" / "counterexamples.npz", result.counterexamples)
    with np.load(folder / "d.npz") as data:
        assert (points.image[:, 12:] == data["side"][points.index]).all()
        assert (points.image[:, :12] >= 0).all() and (points.image[:, :12] <= 1).all()  # noqa: PT018
    code, out, _ = pipeline("verify", "kept", "--model", "two.onnx", "--data", "npz:d.npz", "--recheck", "32")
    assert code == 0, out
    assert "32 samples certified again" in out


def test_an_input_said_once_is_the_same_for_all_samples(pipeline, folder):
    mask = "mask=" + ",".join(str(i % 2) for i in range(15))
    asked = ("--data", "npz:m.npz", "--input", "image", "--eps", "0.02", "--method", "crown-ibp", "--constant", mask)
    code, _, err = pipeline("certify", "three.onnx", *asked, "--report", "r")
    assert code == 0, err
    assert read(folder / "r").result.levels[0].natural.k == 32
    code, out, _ = pipeline("verify", "r", "--model", "three.onnx", "--data", "npz:m.npz", "--recheck", "8")
    assert code == 0, out
    code, _, err = pipeline("certify", "two.onnx", *asked[:-2], "--constant", "side=1", "--report", "s")
    assert code == 0, err
    inputs = read(folder / "s").result.model.inputs
    assert inputs is not None
    assert (inputs[1].use, inputs[1].value) == ("constant", (1, 1, 1))


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (("two.onnx", "--data", "npz:d.npz"), 2, "image (float32, n x 1 x 3 x 4), side (float32, n x 3), and one is perturbed"),
        (("two.onnx", "--data", "npz:d.npz", "--input", "size"), 2, "received 'size'"),
        (("two.onnx", "--data", "digits", "--input", "image"), 2, "from an npz archive with an array for each input"),
        (("two.onnx", "--data", "npz:d.npz", "--input", "image", "--constant", "side"), 2, "--constant is NAME=NUMBER"),
        (("two.onnx", "--data", "npz:d.npz", "--input", "image", "--constant", "side=1,2"), 2, "takes 3 numbers"),
        (("three.onnx", "--data", "npz:m.npz", "--input", "image"), 3, "has no array for input 'mask'"),
        (("three.onnx", "--data", "npz:m.npz", "--input", "mask"), 3, "input 'mask' is int64: say it once for all samples"),
        (("three.onnx", "--data", "npz:m.npz", "--input", "image", "--constant", "mask=0.5"), 2, "is int64, which cannot"),
        (("two.onnx", "--data", "npz:x.npz", "--input", "image"), 3, "has no array for input 'side'"),
        (("model.onnx", "--data", "digits", "--constant", "x=1"), 2, "the inputs of this file are"),
    ],
)  # fmt: skip
def test_inputs_that_nobody_says_are_refused_by_name(pipeline, folder, flags, code, said):
    with np.load(folder / "d.npz") as data:
        np.savez(folder / "x.npz", image=data["image"], y=data["y"])
    got, _, err = pipeline("certify", *flags, "--eps", "0.1")
    assert got == code, err
    assert said in " ".join(err.split())


class Categories(nn.Module):
    """Measurements beside whole numbers: an embedding with offsets, a one-hot vector, and two of them compared."""

    def __init__(self, rounding: bool = False):
        super().__init__()
        self.rounding, self.table, self.first, self.last = (
            rounding,
            nn.Embedding(9, 4),
            nn.Linear(18, 12),
            nn.Linear(12, 3),
        )

    def forward(self, x, kind):
        rows = self.table(kind + torch.tensor([0, 3, 6])).flatten(1)
        hot = torch.nn.functional.one_hot(kind[:, 0], 3).float()
        if self.rounding:
            hot = hot + kind.sum(1, keepdim=True).float()
        same = torch.where(kind[:, :1] == kind[:, 1:2], torch.ones(()), torch.zeros(()))
        return self.last(torch.relu(self.first(torch.cat([x, rows, hot, same], 1))))


@pytest.fixture(scope="module")
def categories(tmp_path_factory):
    """A model of two measurements and three categories, and data whose labels are its own."""
    folder, rng = tmp_path_factory.mktemp("categories"), np.random.default_rng(0)
    x, kind = rng.random((48, 2), np.float32), rng.integers(0, 3, (48, 3))
    torch.manual_seed(0)
    model = Categories().eval()
    with torch.no_grad():
        model.table.weight.mul_(2)
        labels = model(torch.from_numpy(x), torch.from_numpy(kind)).argmax(1).numpy()
    free = {n: {0: "n"} for n in ("x", "kind")}
    for name, net in (("kinds", model), ("halves", Categories(rounding=True).eval())):
        args = (torch.from_numpy(x[:2]), torch.from_numpy(kind[:2]))
        torch.onnx.export(
            net,
            args,
            folder / f"{name}.onnx",
            input_names=["x", "kind"],
            dynamic_axes=free,
            dynamo=False,
            opset_version=17,
        )
    np.savez(folder / "k.npz", x=x, kind=kind.astype(np.int16), y=labels)
    return folder


def test_whole_numbers_stay_with_their_sample(pipeline, categories, here):
    """The attack off, no point of a certified box gets another label by the file with the sample's own categories."""
    shutil.copytree(categories, here, dirs_exist_ok=True)
    asked = ("--data", "npz:k.npz", "--input", "x", "--eps", "0.4", "--method", "crown", "--report", "r")
    code, _, err = pipeline("certify", "kinds.onnx", *asked)
    assert code == 0, err
    result = read(here / "r").result
    assert [(i.name, i.use) for i in result.model.inputs or ()] == [("x", "perturbed"), ("kind", "data")]
    level = result.levels[0]
    assert level.natural.k == 48
    assert 20 < level.certified.k < 48
    code, out, _ = pipeline("verify", "r", "--model", "kinds.onnx", "--data", "npz:k.npz", "--recheck", "16")
    assert code == 0, out
    verdicts = read_samples(here / "r" / "samples.npz", None).verdict[0]
    with np.load(here / "k.npz") as data:
        x, kind, y = data["x"], data["kind"].astype(np.int64), data["y"]
    run_file, rng = onnxruntime.InferenceSession((here / "kinds.onnx").read_bytes()), np.random.default_rng(1)
    for i in np.flatnonzero(verdicts == Verdict.CERTIFIED):
        points = np.clip(x[i] + 0.3999 * rng.choice([-1, 1, 0.3], (200, 2)), 0, 1).astype(np.float32)
        (logits,) = run_file.run(None, {"x": points, "kind": np.repeat(kind[i : i + 1], 200, axis=0)})
        assert (logits.argmax(1) == y[i]).all()


@pytest.mark.parametrize(
    ("model", "kind", "said"),
    [
        ("kinds.onnx", [[0, 1, 7]], "input kind holds others"),
        ("kinds.onnx", [[0, 1, 1 << 25]], "between -2^24 and 2^24"),
        ("kinds.onnx", [[0, 1, 0.5]], "found float64"),
        ("kinds.onnx", [[0, 1]], "takes 1 samples of shape (3,)"),
        ("halves.onnx", [[0, 1, 2]], "computes with whole numbers, and may round"),
    ],
)
def test_whole_numbers_that_have_no_exact_place_are_refused(pipeline, categories, here, model, kind, said):
    shutil.copytree(categories, here, dirs_exist_ok=True)
    np.savez(here / "bad.npz", x=np.zeros((1, 2), np.float32), kind=np.array(kind), y=[0])
    code, _, err = pipeline("certify", model, "--data", "npz:bad.npz", "--input", "x", "--eps", "0.1")
    assert code == 3, err
    assert said in " ".join(err.split())
