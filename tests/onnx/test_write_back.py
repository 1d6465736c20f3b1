"""Write back (law 6): the file comes back as it was, except for trained values, biases gained and BatchNorm asked for."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from pipeline.core.network import Network, Weight
from pipeline.errors import Contradiction, EnvironmentFailure, UsageError
from pipeline.onnx.write_back import undo_steps
from tests.onnx.files import FIXTURES, IMPORTABLE, digests, load, mlp, model, node, saved, weights, write_back
from tests.onnx.files import session as file_session


def trained(network: Network, seed: int = 0) -> Network:
    """Every trainable parameter and every statistic changed a little."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.trainable().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        for name, buffer in network.graph.named_buffers():
            if "running" in name:
                buffer.add_(torch.rand(buffer.shape, generator=generator))
    return network


def bare(model: onnx.ModelProto) -> bytes:
    """The message without the values of its weights and without metadata."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            for field in ("raw_data", "float_data", "external_data"):
                tensor.ClearField(field)
    del copy.metadata_props[:]
    return copy.SerializeToString(deterministic=True)


@pytest.mark.parametrize("path", IMPORTABLE, ids=lambda p: p.stem)
def test_everything_but_trained_values_is_as_it_was(path: Path, tmp_path: Path) -> None:
    network = trained(load(path).network)
    out = tmp_path / "out.onnx"
    written = write_back(path, network, out, metadata={"eps": "8/255"})
    before, after = onnx.load(path, load_external_data=False), onnx.load(out, load_external_data=False)
    copies = {n.output[0] for n in before.graph.node if n.op_type == "Identity"}
    if not any("became initializer" in c for c in written.changes):
        assert bare(before) == bare(after)
        assert digests(path).structure_sha256 == digests(out).structure_sha256
    else:  # the legacy exporter's Identity copies of equal tensors that are no longer equal
        unchanged = [n.SerializeToString() for n in before.graph.node if n.op_type != "Identity"]
        assert unchanged == [n.SerializeToString() for n in after.graph.node if n.op_type != "Identity"]
        assert {t.name for t in after.graph.initializer} - {t.name for t in before.graph.initializer} <= copies
    assert {p.key: p.value for p in after.metadata_props} == {"pipeline.eps": "8/255"}
    assert digests(path).weights_sha256 != digests(out).weights_sha256
    assert written.parity.holds
    x = parity_inputs(network)
    metadata = network(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(file_session(out).batched(x), metadata, atol=1e-5)


def parity_inputs(network: Network) -> np.ndarray:
    return np.random.default_rng(1).random((5, *(d or 8 for d in network.inputs[0].shape[1:]))).astype(np.float32)


def test_an_untrained_network_writes_the_same_bytes(tmp_path: Path) -> None:
    for path in FIXTURES.glob("*_dynamic.onnx"):
        out = tmp_path / path.name
        assert write_back(path, load(path).network, out, metadata={}).changes == ()
        assert out.read_bytes() == onnx.load(path).SerializeToString()


def test_the_original_and_the_network_are_left_alone(tmp_path: Path) -> None:
    path = saved(tmp_path, mlp())
    before = path.read_bytes()
    network = trained(load(path).network).train()
    state = {n: t.clone() for n, t in network.state_dict().items()}
    write_back(path, network, tmp_path / "out.onnx", metadata={})
    assert path.read_bytes() == before
    assert network.training
    assert all(torch.equal(t, network.state_dict()[n]) for n, t in state.items())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "out.onnx"]


def gain_bias(network: Network, name: str) -> nn.Module:
    layer = network.graph.get_submodule(name)
    size = layer.weight.shape[0]
    layer.bias = nn.Parameter(torch.linspace(-1, 1, size, dtype=layer.weight.dtype))
    return layer


@pytest.mark.parametrize("opset", [9, 13, 17, 20])
def test_a_matmul_that_gains_a_bias_stays_a_matmul(opset: int, tmp_path: Path) -> None:
    proto = mlp()
    proto.opset_import[0].version = opset
    path = saved(tmp_path, proto)
    network = load(path).network
    gain_bias(network, "n2")
    out = tmp_path / "out.onnx"
    changes = write_back(path, network, out, metadata={}).changes
    assert changes == ("node MatMul 'second' gained a bias as node 'second/Add' after it",)
    after = onnx.load(out).graph
    assert [n.op_type for n in after.node] == ["MatMul", "Add", "Relu", "MatMul", "Add", "Relu", "Gemm"]
    same = {n.name: n.SerializeToString() for n in onnx.load(path).graph.node}
    assert [n.name for n in after.node if same.get(n.name) != n.SerializeToString()] == ["second", "second/Add"]
    assert after.node[4].output[0] == "h4"


def test_conv_and_gemm_gain_a_bias_as_an_input(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"], name="conv"),
        node("Flatten", ["a"], ["b"]),
        node("Gemm", ["b", "v"], ["c"], name="gemm"),
        node("Gemm", ["c", "u"], ["y"], name="scaled", alpha=2.0, beta=0.5),
    ]
    constants = {"w": weights(2, 1, 3, 3), "v": weights(8, 3), "u": weights(3, 3)}
    path = saved(tmp_path, model(nodes, ["batch", 1, 4, 4], constants))
    network = load(path).network
    for name in ("n0", "n2", "n3"):
        gain_bias(network, name)
    changes = write_back(path, network, tmp_path / "out.onnx", metadata={}).changes
    assert len(changes) == 3
    assert all("gained a bias" in c for c in changes)
    after = onnx.load(tmp_path / "out.onnx").graph
    assert [len(n.input) for n in after.node][:3] == [3, 1, 3]


def test_the_add_after_a_matmul_holds_its_bias(tmp_path: Path) -> None:
    path = saved(tmp_path, mlp())
    network = load(path).network
    with torch.no_grad():
        network.graph.get_parameter("n0.bias").add_(1.0)
    changes = write_back(path, network, tmp_path / "out.onnx", metadata={}).changes
    assert changes == ("initializer 'b1': 5 of 5 values changed",)


def test_a_single_number_that_spreads_grows_when_it_is_trained(tmp_path: Path) -> None:
    constants = {"w": weights(4, 3), "c": np.array(0.5, np.float32)}
    path = saved(tmp_path, model([node("Gemm", ["x", "w", "c"], ["y"])], ["batch", 4], constants))
    network = trained(load(path).network)
    changes = write_back(path, network, tmp_path / "out.onnx", metadata={}).changes
    assert "initializer 'c': shape [] became [3]" in changes


def insert_bn(network: Network, producer: str, name: str = "n90") -> Network:
    """A BatchNorm after a node of the graph, as training inserts them: all readers read it instead."""
    graph = network.graph.graph
    after = next(n for n in graph.nodes if n.name == producer)
    layer = network.graph.get_submodule(producer)
    bn = (nn.BatchNorm2d if layer.weight.dim() == 4 else nn.BatchNorm1d)(layer.weight.shape[0])
    with torch.no_grad():
        for i, tensor in enumerate((bn.weight, bn.bias, bn.running_mean, bn.running_var)):
            tensor.copy_(torch.rand(tensor.shape, generator=torch.Generator().manual_seed(i)) + 0.5)
    network.graph.add_module(name, bn.eval())
    with graph.inserting_after(after):
        added = graph.create_node("call_module", name, (after,), {}, name=name)
    after.replace_all_uses_with(added, delete_user_cb=lambda user: user is not added)
    network.graph.recompile()
    inserted = {**network.provenance.inserted, name: producer}
    network.provenance = dataclasses.replace(network.provenance, inserted=inserted)
    return network


@pytest.mark.parametrize(
    "stem", ["wiring_dynamo_20_dynamic", "resnet_dynamo_18_static", "mlp_legacy_13_static", "mlp_external"]
)
def test_an_inserted_batch_norm_takes_over_all_readers(stem: str, tmp_path: Path) -> None:
    path = FIXTURES / f"{stem}.onnx"
    network = load(path).network
    producers = [
        n for n, o in network.provenance.nodes.items() if f"{n}.weight" in network.provenance.weights and o.output
    ]
    for i, producer in enumerate(producers[:-1]):
        insert_bn(network, producer, f"n{90 + i}")
    out = tmp_path / "out.onnx"
    written = write_back(path, network, out, metadata={})
    before, after = onnx.load(path).graph, onnx.load(out).graph
    added = [n for n in after.node if n.op_type == "BatchNormalization"]
    assert len(added) == len(producers) - 1
    old = {n.SerializeToString() for n in before.node}
    renamed = [n for n in after.node if n.op_type != "BatchNormalization" and n.SerializeToString() not in old]
    assert len(renamed) == len(added)  # their producers alone: readers read the name they always read
    assert sum("inserted after" in c for c in written.changes) == len(added)
    again = load(out).network
    assert sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in again.modules()) == len(added)


def test_a_gained_bias_and_a_batch_norm_on_the_same_matmul(tmp_path: Path) -> None:
    path = saved(tmp_path, mlp())
    network = load(path).network
    gain_bias(network, "n2")
    write_back(path, insert_bn(network, "n2"), tmp_path / "out.onnx", metadata={})
    after = [n.op_type for n in onnx.load(tmp_path / "out.onnx").graph.node]
    assert after[3:6] == ["MatMul", "Add", "BatchNormalization"]


def test_before_ir_4_new_initialisers_are_inputs_too(tmp_path: Path) -> None:
    proto = mlp()
    proto.ir_version, proto.opset_import[0].version = 3, 8
    for tensor in proto.graph.initializer:
        proto.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    path = saved(tmp_path, proto)
    network = load(path).network
    gain_bias(network, "n2")
    assert write_back(path, network, tmp_path / "out.onnx", metadata={}).parity.holds


def test_weights_in_constant_nodes_are_written_there(tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weights(4, 3))),
        onnx.helper.make_node("Constant", [], ["b"], value_floats=[0.1, 0.2, 0.3]),
        node("MatMul", ["x", "w"], ["h"]),
        node("Add", ["h", "b"], ["y"]),
    ]
    path = saved(tmp_path, model(nodes, ["batch", 4]))
    changes = write_back(path, trained(load(path).network), tmp_path / "out.onnx", metadata={}).changes
    assert changes == ("Constant 'w': 12 of 12 values changed", "Constant 'b': 3 of 3 values changed")
    assert [n.op_type for n in onnx.load(tmp_path / "out.onnx").graph.node] == ["Constant", "Constant", "MatMul", "Add"]


def test_external_data_stays_external_at_its_offsets(tmp_path: Path) -> None:
    path = FIXTURES / "mlp_external.onnx"
    out = tmp_path / "out.onnx"
    changes = write_back(path, trained(load(path).network), out, metadata={}).changes
    (data,) = tmp_path.glob("out.onnx.*.data")
    assert data.stat().st_size == (FIXTURES / "mlp_external.onnx.data").stat().st_size
    assert f"external data moved to '{data.name}'" in changes

    def layout(file: Path) -> list[tuple[str, str]]:
        tensors = onnx.load(file, load_external_data=False).graph.initializer
        return [(t.name, next((e.value for e in t.external_data if e.key == "offset"), "inline")) for t in tensors]

    assert layout(path) == layout(out)
    assert digests(out).sha256 != digests(path).sha256


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_file_and_its_data_are_replaced_together(moved: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever has been moved into place when the machine stops, the name stands for one whole model, old or new."""
    path, out = FIXTURES / "mlp_external.onnx", tmp_path / "out.onnx"
    old, new = load(path).network, trained(load(path).network)
    write_back(path, old, out, metadata={})
    replaced = []

    def replace(source: Path, target: Path) -> None:
        if len(replaced) == moved:
            raise OSError(5, "the machine stops")
        replaced.append(shutil.move(source, target))

    monkeypatch.setattr(os, "replace", replace)
    if moved < 2:
        with pytest.raises(EnvironmentFailure, match="the machine stops"):
            write_back(path, new, out, metadata={})
    else:
        write_back(path, new, out, metadata={})
        assert len(list(tmp_path.iterdir())) == 2, "data that no file reads are gone"
    want = (old if moved < 2 else new).state_dict()
    assert all(torch.equal(tensor, want[name]) for name, tensor in load(out).network.state_dict().items())


