"""Writes trained weights into the file they came from: the same nodes and names, with new values in the initialisers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from pipeline.core import ops
from pipeline.core.network import Network, Weight
from pipeline.errors import Contradiction, PipelineError, UsageError
from pipeline.onnx import importer
from pipeline.onnx.commit import commit
from pipeline.onnx.edit import ModelEdit
from pipeline.onnx.ir import all_equal
from pipeline.onnx.model_file import ModelFile
from pipeline.onnx.names import shown
from pipeline.results import Parity


@dataclass(frozen=True)
class WriteBack:
    """The new file, its changes from the old one, a sentence each, and its parity with the network."""

    file: ModelFile
    changes: tuple[str, ...]
    parity: Parity


def write_back(source: ModelFile, network: Network, out: Path, *, metadata: Mapping[str, str]) -> WriteBack:
    """Write ``source`` with the weights of ``network`` to ``out``; ``network`` is the trained import of ``source``.

    It may differ from the import in biases that layers gained, and in BatchNorm nodes listed in ``provenance.inserted``.
    Raises UsageError if ``out`` is the source, Contradiction if the network is not this file's or the written file does not
    compute it, EnvironmentFailure if it cannot be written; ``out`` is then as it was.
    """
    if source.is_at(out):
        raise UsageError(
            f"The file that was given is never written over; '{shown(str(out))}' is part of it. Name another output."
        )
    network = copy.deepcopy(network).cpu().eval()
    output_names = {p.name for p in network.outputs}
    model = source.message()
    single = len(output_names) == 1 and len(model.graph.output) > 1
    reference = importer.load(source, output=network.outputs[0].name if single else None)
    edit = ModelEdit(model)
    _values(edit, network, reference.network, reference.model)
    _biases(edit, network, reference.network)
    for name, producer in network.provenance.inserted.items():
        bn = network.graph.get_submodule(name)
        tensors = {f: getattr(bn, f) for f in ("weight", "bias", "running_mean", "running_var")}
        assert isinstance(bn.eps, float)
        edit.add_batchnorm(
            network.provenance.nodes[producer].output, {f: t.detach().numpy() for f, t in tensors.items()}, bn.eps
        )
    edit.set_metadata(metadata)
    file, measured_parity = commit(source, out, edit, network)
    return WriteBack(file, tuple(edit.changes), measured_parity)


def _values(edit: ModelEdit, network: Network, reference: Network, model: onnx.ModelProto) -> None:
    """Write the parameters and BN statistics that differ from the file's."""
    file_arrays = _file_arrays(model)
    new_arrays: dict[str, np.ndarray] = {}
    for name, weight in reference.provenance.weights.items():
        if network.provenance.weights.get(name) != weight:
            raise Contradiction(
                f"A network is written to the file it was imported from; '{name}' is not from this one. Give the file it came"
                " from."
            )
        after, before = _tensor(network, name), _tensor(reference, name)
        if after.shape == before.shape and torch.equal(after, before):
            continue
        reason = reference.provenance.frozen.get(name)
        if reason is not None:
            raise Contradiction(
                f"A frozen parameter keeps its value; '{name}' ({reason}) was changed and cannot be written."
            )
        array = undo_steps(after.numpy(), weight, file_arrays[weight.initializer].dtype)
        if weight.initializer in new_arrays:
            if not np.array_equal(new_arrays[weight.initializer], array):
                raise Contradiction(f"Tied parameters stay equal; those of '{shown(weight.initializer)}' are not.")
            continue
        new_arrays[weight.initializer] = array
        edit.set(weight.initializer, file_arrays[weight.initializer], array)
    _keep_copies(edit, model, file_arrays, set(new_arrays))


def _keep_copies(
    edit: ModelEdit, model: onnx.ModelProto, file_arrays: dict[str, np.ndarray], changed: set[str]
) -> None:
    """Keep the values of Identity copies of a tensor that an exporter merged, where training changed the tensor."""
    roots: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type == "Identity" and node.output[0] in file_arrays:
            copy_of = roots.setdefault(node.output[0], roots.get(node.input[0], node.input[0]))
            if copy_of in changed and node.output[0] not in changed and all_equal(file_arrays[copy_of]):
                edit.set(node.output[0], file_arrays[node.output[0]], file_arrays[node.output[0]])


def _biases(edit: ModelEdit, network: Network, reference: Network) -> None:
    """Write the biases of layers that had none."""
    reference_names = dict(reference.graph.named_parameters(remove_duplicate=False))
    for name, parameter in network.graph.named_parameters(remove_duplicate=False):
        node, _, field = name.rpartition(".")
        if field == "bias" and name not in reference_names and node not in network.provenance.inserted:
            if f"{node}.weight" not in reference.provenance.weights:
                raise Contradiction(f"A gained bias belongs to a layer of the file; '{name}' does not.")
            value, factor = _in_file(reference, node)
            edit.add_bias(value, parameter.detach().numpy() * factor)


def _in_file(reference: Network, node: str) -> tuple[str, np.float32]:
    """The file's value that a layer computes, and the factor behind the layer where both are one node of the file.

    A Gemm with ``alpha`` is a layer and a product in the Network: ``alpha (A B + b)`` is ``alpha A B + alpha b`` in the file.
    """
    nodes = {n.name: n for n in reference.graph.graph.nodes}
    here, factor = nodes[node], np.float32(1)
    while not reference.provenance.nodes[here.name].output:
        (after,) = here.users
        (number,) = (a for a in after.all_input_nodes if a is not here)
        if not isinstance(reference.graph.get_submodule(str(after.target)), ops.Mul) or number.op != "get_attr":
            raise PipelineError(f"the layer {node} is a part of no node of the file")
        owner, _, name = str(number.target).rpartition(".")
        factor *= np.float32(getattr(reference.graph.get_submodule(owner), name).detach().numpy())
        here = after
    return reference.provenance.nodes[here.name].output, factor


def undo_steps(array: np.ndarray, weight: Weight, dtype: np.dtype) -> np.ndarray:
    """A parameter's value in the form of its initialiser: applies the steps of its provenance. Raises PipelineError."""
    for step, setting in weight.steps:
        if step == "transpose":
            array = array.transpose(setting)
        elif step == "reshape":
            array = array.reshape(setting)
        elif step == "scale":
            array = array * array.dtype.type(setting)
        else:
            raise PipelineError(f"no such step on the way back to a file: {step}")
    return np.ascontiguousarray(array.astype(dtype))


def _file_arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            value = onnx.helper.get_attribute_value(node.attribute[0])
            tensor = node.attribute[0].name == "value"
            arrays[node.output[0]] = onnx.numpy_helper.to_array(value) if tensor else np.asarray(value, np.float32)
        elif node.op_type == "Identity" and node.input[0] in arrays:
            arrays[node.output[0]] = arrays[node.input[0]]
    return arrays


def _tensor(network: Network, name: str) -> torch.Tensor:
    owner, _, field = name.rpartition(".")
    module: nn.Module = network.graph.get_submodule(owner)
    tensor = getattr(module, field)
    assert isinstance(tensor, torch.Tensor)
    return tensor.detach()
