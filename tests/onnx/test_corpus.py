"""Real models of others, where the folder is (PIPELINE_CORPUS): they import, train and go back into their files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import onnx
import pytest

from pipeline.errors import InputRejected
from tests.onnx.files import load, write_back
from tests.onnx.test_operators import assert_vocabulary
from tests.onnx.test_write_back import trained

pytestmark = [pytest.mark.corpus, pytest.mark.slow]
CORPUS = Path(os.environ.get("PIPELINE_CORPUS", ""))
INDEX = CORPUS / "index.json"
MODELS = (
    [e["file"] for e in json.loads(INDEX.read_text())] if os.environ.get("PIPELINE_CORPUS") and INDEX.is_file() else []
)
REFUSED = {"onnx/carvana_unet_2022__unet_simp_small.onnx": r"OneHot \(1\)"}


@pytest.mark.skipif(not MODELS, reason="PIPELINE_CORPUS names no folder with index.json")
def test_at_least_41_of_42_are_expected_to_import() -> None:
    assert len(MODELS) - len(REFUSED) >= 41


@pytest.mark.parametrize("file", MODELS)
def test_a_real_model_imports_and_goes_back(file: str, tmp_path: Path) -> None:
    path = CORPUS / file
    if file in REFUSED:
        with pytest.raises(InputRejected, match=REFUSED[file]):
            load(path)
        return
    imported = load(path)
    assert imported.parity.holds
    assert_vocabulary(imported.network.graph)
    assert imported.network.trainable()
    out = tmp_path / "out.onnx"
    written = write_back(path, trained(imported.network), out, metadata={})
    assert written.parity.holds
    before, after = onnx.load(path).graph, onnx.load(out).graph
    assert [n.name for n in before.node] == [n.name for n in after.node]
    changed = [
        a for a, b in zip(before.node, after.node, strict=True) if a.SerializeToString() != b.SerializeToString()
    ]
    assert all(n.op_type == "Constant" for n in changed)