def test_copies_of_a_merged_tensor_keep_their_value_when_it_is_trained(tmp_path: Path) -> None:
    held = {"w": weights(4, 4), "ones": np.ones(4, np.float32), "m": weights(4)}
    nodes = [
        node("Identity", ["ones"], ["v1"]),
        node("Identity", ["v1"], ["s2"]),
        node("Gemm", ["x", "w"], ["a"]),
        node("BatchNormalization", ["a", "ones", "m", "m", "v1"], ["b"]),
        node("Mul", ["b", "s2"], ["y"]),
    ]
    path = saved(tmp_path, model(nodes, ["batch", 4], held))
    network = load(path).network
    with torch.no_grad():
        network.graph.get_parameter("n1.weight").mul_(3.0)
    changes = write_back(path, network, tmp_path / "out.onnx", metadata={}).changes
    assert [c.split(" ")[0] for c in changes] == ["initializer", "Identity", "Identity"]
    after = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "out.onnx").graph.initializer}
    assert {n: float(after[n][0]) for n in ("ones", "v1", "s2")} == {"ones": 3.0, "v1": 1.0, "s2": 1.0}


def test_old_metadata_is_kept_and_ours_replaced(tmp_path: Path) -> None:
    proto = mlp()
    proto.metadata_props.add(key="author", value="someone")
    proto.metadata_props.add(key="pipeline.eps", value="old")
    path = saved(tmp_path, proto)
    write_back(path, load(path).network, tmp_path / "out.onnx", metadata={"eps": "new", "pipeline.method": "m"})
    metadata = {p.key: p.value for p in onnx.load(tmp_path / "out.onnx").metadata_props}
    assert metadata == {"author": "someone", "pipeline.eps": "new", "pipeline.method": "m"}


