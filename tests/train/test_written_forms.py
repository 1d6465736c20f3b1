"""What was trained comes back into every form of layer that the importer reads, with BatchNorm folded and as nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import InputRejected
from pipeline.train import fold, insert
from tests.onnx.files import load, saved, session, weights, write_back
from tests.onnx.layer_forms import LayerForm, gemm, layer_forms


def rare(form: LayerForm) -> tuple[pytest.MarkDecorator, ...]:
    """Convolutions of one and three axes are left to test-all."""
    return (pytest.mark.slow,) if " 1d" in form.name or " 3d" in form.name else ()


def moved(network: torch.nn.Module) -> None:
    """Another value for all that trains, and for all statistics."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        for name, buffer in network.named_buffers():
            if "running" in name:
                buffer.add_(torch.rand(buffer.shape, generator=generator))


def written(form: LayerForm, keep: bool, folder: Path) -> None:
    """The file is what was trained, on ONNX Runtime; a refusal comes before any training."""
    path, out = saved(folder, form.classifier()), folder / "out.onnx"
    network = load(path).network
    try:
        training = insert(network, keep=keep)
    except InputRejected:
        assert form.name.startswith(("shared", "Conv"))
        assert "shared" in form.name
        assert not keep
        return
    moved(training.graph)
    trained = fold(training.eval(), keep=keep)
    write_back(path, trained, out, metadata={})
    x = weights(3, *[d or 1 for d in network.inputs[0].shape[1:]], seed=4)
    with torch.no_grad():
        ours, before = (n(torch.from_numpy(x)).numpy() for n in (trained, training))
    np.testing.assert_allclose(session(out, level="off").batched(x), ours, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(before, ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("keep", [True, False], ids=["keep", "fold"])
@pytest.mark.parametrize("form", [pytest.param(f, id=f.name, marks=rare(f)) for f in layer_forms()])
def test_every_form_of_layer(form: LayerForm, keep: bool, tmp_path: Path) -> None:
    written(form, keep, tmp_path)


@pytest.mark.pairwise
@pytest.mark.parametrize("keep", [True, False], ids=["keep", "fold"])
@pytest.mark.parametrize("alpha", [1.0, 0.5, 1.7])
@pytest.mark.parametrize("beta", [1.0, 0.5, 1.7, 0.0])
@pytest.mark.parametrize("turned", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("bias", [None, (3,), (1, 3), (1,), (), (1, 1)])
def test_every_gemm(alpha: float, beta: float, turned: tuple, bias: tuple | None, keep: bool, tmp_path: Path) -> None:
    written(gemm(alpha, beta, turned, bias), keep, tmp_path)
