"""Hostile and broken files are refused, with the rule, what was found and what to do, before they cost anything."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import InputRejected
from tests.onnx.files import load, mlp, model, node, saved, weights


def refused(path: Path, message: str) -> None:
    with pytest.raises(InputRejected, match=message) as caught:
        load(path)
    assert caught.value.exit_code == 3
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"empty \(0 bytes\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n", "git lfs pull"),
        (b"\x00\x01 not a model", "truncated, corrupt or not ONNX"),
        (mlp().SerializeToString()[:200], "truncated"),
        (b"\x08\x08", "0 nodes"),
    ],
    ids=["empty", "lfs", "garbage", "truncated", "hollow"],
)
def test_a_file_that_is_not_a_model(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    refused(path, message)


def test_an_element_type_that_there_is_not(tmp_path: Path) -> None:
    proto = mlp()
    proto.graph.initializer[0].data_type = 256
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    refused(path, "as its shape says")


def test_no_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.onnx", "there is none")


def changed(change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    proto = mlp()
    change(proto)
    return proto


def _nan(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((6, 5), np.nan, np.float32), "w1"))


def _infinite(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.array([1, np.inf, 2, 3, 4], np.float32), "b1"))


def _short(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:8]


def _huge(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].dims[:] = [2**40, 2**30]


def _negative(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].dims[:] = [-6, 5]


def _branch(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=proto.graph, else_branch=proto.graph))


def _foreign(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(helper.make_node("Quant\x1b[31m", ["x"], ["z"], domain="custom"))
    proto.graph.node.append(helper.make_node("Fused", ["x"], ["u"], domain="com.microsoft"))
    proto.graph.node.append(helper.make_node("Fused", ["x"], ["v"], domain="com.microsoft"))
    proto.opset_import.extend([helper.make_opsetid("custom", 1), helper.make_opsetid("com.microsoft", 1)])


def _opset(proto: onnx.ModelProto, version: int) -> None:
    proto.opset_import[0].version = version


BAD = {
    "nan": (_nan, "'w1' holds 30 NaN"),
    "infinite": (_infinite, "'b1' holds 1 NaN or infinite values of 5"),
    "short": (_short, "'w1' of shape .* needs 120 and holds 8"),
    "huge": (_huge, r"declares \[1099511627776, 1073741824\]"),
    "negative": (_negative, r"dimensions >= 0"),
    "branch": (_branch, r"Control flow .* If \(1\)"),
    "foreign": (_foreign, r"Fused of com.microsoft \(2\), Quant\\x1b\[31m of custom \(1\)"),
    "too old": (lambda m: _opset(m, 6), "between 7 and 23"),
    "too new": (lambda m: _opset(m, 99), r"says \[99\]"),
    "random": (lambda m: m.graph.node.append(node("RandomNormalLike", ["x"], ["z"])), r"RandomNormalLike \(1\)"),
    "twice": (lambda m: m.graph.node.append(node("Relu", ["x"], ["h1"])), "more than once: 'h1'"),
    "twice held": (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "more than once: 'w1'"),
    "wide input": (
        lambda m: m.graph.input[0].type.tensor_type.shape.dim.add(dim_value=2**50),
        "input has at most",
    ),
    "cycle": (lambda m: m.graph.node[0].input.__setitem__(0, "h5"), "a cycle"),
    "functions": (lambda m: m.functions.add(name="f", domain="d"), "inline them"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_model_that_breaks_a_rule(case: str, tmp_path: Path) -> None:
    change, message = BAD[case]
    path = tmp_path / "m.onnx"
    path.write_bytes(changed(change).SerializeToString())
    refused(path, message)


def test_training_mode_is_refused(tmp_path: Path) -> None:
    drop = model([node("Dropout", ["x", "", "t"], ["y"])], [1, 4], {"t": np.array(True)})
    refused(saved(tmp_path, drop), "Dropout in training mode")


def test_an_infinite_single_number_is_a_bound(tmp_path: Path) -> None:
    proto = model(
        [node("Clip", ["x", "low", "high"], ["y"])],
        ["batch", 3],
        {"low": np.array(0.0, np.float32), "high": np.array(np.inf, np.float32)},
    )
    assert load(saved(tmp_path, proto)).parity.holds


def test_a_node_that_makes_terabytes_is_refused_before_it_runs(tmp_path: Path) -> None:
    nodes = [
        node("ConstantOfShape", ["s"], ["big"]),
        node("ReduceSum", ["big"], ["total"], keepdims=0),
        node("Add", ["x", "total"], ["y"]),
    ]
    refused(saved(tmp_path, model(nodes, [1, 4], {"s": np.array([2**20, 2**20])})), "would")


def test_all_unsupported_operators_are_named_with_counts(tmp_path: Path) -> None:
    nodes = [
        node("Det", ["x"], ["a"]),
        node("Sinh", ["x"], ["b"]),
        node("Tan", ["b"], ["c"]),
        node("Tan", ["c"], ["y"]),
        node("Unsqueeze", ["a", "axis"], ["z"]),
    ]
    proto = model(nodes, ["batch", 3, 3], {"axis": np.array(1)}, outputs=("y",))
    proto.graph.output.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["batch"]))
    refused(saved(tmp_path, proto), r"Det \(1\), Sinh \(1\), Tan \(2?1?\)")


def test_a_normalisation_that_leaves_nothing_is_named(tmp_path: Path) -> None:
    normal = node("InstanceNormalization", ["x", "s", "b"], ["y"])
    refused(saved(tmp_path, model([normal], ["batch", 3, 1, 1], {"s": weights(3), "b": weights(3)})), "a single place")


def test_hostile_names_in_messages_are_escaped_and_cut(tmp_path: Path) -> None:
    proto = mlp()
    proto.graph.initializer[0].name = "\x1b[2J<script>" + "a" * 1_000_000
    proto.graph.initializer[0].raw_data = b""
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    refused(path, r"\\x1b\[2J<script>aaa")


@pytest.fixture
def external(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    onnx.save(mlp(), path, save_as_external_data=True, location="m.data", size_threshold=0)
    return path


def _point(path: Path, **entries: str) -> None:
    proto = onnx.load(path, load_external_data=False)
    tensor = proto.graph.initializer[0]
    for key, value in entries.items():
        tensors = next((e for e in tensor.external_data if e.key == key), None) or tensor.external_data.add(key=key)
        tensors.value = value
    path.write_bytes(proto.SerializeToString())


def test_external_data_beside_the_file_is_read(external: Path) -> None:
    assert load(external).parity.holds
    np.testing.assert_array_equal(
        numpy_helper.to_array(load(external).model.graph.initializer[0]), weights(6, 5, seed=1)
    )


@pytest.mark.parametrize("location", ["../m.data", "/etc/passwd", "a/../../m.data", "..\\m.data", "C:\\m.data", ""])
def test_external_data_never_leaves_the_folder(location: str, external: Path) -> None:
    _point(external, location=location)
    refused(external, "own folder; tensor 'w1'")


def test_external_data_through_links_is_refused(external: Path, tmp_path: Path) -> None:
    data = tmp_path / "m.data"
    os.link(data, tmp_path / "second")
    refused(external, "2 hard links")
    (tmp_path / "second").unlink()
    data.rename(tmp_path / "real")
    data.symlink_to(tmp_path / "real")
    refused(external, "symbolic link")
    data.unlink()
    refused(external, "must be there")


def test_external_data_that_is_too_short_is_refused(external: Path, tmp_path: Path) -> None:
    data = tmp_path / "m.data"
    data.write_bytes(data.read_bytes()[:10])
    refused(external, "needs 120 bytes at 0, 'm.data' has 10")


@pytest.mark.parametrize(("key", "value"), [("length", "8"), ("offset", "-4"), ("offset", "ten")])
def test_external_entries_that_contradict_the_shape_are_refused(key: str, value: str, external: Path) -> None:
    _point(external, **{key: value})
    refused(external, "xternal")
