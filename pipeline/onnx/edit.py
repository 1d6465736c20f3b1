"""Minimal edits of the file's protobuf message: values of tensors, an added bias, an inserted BatchNorm.

Each change is recorded as a sentence; everything else stays byte for byte as it was.
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
    """A model that is edited; ``changes`` records how, ``external`` holds the new bytes of external tensors by name."""

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
        """Replace the values ``before`` of an initialiser or a Constant node by ``array``, in the same field and layout.

        Raises PipelineError where the file has no such constant.
        """
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
        """Replace an Identity of an initialiser by an initialiser of its own, under the name of its output."""
        node = self._copies.pop(name)
        self.graph.node.remove(node)
        self._initializer(name, array, fresh=False)
        self.changes.append(f"{self._describe(node)} became initializer '{shown(name)}' of {array.size:,} values")

    def add_bias(self, value: str, bias: np.ndarray) -> None:
        """Add a bias to the layer that computes ``value``: as an input of Conv or Gemm, as a new Add after any other."""
        node = self._producer(value)
        beta = next((a.f for a in node.attribute if a.name == "beta"), 1.0)
        name = self._initializer(f"{value}.bias", bias)
        takes_bias = node.op_type in ("Conv", "ConvTranspose") or (node.op_type == "Gemm" and beta == 1.0)
        if takes_bias and (len(node.input) == 2 or not node.input[2]):
            del node.input[2:]
            node.input.append(name)
            self.changes.append(
                f"node {self._describe(node)} gained a bias, initializer '{shown(name)}' of {bias.size:,} values"
            )
            return
        add_node = helper.make_node(
            "Add", [self._rename(node, value), name], [value], name=self._fresh(f"{node.name}/Add")
        )
        self._insert_after(node, add_node)
        self.changes.append(f"node {self._describe(node)} gained a bias as node '{shown(add_node.name)}' after it")

    def add_batchnorm(self, value: str, tensors: Mapping[str, np.ndarray], epsilon: float) -> None:
        """Insert a BatchNormalization behind ``value``, whose name becomes that of its output, so that all readers read it."""
        node = self._producer(value)
        names = [self._initializer(f"{value}.bn.{field}", array) for field, array in tensors.items()]
        name = self._fresh(f"{node.name}/BatchNormalization")
        inputs = [self._rename(node, value), *names]
        bn_node = helper.make_node("BatchNormalization", inputs, [value], name=name, epsilon=epsilon)
        self._insert_after(node, bn_node)
        self.changes.append(f"node '{shown(name)}' inserted after {self._describe(node)}, whose output was renamed")

    def set_metadata(self, metadata: Mapping[str, str]) -> None:
        """Set metadata entries under the prefix ``pipeline.``, replacing those of the same name."""
        for key, text in metadata.items():
            key = key if key.startswith("pipeline.") else f"pipeline.{key}"
            entry = next((p for p in self.model.metadata_props if p.key == key), None)
            if entry is None:
                entry = self.model.metadata_props.add(key=key)
            if entry.value != text:
                entry.value = text
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

    def _initializer(self, base: str, array: np.ndarray, *, fresh: bool = True) -> str:
        name = self._fresh(base) if fresh else base
        tensor = numpy_helper.from_array(np.ascontiguousarray(array), name)
        self.graph.initializer.append(tensor)
        if self.model.ir_version < 4:
            # Before IR 4 an initialiser must be listed among the inputs too.
            self.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, array.shape))
        return name

    def _insert_after(self, node: onnx.NodeProto, new_node: onnx.NodeProto) -> None:
        place = next(i for i, n in enumerate(self.graph.node) if n.output == node.output and n.name == node.name)
        self.graph.node.insert(place + 1, new_node)

    def _fresh(self, base: str) -> str:
        name, count = base, 0
        while name in self._names:
            count += 1
            name = f"{base}_{count}"
        self._names.add(name)
        return name

    @staticmethod
    def _describe(node: onnx.NodeProto) -> str:
        return f"{node.op_type} '{shown(node.name or node.output[0])}'"
