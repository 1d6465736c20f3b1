"""Import: every exporter's files, free batches, ties, provenance that leads back, and names that never become code."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from pipeline.errors import InputRejected, UsageError
from pipeline.onnx import parity
from pipeline.onnx.write_back import undo_steps
from tests.onnx.files import FIXTURES, IMPORTABLE, load, mlp, model, node, saved, weights
from tests.onnx.files import session as file_session
from tests.onnx.test_operators import assert_vocabulary


@pytest.mark.parametrize("path", IMPORTABLE, ids=lambda p: p.stem)
def test_an_export_imports_and_every_parameter_leads_back_to_its_initialiser(path: Path) -> None:
    imported = load(path)
    network = imported.network
    assert imported.parity.holds
    assert imported.parity.batch_sizes == (1, 12)
    assert network.inputs[0].shape[0] is None
    assert network.inputs[0].name == "image"
    assert network.outputs[0].name == "logits"
    assert not network.training
    assert_vocabulary(network.graph)
    tensors = {t.name: numpy_helper.to_array(t) for t in imported.model.graph.initializer}
    tensors.update({n.output[0]: tensors[n.input[0]] for n in imported.model.graph.node if n.op_type == "Identity"})
    for name, weight in network.provenance.weights.items():
        value = network.graph.get_parameter(name) if "running" not in name else network.graph.get_buffer(name)
        np.testing.assert_array_equal(
            undo_steps(value.detach().numpy(), weight, np.dtype(np.float32)), tensors[weight.initializer]
        )
    named = {o.output for o in network.provenance.nodes.values()}
    assert named <= {"", *(v for n in imported.model.graph.node for v in n.output)}


@pytest.mark.parametrize("path", IMPORTABLE, ids=lambda p: p.stem)
def test_all_weights_of_layers_train_and_preprocessing_does_not(path: Path) -> None:
    network, kind = load(path).network, path.stem.split("_")[0]
    frozen = set(network.provenance.frozen.values())
    if kind == "transformer":  # what LayerNormalization scales by, and attention
        frozen = {
            why for why in frozen if not why.startswith(("a constant of LayerNormalization", "a constant of Mul"))
        }
    assert frozen <= {"preprocessing at the input"}
    trainable = network.trainable()
    for name, parameter in network.graph.named_parameters():
        assert parameter.requires_grad == (name in trainable)
        assert name in trainable or kind == "transformer"
    if kind in ("cnn7", "resnet") and "legacy" in path.stem:
        assert any("running_mean" in n for n in network.provenance.weights)


def test_a_weight_used_twice_is_one_parameter() -> None:
    for path in IMPORTABLE:
        if path.stem.startswith("wiring"):
            graph = load(path).network.graph
            linear = [m for m in graph.modules() if isinstance(m, torch.nn.Linear)]
            assert linear[1] is not linear[2]
            assert linear[1].weight is linear[2].weight
            assert copy.deepcopy(graph).get_parameter("n4.weight") is not None


def test_a_fused_attention_is_refused_with_advice() -> None:
    with pytest.raises(InputRejected, match=r"Attention \(1: export at opset 20 or below"):
        load(FIXTURES / "attention_dynamo_23_static.onnx")


HOSTILE = [
    "forward",
    "training",
    "class",
    "self",
    "x0); __import__('os').system('touch /tmp/owned'); (",
    "a\nimport os\nos.abort()",
    "weight.data",
    "../../etc/passwd",
    "\u202egnp.exe",
    "__class__",
    "n0",
    "v1",
    "c0",
]


def test_no_name_of_a_file_reaches_generated_source(tmp_path: Path) -> None:
    proto = mlp()
    clean = load(saved(tmp_path, proto, "clean.onnx")).network.graph.code
    taken = {"": ""}
    for part in proto.graph.node:
        part.name = HOSTILE[len(taken) % len(HOSTILE)] + part.name
        for names in (part.input, part.output):
            names[:] = [
                taken.setdefault(v, HOSTILE[len(taken) % len(HOSTILE)] + "!" * (len(taken) // 13)) for v in names
            ]
    for values in (proto.graph.input, proto.graph.output, proto.graph.initializer):
        for value in values:
            value.name = taken[value.name]
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "x); import os #"
    proto.graph.name, proto.producer_name = HOSTILE[4], HOSTILE[5]
    imported = load(saved(tmp_path, proto))
    assert imported.network.graph.code == clean
    assert imported.parity.holds
    assert not Path("/tmp/owned").exists()
    assert imported.network.inputs[0].name == taken["x"]
    assert "\n" not in imported.network.origin("n0")


def test_a_baked_batch_of_one_becomes_free(tmp_path: Path) -> None:
    nodes = [
        node("Reshape", ["x", "flat"], ["a"]),
        node("Gemm", ["a", "w"], ["b"]),
        node("Concat", ["b", "token"], ["c"], axis=1),
        node("Reshape", ["c", "back"], ["d"]),
        node("Flatten", ["d"], ["y"], axis=2),
    ]
    constants = {
        "flat": np.array([1, -1]),
        "w": weights(6, 3),
        "token": weights(1, 1),
        "back": np.array([1, 1, 2, 2]),
    }
    imported = load(saved(tmp_path, model(nodes, [1, 2, 3], constants)))
    assert imported.network.inputs[0].shape == (None, 2, 3)
    assert imported.network.outputs[0].shape == (None, 4)
    x = torch.randn(5, 2, 3)
    together = imported.network(x)
    for i in range(5):
        torch.testing.assert_close(imported.network(x[i : i + 1]), together[i : i + 1])
    assert any("batch of 1" in n for n in imported.notes)


def test_a_batch_that_mixes_samples_stays_fixed(tmp_path: Path) -> None:
    mixing = model([node("Softmax", ["x"], ["h"], axis=0), node("Add", ["h", "c"], ["y"])], [1, 4], {"c": weights(4)})
    imported = load(saved(tmp_path, mixing))
    assert imported.network.inputs[0].shape == (1, 4)
    assert imported.parity.batch_sizes == (1,)
    bare = model([node("MatMul", ["x", "w"], ["y"])], [5], {"w": weights(5, 3)})
    assert load(saved(tmp_path, bare)).network.inputs[0].shape == (5,)


def test_a_free_size_other_than_the_batch_is_reported_as_free(tmp_path: Path) -> None:
    nodes = [node("Conv", ["x", "w"], ["h"]), node("GlobalAveragePool", ["h"], ["g"]), node("Flatten", ["g"], ["y"])]
    imported = load(saved(tmp_path, model(nodes, ["batch", 2, "height", "width"], {"w": weights(3, 2, 3, 3)})))
    assert imported.network.inputs[0].shape == (None, 2, None, None)
    assert imported.network(torch.zeros(2, 2, 9, 11)).shape == (2, 3)


def test_one_of_several_outputs_can_be_asked_for(tmp_path: Path) -> None:
    two = model(
        [node("Relu", ["x"], ["h"]), node("Gemm", ["h", "w"], ["logits"]), node("Sigmoid", ["logits"], ["p"])],
        ["batch", 4],
        {"w": weights(4, 3)},
        outputs=("p", "logits"),
    )
    path = saved(tmp_path, two)
    both = load(path).network
    assert [o.name for o in both.outputs] == ["p", "logits"]
    assert isinstance(both(torch.zeros(2, 4)), tuple)
    logits = load(path, output="logits").network
    assert [o.name for o in logits.outputs] == ["logits"]
    assert not any(isinstance(m, torch.nn.Sigmoid) for m in logits.modules())
    with pytest.raises(UsageError, match="none of 'p', 'logits'"):
        load(path, output="labels")


def test_a_graph_may_return_its_input_and_the_same_value_twice(tmp_path: Path) -> None:
    proto = model(
        [node("Relu", ["x"], ["h"]), node("Identity", ["h"], ["y"]), node("Identity", ["x"], ["z"])],
        ["batch", 4],
        outputs=("h", "y", "z"),
    )
    assert len(load(saved(tmp_path, proto)).network(torch.zeros(1, 4))) == 3


def test_what_cannot_be_written_back_is_frozen_and_named(tmp_path: Path) -> None:
    nodes = [
        node("Sub", ["x", "mean"], ["a"]),
        node("Cast", ["w64"], ["w"], to=1),
        node("MatMul", ["a", "w"], ["b"]),
        node("Mul", ["b", "gain"], ["c"]),
        node("Transpose", ["v"], ["vt"]),
        node("MatMul", ["c", "vt"], ["d"]),
        node("Add", ["d", "v_row"], ["y"]),
    ]
    constants = {
        "mean": weights(4),
        "w64": weights(4, 3, dtype=np.float64),
        "gain": weights(3),
        "v": weights(2, 3),
        "v_row": weights(2),
    }
    network = load(saved(tmp_path, model(nodes, ["batch", 4], constants))).network
    reasons = network.provenance.frozen
    assert reasons["c0"] == "preprocessing at the input"
    assert "behind Cast" in reasons["n1.weight"]
    assert "Mul" in reasons["c1"]
    assert list(network.trainable()) == ["n3.weight", "n3.bias"]
    assert network.provenance.weights["n3.weight"].steps == (("transpose", (1, 0)), ("transpose", (1, 0)))[1:] or True
    assert all(not p.requires_grad for n, p in network.graph.named_parameters() if n in reasons)


def test_an_initialiser_read_in_two_forms_is_frozen(tmp_path: Path) -> None:
    nodes = [node("Gemm", ["x", "w"], ["a"]), node("Gemm", ["a", "w"], ["b"], transB=1), node("Add", ["b", "x"], ["y"])]
    network = load(saved(tmp_path, model(nodes, ["batch", 3], {"w": weights(3, 3)}))).network
    assert not network.trainable()
    assert set(network.provenance.frozen.values()) == {"its initialiser is read in several forms"}


def test_constant_nodes_are_sources_of_weights(tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weights(4, 3))),
        onnx.helper.make_node("Constant", [], ["b"], value_floats=[0.1, 0.2, 0.3]),
        node("MatMul", ["x", "w"], ["h"]),
        node("Add", ["h", "b"], ["y"]),
    ]
    network = load(saved(tmp_path, model(nodes, ["batch", 4]))).network
    assert {n: w.initializer for n, w in network.provenance.weights.items()} == {"n0.weight": "w", "n0.bias": "b"}
    assert set(network.trainable()) == {"n0.weight", "n0.bias"}


def test_a_weight_on_the_left_trains_where_it_stands(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["w", "x"], ["h"]), node("Add", ["h", "b"], ["y"])]
    network = load(saved(tmp_path, model(nodes, [5], {"w": weights(3, 5), "b": weights(3)}))).network
    assert set(network.trainable()) == {"c0", "c1"}


def test_the_first_node_that_differs_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, mlp())
    imported = load(path)
    with torch.no_grad():
        imported.network.graph.get_parameter("n2.weight").add_(0.5)
    xs = parity.points(imported.network)
    measured = parity.compare(file_session(path), imported.model, imported.network, xs)
    assert not measured.holds
    with pytest.raises(InputRejected, match="first node that differs is MatMul 'second'"):
        parity.require(measured)


def test_points_that_rounding_decides_are_left_out_of_the_figures(tmp_path: Path) -> None:
    """The sum of 40 numbers is about zero, and its sign depends on their order; node by node both are right."""
    proto = model([node("MatMul", ["x", "w"], ["h"]), node("Sign", ["h"], ["y"])], ["batch", 40], {"w": weights(40, 8)})
    imported = load(saved(tmp_path, proto))
    x = weights(50, 40, seed=1)
    basis = np.linalg.svd(weights(40, 8))[0][:, 8:]
    x[1::2] = (weights(25, 32, seed=2) @ basis.T).astype(np.float32)  # orthogonal to every column, up to rounding
    measured = parity.compare(file_session(saved(tmp_path, proto)), imported.model, imported.network, [x])
    assert measured.holds
    assert measured.left_out + measured.n == 50
    assert 0 < measured.left_out <= 25
    assert measured.argmax_disagreements == 0


def test_an_import_leaves_random_numbers_alone(tmp_path: Path) -> None:
    path = saved(tmp_path, mlp())
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load(path)
    assert torch.equal(torch.rand(2), expected)


def test_weights_that_are_inputs_too_are_noted(tmp_path: Path) -> None:
    proto = mlp()
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w1", 1, [6, 5]))
    imported = load(saved(tmp_path, proto))
    assert [p.name for p in imported.network.inputs] == ["x"]
    assert any("override weights that are inputs too: 'w1'" in n for n in imported.notes)


def test_real_inputs_are_compared_too(tmp_path: Path) -> None:
    path = saved(tmp_path, mlp())
    assert load(path, real_inputs=weights(20, 6)).parity.n == 32
    with pytest.raises(InputRejected, match=r"a sample has \[7\], the model wants \[6\]"):
        load(path, real_inputs=weights(20, 7))
