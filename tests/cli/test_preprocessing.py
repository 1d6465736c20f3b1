"""Inputs that cannot be meant are doubted aloud: divided twice, normalised twice, in another range, along another axis."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from pipeline.data.usual import USUAL
from pipeline.results import read
from tests.onnx import files

MEAN, STD = np.float32([0.5, 0.4, 0.6]), np.float32([0.25, 0.2, 0.3])


@pytest.fixture
def colours(here):
    """Bytes whose brightest colour is their class; brighter than the mean, and saturated after."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    images = rng.integers(0, 60, (60, 3, 5, 5))
    images[np.arange(60), labels] += 180
    np.savez(here / "bytes.npz", x=images.astype(np.uint8), y=labels)
    np.savez(here / "floats.npz", x=(images / 255).astype(np.float32), y=labels)
    return here


def classifier(path, *first: onnx.NodeProto, **constants: np.ndarray) -> None:
    """The mean of each colour above zero decides, after ``first`` has made ``p`` of ``x``."""
    nodes = [
        *first,
        files.node("Relu", ["p"], ["r"]),
        files.node("GlobalAveragePool", ["r"], ["g"]),
        files.node("Flatten", ["g"], ["f"]),
        files.node("Gemm", ["f", "w"], ["y"]),
    ]
    onnx.save(files.model(nodes, ["n", 3, 5, 5], {"w": 4 * np.eye(3, dtype=np.float32), **constants}), path)


def scaled(path, scale: float) -> None:
    """The graph takes values of which ``scale`` makes pixels, and normalises them."""
    classifier(
        path,
        files.node("Mul", ["x", "scale"], ["a"]),
        files.node("Sub", ["a", "mean"], ["b"]),
        files.node("Div", ["b", "std"], ["p"]),
        scale=np.float32(scale),
        mean=MEAN.reshape(3, 1, 1),
        std=STD.reshape(3, 1, 1),
    )


FAST = ("--eps", "1/1000", "--method", "ibp", "--no-attack")


def test_what_is_divided_twice_is_said_everywhere_and_makes_no_gate(pipeline, colours):
    scaled(colours / "bytes.onnx", 1 / 255)
    code, out, err = pipeline("certify", "bytes.onnx", "--data", "bytes.npz", *FAST)
    assert code == 0, err
    assert "With `--range 0,255` it is right on" in " ".join(err.split())
    assert "--fail-under" not in out
    result = read(colours / "bytes.report").result
    assert [caution.code for caution in result.warnings[:2]] == ["near-chance", "preprocessing"]
    assert "--range 0,255" in result.warnings[1].message
    assert "no better than guessing" in (colours / "bytes.report" / "report.html").read_text("utf-8")
    code, out, err = pipeline("certify", "bytes.onnx", "--data", "bytes.npz", "--range", "0,255", *FAST)
    assert code == 0
    assert "arning" not in out + err
    assert read(colours / "bytes.report").result.levels[0].natural.exact > 0.9


@pytest.mark.parametrize(
    ("data", "flags", "offered"),
    [
        ("bytes.npz", ("--range", "0,255"), "Without --range"),
        ("floats.npz", ("--mean", "0.5,0.4,0.6", "--std", "0.25,0.2,0.3"), "Without --mean and --std"),
    ],
)
def test_flags_that_the_graph_does_not_need_are_doubted(pipeline, colours, data, flags, offered):
    """The graph normalises pixels of [0, 1]; with the very means that it subtracts itself, or in another range, it guesses."""
    scaled(colours / "unit.onnx", 1.0)
    code, _, err = pipeline("certify", "unit.onnx", "--data", data, *flags, *FAST)
    assert code == 0, err
    told = " ".join(err.split())
    assert "twice" in told or offered in told


