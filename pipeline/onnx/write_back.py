"""Trained weights -> the file they came from: the same nodes under the same names, with other values in the initialisers."""

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
from pipeline.onnx.commit import deliver
from pipeline.onnx.edit import ModelEdit
from pipeline.onnx.ir import all_equal
from pipeline.onnx.model_file import ModelFile
from pipeline.onnx.names import shown
from pipeline.results import Parity


@dataclass(frozen=True)
class WriteBack:
    """The new file as it was judged, what differs from the old one, a sentence each, and how close it is to the network."""

    file: ModelFile
    changes: tuple[str, ...]
    parity: Parity


def write_back(source: ModelFile, network: Network, out: Path, *, metadata: Mapping[str, str]) -> WriteBack:
    """Writes ``source`` with the weights of ``network`` to ``out``; ``network`` is the import of ``source``, trained.

    It may differ from the import in biases that layers gained, and in BatchNorm nodes listed in ``provenance.inserted``.
    Raises UsageError if ``out`` is the source, Contradiction if the network is not this file's or the written file does not
    compute it, EnvironmentFailure if it cannot be written; ``out`` is then as it was.
    """
    if source.is_at(out):
        raise UsageError(
            f"The file that was given is never written over; '{shown(str(out))}' is part of it. Name another output."
        )
    network = copy.deepcopy(network).cpu().eval()
    whole = {p.name for p in network.outputs}
    model = source.message()
    single = len(whole) == 1 and len(model.graph.output) > 1
    reference = importer.load(source, output=network.outputs[0].name if single else None)
    patch = ModelEdit(model)
    _values(patch, network, reference.network, reference.model)
    _biases(patch, network, reference.network)
    for name, producer in network.provenance.inserted.items():
        bn = network.graph.get_submodule(name)
        tensors = {f: getattr(bn, f) for f in ("weight", "bias", "running_mean", "running_var")}
        assert isinstance(bn.eps, float)
        patch.add_batchnorm(
            network.provenance.nodes[producer].output, {f: t.detach().numpy() for f, t in tensors.items()}, bn.eps
        )
    patch.set_metadata(metadata)
    file, measured = deliver(source, out, patch, network)
    return WriteBack(file, tuple(patch.changes), measured)


def _values(patch: ModelEdit, network: Network, reference: Network, model: onnx.ModelProto) -> None:
    """Values of parameters and BN statistics that are not what the file gives."""
    held = _file_arrays(model)
    written: dict[str, np.ndarray] = {}
    for name, weight in reference.provenance.weights.items():
        if network.provenance.weights.get(name) != weight:
            raise Contradiction(
                f"A network is written to the file it was imported from; '{name}' is not from this one. Give the file it came"
                " from."
            )
        ours, theirs = _tensor(network, name), _tensor(reference, name)
        if ours.shape == theirs.shape and torch.equal(ours, theirs):
            continue
        reason = reference.provenance.frozen.get(name)
        if reason is not None:
            raise Contradiction(
                f"A frozen parameter keeps its value; '{name}' ({reason}) was changed and cannot be written."
            )
        array = undone(ours.numpy(), weight, held[weight.initializer].dtype)
        if weight.initializer in written:
            if not np.array_equal(written[weight.initializer], array):
                raise Contradiction(f"Tied parameters stay equal; those of '{shown(weight.initializer)}' are not.")
            continue
        written[weight.initializer] = array
        patch.set(weight.initializer, held[weight.initializer], array)
    _keep_copies(patch, model, held, set(written))


def _keep_copies(patch: ModelEdit, model: onnx.ModelProto, held: dict[str, np.ndarray], written: set[str]) -> None:
    """What an Identity copies of a merged tensor that was trained keeps its own value, as the import read it."""
    roots: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type == "Identity" and node.output[0] in held:
            copy_of = roots.setdefault(node.output[0], roots.get(node.input[0], node.input[0]))
            if copy_of in written and node.output[0] not in written and all_equal(held[copy_of]):
                patch.set(node.output[0], held[node.output[0]], held[node.output[0]])


def _biases(patch: ModelEdit, network: Network, reference: Network) -> None:
    """Biases of layers that had none."""
    known = dict(reference.graph.named_parameters(remove_duplicate=False))
    for name, parameter in network.graph.named_parameters(remove_duplicate=False):
        node, _, field = name.rpartition(".")
        if field == "bias" and name not in known and node not in network.provenance.inserted:
            if f"{node}.weight" not in reference.provenance.weights:
                raise Contradiction(f"A gained bias belongs to a layer of the file; '{name}' does not.")
            value, factor = _in_file(reference, node)
            patch.add_bias(value, parameter.detach().numpy() * factor)


def _in_file(reference: Network, node: str) -> tuple[str, np.float32]:
    """The file's value that a layer computes, and the number behind the layer where that is a part of one node.

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


def undone(array: np.ndarray, weight: Weight, dtype: np.dtype) -> np.ndarray:
    """A parameter's value as its initialiser holds it: the steps of its provenance, in order. Raises PipelineError."""
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