def test_the_source_is_never_written_over(tmp_path: Path) -> None:
    for file in ("mlp_external.onnx", "mlp_external.onnx.data"):
        shutil.copyfile(FIXTURES / file, tmp_path / file)
    path = tmp_path / "mlp_external.onnx"
    network = load(path).network
    (tmp_path / "link.onnx").symlink_to(path)
    for out in (path, tmp_path / "link.onnx", tmp_path / "mlp_external.onnx.data"):
        with pytest.raises(UsageError, match="never written over"):
            write_back(path, network, out, metadata={})


def test_a_network_of_another_file_is_refused(tmp_path: Path) -> None:
    network = load(FIXTURES / "cnn7_dynamo_18_static.onnx").network
    with pytest.raises(Contradiction, match="imported from"):
        write_back(saved(tmp_path, mlp()), network, tmp_path / "out.onnx", metadata={})


def test_a_changed_frozen_parameter_is_refused(tmp_path: Path) -> None:
    nodes = [node("Gemm", ["x", "w"], ["a"]), node("Gemm", ["a", "w"], ["y"], transB=1)]
    path = saved(tmp_path, model(nodes, ["batch", 3], {"w": weights(3, 3)}))
    network = load(path).network
    with torch.no_grad():
        network.graph.get_parameter("n0.weight").add_(1.0)
    with pytest.raises(Contradiction, match="frozen parameter"):
        write_back(path, network, tmp_path / "out.onnx", metadata={})


