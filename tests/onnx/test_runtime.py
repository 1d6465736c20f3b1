"""ONNX Runtime as the judge: any number of samples, the file's own batch, no silent change of provider."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from pipeline.errors import EnvironmentFailure, InputRejected
from pipeline.onnx import runtime
from pipeline.onnx.digest import digests as of
from tests.onnx.files import FIXTURES, digests, mlp, saved, weights
from tests.onnx.files import session as file_session


@pytest.mark.parametrize("batch", ["batch", 1, 4])
def test_any_number_of_samples_whatever_batch_the_file_fixes(batch: str | int, tmp_path: Path) -> None:
    session = file_session(saved(tmp_path, mlp(batch=batch)))
    free = runtime.session(mlp().SerializeToString())
    assert session.fixed_batch == (batch if isinstance(batch, int) else None)
    x = weights(7, 6)
    np.testing.assert_allclose(session.batched(x, chunk=3), free(x)[0], atol=1e-6)
    assert session.batched(x, output="y").shape == (7, 3)


def test_a_provider_that_is_not_there_is_an_error_not_a_fallback(tmp_path: Path) -> None:
    path = saved(tmp_path, mlp())
    error = onnxruntime.InferenceSession(str(path), providers=["CUDAExecutionProvider"]).get_providers()
    if "CUDAExecutionProvider" in error:
        assert file_session(path, provider="cuda").provider == "cuda"
        return
    with pytest.raises(EnvironmentFailure, match=r"fell back|must be part of"):
        file_session(path, provider="cuda")


def test_a_model_that_cannot_run_on_an_input_says_so() -> None:
    session = runtime.session(mlp().SerializeToString())
    with pytest.raises(InputRejected, match="able to run"):
        session(weights(2, 7))


def test_digests_tell_bytes_structure_and_weights_apart(tmp_path: Path) -> None:
    plain = saved(tmp_path, mlp())
    first = digests(plain)
    assert first.sha256 == hashlib.sha256(plain.read_bytes()).hexdigest()
    noted = mlp()
    noted.metadata_props.add(key="a", value="b")
    second = digests(saved(tmp_path, noted))
    assert first.sha256 != second.sha256
    assert (first.structure_sha256, first.weights_sha256) == (second.structure_sha256, second.weights_sha256)
    renamed = mlp()
    renamed.graph.node[0].name = "other"
    third = digests(saved(tmp_path, renamed))
    assert third.structure_sha256 != first.structure_sha256
    assert third.weights_sha256 == first.weights_sha256
    inside, outside = digests(FIXTURES / "mlp_dynamo_20_dynamic.onnx"), digests(FIXTURES / "mlp_external.onnx")
    assert inside.weights_sha256 == outside.weights_sha256


def test_no_two_splits_of_the_same_bytes_have_one_digest() -> None:
    """A byte that moves from the model into its data, or from one file of data to the next, is told."""
    whole = b"0123456789"
    splits = [(whole[:i], whole[i:j], whole[j:]) for i in range(11) for j in range(i, 11)]
    splits += [(whole[:i], whole[i:]) for i in range(11)] + [(whole,)]
    digests = [of(first, rest, mlp()).sha256 for first, *rest in splits]
    assert len({*digests}) == len(digests)
    assert digests[-1] == hashlib.sha256(whole).hexdigest()
