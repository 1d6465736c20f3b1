"""Everything the exporters of the installed PyTorch write of the fixtures' networks, opset by opset, imports."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch

from pipeline import rules
from tests.onnx.files import FIXTURES, load

SCRIPT = Path(__file__).parents[2] / "scripts" / "export_fixtures.py"


@pytest.mark.slow
@pytest.mark.parametrize("batch", ["static", "dynamic"])
@pytest.mark.parametrize("exporter", ["legacy", "dynamo"])
def test_every_export_of_every_network_imports(exporter: str, batch: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    spec = importlib.util.spec_from_file_location("export_fixtures", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for name, network, shape in script.networks():
        for opset in (13, 14, 15, 16, 17, 18, 19, 20) if exporter == "legacy" else (18, 19, 20, 21, 22, 23):
            if opset not in script.OPSETS.get(name, script.ALL):
                continue
            path = tmp_path / f"{name}_{opset}.onnx"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                script.export(network, shape, path, exporter, opset, batch)
            assert next(e.version for e in onnx.load(path).opset_import if not e.domain) == opset
            assert load(path).parity.holds


def small() -> dict[str, Callable[[], torch.nn.Module]]:
    """The vision transformers of torchvision, and what borrowed from them, at a size of tests."""
    from torchvision.models import ConvNeXt, MaxVit, SwinTransformer, VisionTransformer
    from torchvision.models.convnext import CNBlockConfig

    blocks = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)]
    swin = {"patch_size": [2, 2], "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4], "window_size": [4, 4]}
    maxvit = {"stem_channels": 8, "partition_size": 2, "block_channels": [8, 16], "block_layers": [1, 1], "head_dim": 4}
    calm = {"stochastic_depth_prob": 0.0, "num_classes": 10}
    return {
        "vit": lambda: VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=10),
        "swin": lambda: SwinTransformer(**swin, **calm),
        "convnext": lambda: ConvNeXt(blocks, num_classes=10),
        "maxvit": lambda: MaxVit((32, 32), **maxvit, **calm),
    }


@pytest.mark.slow
@pytest.mark.parametrize("batch", ["static", "dynamic"])
@pytest.mark.parametrize("name", ["vit", "swin", "convnext", "maxvit"])
def test_transformers_of_torchvision_are_read(name: str, batch: str, tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    torch.manual_seed(0)
    free = None if batch == "static" else ({0: torch.export.Dim("batch")},)
    images = torch.rand(1 if batch == "static" else 2, 3, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            small()[name]().eval(),
            (images,),
            tmp_path / "model.onnx",
            dynamo=True,
            dynamic_shapes=free,
            external_data=False,
        )
    imported = load(tmp_path / "model.onnx")
    assert imported.parity.holds
    rules.require(imported.network)


def test_the_fixtures_cover_both_exporters_and_opsets_13_to_23() -> None:
    variants = {tuple(p.stem.split("_")[1:]) for p in FIXTURES.glob("*_*_*_*.onnx")}
    assert {v[0] for v in variants} == {"legacy", "dynamo"}
    assert {v[2] for v in variants} == {"static", "dynamic"}
    assert {"13", "17", "20"} <= {v[1] for v in variants if v[0] == "legacy"}
    assert {"18", "20", "23"} <= {v[1] for v in variants if v[0] == "dynamo"}
