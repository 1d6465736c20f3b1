"""The file's own message, changed as little as possible: values of tensors, a bias gained, a BatchNorm inserted.

Every change is a sentence; what is not listed is byte for byte as it was.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pipeline.errors import PipelineError
from pipeline.onnx.external import is_external
from pipeline.onnx.names import shown


class ModelEdit:
    """A model being changed; ``changes`` says how, ``external`` holds new bytes of tensors that lie beside the file."""

    def __init__(self, model: onnx.ModelProto):
        self.model, self.graph = model, model.graph
        self.changes: list[str] = []
        self.external: dict[str, bytes] = {}
        self._tensors = {t.name: t for t in self.graph.initializer}
        self._constants = {n.output[0]: n for n in self.graph.node if n.op_type == "Constant"}
        self._copies = {n.output[0]: n for n in self.graph.node if n.op_type == "Identity"}
        self._names = {v for n in self.graph.node for v in (n.name, *n.input, *n.output)}
        self._names.update(
            self._tensors, (p.name for p in (*self.graph.input, *self.graph.output, *self.graph.value_info))
        )

    def set(self, name: str, before: np.ndarray, array: np.ndarray) -> None:
        """New values for an initialiser or a Constant node, in the field and the layout that held the old ones."""
        if name in self._tensors:
            tensor, what = self._tensors[name], f"initializer '{shown(name)}'"
        elif name in self._constants:
            what = f"Constant '{shown(name)}'"
            attribute = self._constants[name].attribute[0]
            if attribute.name == "value_float":
                attribute.f = float(array.reshape(()))
            elif attribute.name == "value_floats":
                attribute.floats[:] = [float(v) for v in array.reshape(-1)]
            tensor = attribute.t if attribute.name == "value" else onnx.TensorProto()
        elif name in self._copies:
            self._detach(name, array)
            return
        else:
            raise PipelineError(f"the file has no initialiser or Constant '{shown(name)}' to write to")
        if before.shape != array.shape:
            self.changes.append(f"{what}: shape {list(before.shape)} became {list(array.shape)}")
            tensor.dims[:] = array.shape
        changed = array.size if before.shape != array.shape else int(np.sum(before != array))
        self.changes.append(f"{what}: {changed:,} of {array.size:,} values changed")
        self._store(tensor, array)

    def _store(self, tensor: onnx.TensorProto, array: np.ndarray) -> None:
        if is_external(tensor):
            self.external[tensor.name] = array.astype(array.dtype.newbyteorder("<")).tobytes()
        elif tensor.float_data:
            tensor.float_data[:] = array.reshape(-1).tolist()
        elif tensor.double_data:
            tensor.double_data[:] = array.reshape(-1).tolist()
        else:
            tensor.raw_data = array.astype(array.dtype.newbyteorder("<")).tobytes()

    def _detach(self, name: str, array: np.ndarray) -> None:
        """A copy that an Identity made of an initialiser becomes one of its own, under the name its readers know."""
        node = self._copies.pop(name)
        self.graph.node.remove(node)
        self._initializer(name, array, fresh=False)
        self.changes.append(f"{self._words(node)} became initializer '{shown(name)}' of {array.size:,} values")

    def add_bias(self, value: str, bias: np.ndarray) -> None:
        """The layer that computes ``value`` gains a bias: as an input of Conv or Gemm, as a new Add after anything else."""
        node = self._producer(value)
        beta = next((a.f for a in node.attribute if a.name == "beta"), 1.0)
        name = self._initializer(f"{value}.bias", bias)
        inside = node.op_type in ("Conv", "ConvTranspose") or (node.op_type == "Gemm" and beta == 1.0)
        if inside and (len(node.input) == 2 or not node.input[2]):
            del node.input[2:]
            node.input.append(name)
            self.changes.append(
                f"node {self._words(node)} gained a bias, initializer '{shown(name)}' of {bias.size:,} values"
            )
            return
        added = helper.make_node(
            "Add", [self._rename(node, value), name], [value], name=self._fresh(f"{node.name}/Add")
        )
        self._insert_after(node, added)
        self.changes.append(f"node {self._words(node)} gained a bias as node '{shown(added.name)}' after it")

    def add_batchnorm(self, value: str, tensors: Mapping[str, np.ndarray], epsilon: float) -> None:
        """A BatchNormalization takes over all readers of ``value``: it computes the name, its producer another one."""
        node = self._producer(value)
        names = [self._initializer(f"{value}.bn.{field}", array) for field, array in tensors.items()]
        name = self._fresh(f"{node.name}/BatchNormalization")
        inputs = [self._rename(node, value), *names]
        added = helper.make_node("BatchNormalization", inputs, [value], name=name, epsilon=epsilon)
        self._insert_after(node, added)
        self.changes.append(f"node '{shown(name)}' inserted after {self._words(node)}, whose output was renamed")

    def set_metadata(self, metadata: Mapping[str, str]) -> None:
        """Entries under the ``pipeline.`` prefix, replacing those of the same name."""
        for key, text in metadata.items():
            key = key if key.startswith("pipeline.") else f"pipeline.{key}"
            held = next((p for p in self.model.metadata_props if p.key == key), None)
            if held is None:
                held = self.model.metadata_props.add(key=key)
            if held.value != text:
                held.value = text
                self.changes.append(f"metadata '{shown(key)}' set")

    def _producer(self, value: str) -> onnx.NodeProto:
        for node in self.graph.node:
            if value and value in node.output:
                return node
        raise PipelineError(f"the file has no node that computes '{shown(value)}'")

    def _rename(self, node: onnx.NodeProto, value: str) -> str:
        name = self._fresh(f"{value}.before")
        node.output[list(node.output).index(value)] = name
        return name

    def _initializer(self, wanted: str, array: np.ndarray, *, fresh: bool = True) -> str:
        name = self._fresh(wanted) if fresh else wanted
        tensor = numpy_helper.from_array(np.ascontiguousarray(array), name)
        self.graph.initializer.append(tensor)
        if self.model.ir_version < 4:
            # Before IR 4 an initialiser must be listed among the inputs too.
            self.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, array.shape))
        return name

    def _insert_after(self, node: onnx.NodeProto, added: onnx.NodeProto) -> None:
        place = next(i for i, n in enumerate(self.graph.node) if n.output == node.output and n.name == node.name)
        self.graph.node.insert(place + 1, added)

    def _fresh(self, wanted: str) -> str:
        name, count = wanted, 0
        while name in self._names:
            count += 1
            name = f"{wanted}_{count}"
        self._names.add(name)
        return name

    @staticmethod
    def _words(node: onnx.NodeProto) -> str:
        return f"{node.op_type} '{shown(node.name or node.output[0])}'"