def test_one_initialiser_cannot_hold_two_values(tmp_path: Path) -> None:
    """Tied parameters share a tensor; one that was given another of its own is refused, not written over the first."""
    chain = [node("MatMul", ["x", "w"], ["a"]), node("Relu", ["a"], ["b"]), node("MatMul", ["b", "w"], ["y"])]
    path = saved(tmp_path, model(chain, ("batch", 4), {"w": weights(4, 4)}))
    network = load(path).network
    first, second = (network.graph.get_submodule(name.removesuffix(".weight")) for name in network.provenance.weights)
    assert first.weight is second.weight
    with torch.no_grad():
        first.weight.add_(1)
        second.weight = nn.Parameter(first.weight + 1)
    with pytest.raises(Contradiction, match="Tied parameters stay equal"):
        write_back(path, network, tmp_path / "out.onnx", metadata={})


def test_a_network_that_computes_something_else_is_a_contradiction_and_nothing_is_written(tmp_path: Path) -> None:
    path = saved(tmp_path, mlp())
    network = load(path).network
    network.graph.n1 = nn.Tanh()
    with pytest.raises(Contradiction, match="must compute what the trained network computes") as caught:
        write_back(path, network, tmp_path / "out.onnx", metadata={})
    assert caught.value.exit_code == 5
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_a_folder_that_is_not_there_is_the_environments_fault(tmp_path: Path) -> None:
    path = saved(tmp_path, mlp())
    with pytest.raises(EnvironmentFailure, match="must be writable"):
        write_back(path, load(path).network, tmp_path / "none" / "out.onnx", metadata={})


def test_the_way_back_of_a_scaled_and_turned_weight() -> None:
    """Transposed, halved, flattened: the steps are taken in order."""
    weight = Weight("w", (("transpose", (1, 0)), ("scale", 0.5), ("reshape", (6,))))
    trained = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(undo_steps(trained, weight, np.dtype(np.float64)), [0, 1.5, 0.5, 2, 1, 2.5])
