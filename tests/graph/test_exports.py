"""Everything the exporters of the installed PyTorch write of the fixtures' networks, opset by opset, imports."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import onnx
import pytest

from pipeline.graph.importer import load
from tests.graph.files import FIXTURES

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


def test_the_fixtures_cover_both_exporters_and_opsets_13_to_23() -> None:
    variants = {tuple(p.stem.split("_")[1:]) for p in FIXTURES.glob("*_*_*_*.onnx")}
    assert {v[0] for v in variants} == {"legacy", "dynamo"}
    assert {v[2] for v in variants} == {"static", "dynamic"}
    assert {"13", "17", "20"} <= {v[1] for v in variants if v[0] == "legacy"}
    assert {"18", "20", "23"} <= {v[1] for v in variants if v[0] == "dynamo"}