def test_a_missing_division_is_found_by_trying(pipeline, colours):
    """The graph wants values up to 255 and does nothing itself; the data are floats in [0, 1]."""
    nodes = files.node("Sub", ["x", "low"], ["p"])
    classifier(colours / "raw.onnx", nodes, low=np.float32(100))
    code, out, err = pipeline("certify", "raw.onnx", "--data", "floats.npz", *FAST)
    assert code == 0, err
    assert "--mean 0 --std 0.00392156" in " ".join(err.split())
    assert "--fail-under" not in out


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--mean", "0.5"), "--std 1 if it has none"),
        (("--std", "0.5"), "--mean 0 if it has none"),
        (("--mean", "123.675,116.28,103.53", "--std", "58.395,57.12,57.375"), "--mean 0.485,0.456,0.406 --std 0.229"),
        (("--mean", "-0.1", "--std", "1"), "in the units of --range"),
        (("--mean", "200", "--std", "1", "--range", "0,100"), "in their range, 0 to 100"),
    ],
)
def test_means_that_cannot_be_meant_are_usage_errors(pipeline, here, flags, says):
    code, _, err = pipeline("certify", "model.onnx", "--data", "digits", "--eps", "0.1", *flags)
    assert code == 2
    assert says in " ".join(err.split())
    (here / "pipeline.toml").write_text("mean = [3.0]\nstd = [1.0]\n")
    assert pipeline("certify", "model.onnx", "--data", "digits", "--eps", "0.1")[0] == 2


@pytest.mark.parametrize("usual", [*USUAL, None])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_data_that_are_normalised_already_are_named(pipeline, colours, usual, layout):
    scaled(colours / "unit.onnx", 1.0)
    mean, std = USUAL[usual] if usual else ((0.2,), (0.15,))
    shape = (-1, 1, 1)
    x = np.load(colours / "bytes.npz")["x"] / 255
    x[0, :, 0, 0], x[1, :, 0, 0] = 0, 1  # the ends of the range occur
    x = ((x - np.reshape(mean, shape)) / np.reshape(std, shape)).astype(np.float32)
    np.savez(colours / "done.npz", x=x if layout == "NCHW" else x.transpose(0, 2, 3, 1), y=np.zeros(60, np.int64))
    code, _, err = pipeline("certify", "unit.onnx", "--data", "done.npz", *FAST)
    assert code == 3
    if usual == "[-1, 1]":
        assert "--range -1,1" in err
        return
    assert "normalised already" in err
    assert "-128,127" not in err
    assert "--mean" in err
    assert usual is None or f"deviation of {usual}" in err


def test_means_stand_along_the_channels_of_an_image_of_three_rows(pipeline, here):
    """Three rows, three channels last: asked for, and then normalised, reported and verified along the last axis."""
    nodes = [files.node("Flatten", ["x"], ["f"]), files.node("Gemm", ["f", "w"], ["y"])]
    weights = files.weights(3 * 6 * 3, 3)
    onnx.save(files.model(nodes, ["n", 3, 6, 3], {"w": weights}), here / "rows.onnx")
    pixels = np.random.default_rng(1).random((20, 3, 6, 3), np.float32)
    labels = (((pixels - MEAN) / STD).reshape(20, -1) @ weights).argmax(1)
    np.savez(here / "rows.npz", x=pixels, y=labels)
    flags = ("--mean", "0.5,0.4,0.6", "--std", "0.25,0.2,0.3", *FAST)
    code, _, err = pipeline("certify", "rows.onnx", "--data", "rows.npz", *flags)
    assert code == 2
    assert "--layout NHWC" in " ".join(err.split())
    code, _, err = pipeline("certify", "rows.onnx", "--data", "rows.npz", *flags, "--layout", "NHWC")
    assert code == 0, err
    result = read(here / "rows.report").result
    assert result.preprocessing.layout == "NHWC"
    assert result.levels[0].natural.k == 20
    code, out, _ = pipeline("verify", "rows.report", "--model", "rows.onnx", "--data", "rows.npz", "--recheck", "5")
    assert code == 0, out


def test_inspect_shows_a_batchnorm_that_comes_first(pipeline, here):
    held = {name: np.abs(files.weights(3, seed=i)) for i, name in enumerate(("s", "b", "m", "v"))}
    nodes = [
        files.node("BatchNormalization", ["x", "s", "b", "m", "v"], ["h"]),
        files.node("Flatten", ["h"], ["f"]),
        files.node("Gemm", ["f", "w"], ["y"]),
    ]
    onnx.save(files.model(nodes, ["n", 3, 4, 4], {**held, "w": files.weights(48, 3)}), here / "bn.onnx")
    code, out, err = pipeline("inspect", "bn.onnx", "--format", "json")
    assert code == 0, err
    assert "statistics of its own" in json.loads(out)["preprocessing"][0]
