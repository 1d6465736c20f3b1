"""The architectures of models/ are the paper's, and the digits file is what its script says."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import data
from tests.onnx.files import load
from tests.onnx.files import session as file_session

ROOT = Path(__file__).parents[2]


def architecture(file: str, name: str) -> type[nn.Module]:
    found: type[nn.Module] = runpy.run_path(str(ROOT / "models" / f"{file}.py"))[name]
    return found


@pytest.mark.parametrize(
    ("file", "name", "millions", "convolutions"),
    [
        ("cnn5", "CNN5", 1.27, 3),
        ("cnn7", "CNN7", 17.2, 5),
        ("wide_resnet8", "WideResNet8", 21.4, 10),
        ("resnext", "ResNeXt", 17.6, 13),
    ],
)
def test_architectures_have_their_size(file: str, name: str, millions: float, convolutions: int) -> None:
    module = architecture(file, name)()
    layers = list(module.modules())
    assert sum(isinstance(m, nn.Conv2d) for m in layers) == convolutions
    assert sum(isinstance(m, nn.Linear) for m in layers) == 2
    norms = sum(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in layers)
    assert norms == convolutions + 1
    assert sum(p.numel() for p in module.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)
    assert module.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_on_larger_images_the_last_convolution_of_cnn7_has_a_stride() -> None:
    """So that 128 maps of 16x16 enter its dense layer, as the paper has it on TinyImageNet."""
    module = architecture("cnn7", "CNN7")((3, 64, 64), 200)
    assert [m.stride[0] for m in module if isinstance(m, nn.Conv2d)] == [1, 1, 2, 1, 2]
    assert next(m for m in module if isinstance(m, nn.Linear)).in_features == 128 * 16 * 16


NAMES = ["cnn5:CNN5", "cnn7:CNN7", "wide_resnet8:WideResNet8", "resnext:ResNeXt", "small_cnn:SmallCNN"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bn", [False, True])
def test_input_shape_and_classes_are_arguments(name: str, bn: bool) -> None:
    module = architecture(*name.split(":"))((1, 12, 20), 7, bn=bn).eval()
    assert module(torch.zeros(2, 1, 12, 20)).shape == (2, 7)
    assert any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules()) == bn


def test_the_digits_file_is_small_accurate_and_in_the_package() -> None:
    path = ROOT / "models" / "digits.onnx"
    assert path.read_bytes() == (ROOT / "pipeline" / "data" / "digits.onnx").read_bytes()
    assert path.stat().st_size < 200_000
    test = data.load("digits", part="test")
    logits = file_session(path).batched(np.asarray(test.images, np.float32))
    assert np.mean(logits.argmax(1) == test.labels) >= 0.97
    network = load(path).network
    assert len(network.trainable()) == 8
    assert not network.provenance.frozen
