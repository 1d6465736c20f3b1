"""A graph under construction, and the table of what may be done next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20


@dataclass
class Sketch:
    """Its nodes, its constants, and the shape and element type of every value, the batch not counted."""

    rng: np.random.Generator
    scales: tuple[float, ...]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=lambda: {"x": TensorProto.FLOAT})

    def constant(self, value: Any, dtype: type = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def weights(self, *shape: int, fan_in: int = 1) -> str:
        """Numbers of both signs; at times a row of another size, a row of zeros, or the same number everywhere."""
        w = self.rng.standard_normal(shape) / np.sqrt(fan_in)
        kind = self.rng.integers(8)
        if kind == 0 and len(shape) > 1:
            w[self.rng.integers(shape[0])] *= self.rng.choice(self.scales)
        elif kind == 1:
            w = np.where(self.rng.random(shape) < 0.5, w, 0.0)
        elif kind == 2:
            w = np.full(shape, w.flat[0])
        return self.constant(np.clip(w * self.rng.choice(self.scales), -1e30, 1e30))

    def positive(self, *shape: int) -> str:
        return self.constant(np.abs(self.rng.standard_normal(shape)) + 0.05)

    def integers(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def __call__(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """A node, whose first output is returned; its shape is what ONNX infers."""
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        made = helper.make_node(operator, list(inputs), names, name=f"{operator}{len(self.nodes)}", **attributes)
        types = {
            i: helper.make_tensor_type_proto(
                helper.np_dtype_to_tensor_dtype(self.constants[i].dtype) if i in self.constants else self.kinds[i],
                self.constants[i].shape if i in self.constants else (1, *self.shapes[i]),
            )
            for i in inputs
            if i
        }
        data = {i: numpy_helper.from_array(self.constants[i], i) for i in inputs if i in self.constants}
        schema = onnx.defs.get_schema(operator, OPSET)
        found = onnx.shape_inference.infer_node_outputs(
            schema, made, types, data, opset_imports=[helper.make_opsetid("", OPSET)]
        )
        for name in names:
            self.shapes[name] = tuple(d.dim_value for d in found[name].tensor_type.shape.dim)[1:]
            self.kinds[name] = found[name].tensor_type.elem_type
        self.nodes.append(made)
        return names[0]

    def twin(self, x: str) -> str:
        """Another value of the same shape as ``x``: an earlier one where there is one, else one made of it."""
        float_ = TensorProto.FLOAT
        others = [v for v, s in self.shapes.items() if s == self.shapes[x] and v != x and self.kinds[v] == float_]
        if others and self.rng.random() < 0.8:
            return others[self.rng.integers(len(others))]
        return self("Mul", x, self.weights(*self.shapes[x]))


Move = Callable[[Sketch, str], "str | None"]
MOVES: dict[str, Move] = {}


def move(*ranks: int) -> Callable[[Move], Move]:
    """Enrol a move for values of these ranks, the batch not counted; all ranks if none is named."""

    def enrol(function: Move) -> Move:
        def guarded(g: Sketch, x: str) -> str | None:
            return function(g, x) if not ranks or len(g.shapes[x]) in ranks else None

        MOVES[function.__name__.strip("_")] = guarded
        return guarded

    return enrol
