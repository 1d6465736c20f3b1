"""Every form that a node may have, by ONNX's own schemas: operators, opsets, attributes, optional inputs, outputs, ranks.

A form is one node and what it needs around it: operands from ``x`` or constant, and a Cast to float behind each output that is
read. Sizes are all different, so that a wrong axis shows, and values have both signs and no ties.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, defs, helper, numpy_helper

from pipeline.onnx.operators import OPSETS, TABLE
from tests.onnx.schema_operands import alternatives
from tests.onnx.schema_values import BLOCKS, OPERANDS, RANKS, SIZES, Operand

Attributes = Mapping[str, Any]
ONES = ((), (1,), (3,), (1, 2))
"""Axes that have size one instead, counted from the batch."""


@dataclass(frozen=True)
class Form:
    """One node on ``x`` of a shape; ``operands`` say what each input is, ``read`` which outputs somebody reads."""

    operator: str
    opset: int
    shape: tuple[int | str, ...]
    operands: tuple[Operand, ...]
    attributes: Attributes = field(default_factory=dict)
    read: tuple[int, ...] = (0,)

    def __str__(self) -> str:
        label = [
            (f"{o.tolist()}" if o.size <= 8 and o.dtype.kind == "i" else f"{list(o.shape)}")
            if isinstance(o, np.ndarray)
            else str(o)
            for o in self.operands
        ]
        return f"{self.operator}-{self.opset} {list(self.shape)} {label} {dict(self.attributes)} outputs {self.read}"

    def model(self) -> onnx.ModelProto:
        """The node in a file; each output that is read becomes an output of floats."""
        nodes, constants, names = [], [], []
        for place, operand in enumerate(self.operands):
            names.append(f"i{place}" if operand is not None else "")
            if isinstance(operand, np.ndarray):
                constants.append(numpy_helper.from_array(operand, names[-1]))
            elif operand == "x":
                names[-1] = "x"
            elif operand is not None:
                nodes += OPERANDS[operand](names[-1], len(self.shape), constants)
        while names and not names[-1]:
            names.pop()
        outputs = [f"o{i}" for i in range(max(self.read) + 1)]
        nodes.append(helper.make_node(self.operator, names, outputs, name="node", **self.attributes))
        nodes += [helper.make_node("Cast", [f"o{i}"], [f"y{i}"], to=TensorProto.FLOAT) for i in self.read]
        tensors = {c.name: c for c in constants}
        graph = helper.make_graph(
            nodes,
            "form",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(self.shape))],
            [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, None) for i in self.read],
            list(tensors.values()),
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def opsets(operator: str) -> list[int]:
    """The first and the last opset of each form that ONNX gave an operator."""
    since = sorted(
        {s.since_version for s in defs.get_all_schemas_with_history() if s.name == operator and not s.domain}
    )
    versions = set()
    for first, following in itertools.pairwise([*since, OPSETS.stop]):
        versions |= (
            {max(first, OPSETS.start), following - 1} if following > OPSETS.start and first < OPSETS.stop else set()
        )
    return sorted(o for o in versions if o in OPSETS and since and o >= since[0])


def values(name: str, schema: defs.OpSchema, rank: int) -> Sequence[Any]:
    """What an attribute is tried with: its own few values, or some of its type."""
    spatial = max(rank - 2, 1)
    if schema.name == "LRN":  # numbers for which no sum cancels
        own: dict[str, Sequence[Any]] = {
            "size": [1, 2, 3, 4, 5],
            "alpha": [1e-4, 0.3],
            "beta": [0.75, 0.5, 1.5],
            "bias": [1.0, 0.3, 2.0],
        }
        return own[name]
    supported: dict[str, Sequence[Any]] = {
        "axis": range(-rank, rank + 1),
        "axes": [[a] for a in range(-rank, rank)] + [list(range(1, rank)), [rank - 1, 0], [-1, 1]],
        "perm": [np.random.default_rng(i).permutation(rank).tolist() for i in range(4)]
        + [[0, *range(rank - 1, 0, -1)]],
        "auto_pad": ["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"],
        "kernel_shape": [[2, 3, 2][:spatial], [3, 2, 1][:spatial]],
        "pads": [
            [1] * 2 * spatial,
            [0, 1, 0][:spatial] + [1, 0, 1][:spatial],
            [1, 0, 1][:spatial] + [0, 1, 0][:spatial],
        ],
        "strides": [[2, 3, 2][:spatial], [2] * spatial, [3, 1, 1][:spatial]],
        "dilations": [[2, 1, 1][:spatial], [1] * spatial, [1, 2, 1][:spatial]],
        "output_padding": [[1, 0, 0][:spatial], [0] * spatial],
        "output_shape": [[15, 11, 13][:spatial], [14, 12, 12][:spatial]],
        "group": [1, 2, 4],
        "split": [[1, 3], [2, 2], [3, 4], [1, 6]],
        "num_outputs": [1, 2, 3],
        "to": [1, 6, 7, 9, 10, 11, 2, 3],
        "mode": ["nearest", "linear", "cubic", "constant", "reflect", "edge", "wrap", "bilinear"],
        "nearest_mode": ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"],
        "coordinate_transformation_mode": [
            *("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"),
            "tf_crop_and_resize",
        ],
        "keep_aspect_ratio_policy": ["stretch", "not_larger", "not_smaller"],
        "approximate": ["none", "tanh"],
        "scales": [
            [1.0, 1.0, 2.0, 3.0, 2.0][:rank],
            [1.0, 2.0, 1.5, 1.0, 1.0][:rank],
            [1.0, 1.0, 0.5, 0.5, 0.5][:rank],
        ],
        "starts": [[0], [1], [-3], [0, 1]],
        "ends": [[2], [-1], [9], [1, 3]],
        "equation": [
            *("ij,jk->ik", "bij,bjk->bik", "bij,bkj->bik", "bij,jk->bik", "bij,kj->bki", "bij,bij->b", "bij->bji"),
            *("b...,b...->b...", "bii,bij->bij", "bij,bjk->bi", "ij,ij->ij"),
        ],
        "blocksize": [2, 1],
        "num_groups": [2, 1, 4],
        "stash_type": [1, 0, 10],
        "epsilon": [1e-5, 0.3, 1e-3],
        "min": [-0.5, 0.0],
        "max": [0.5, 6.0],
        "value": [0.0, -1.25],
    }
    generic: dict[Any, Sequence[Any]] = {
        defs.OpSchema.AttrType.INT: [0, 1, 2, -1],
        defs.OpSchema.AttrType.FLOAT: [0.0, 1.0, 0.3, -0.7, 1.5],
        defs.OpSchema.AttrType.INTS: [[0], [1], [1, 1], [-1]],
        defs.OpSchema.AttrType.FLOATS: [[0.5], [1.0, 1.0]],
        defs.OpSchema.AttrType.STRING: ["", "none", "other"],
    }
    found = supported[name] if name in supported else generic.get(schema.attributes[name].type, ())
    return [value for value in found if value != []]


def shapes(operator: str) -> Iterator[tuple[int | str, ...]]:
    sizes = BLOCKS if operator == "SpaceToDepth" else SIZES
    for rank in RANKS.get(operator, range(1, 6)):
        yield ("batch", *sizes[: rank - 1])
        yield (3, *sizes[: rank - 1])
        for ones in ONES if rank > 1 else ():
            whole = [1 if axis in ones else size for axis, size in enumerate(sizes[: rank - 1], 1)]
            if ones and max(ones) < rank:
                yield ("batch", *whole)
        if rank > 1:
            yield (1, *sizes[: rank - 1])


@dataclass(frozen=True)
class Settings:
    """The attributes that a node of a rank is tried with, and the outputs that are read."""

    least: Attributes
    single: Sequence[Attributes]
    """Each attribute at each value, one at a time."""
    reads: Sequence[tuple[int, ...]]


def settings(operator: str, opset: int, rank: int) -> tuple[Settings, Mapping[str, Sequence[Any]]]:
    schema = defs.get_schema(operator, opset)
    most = min(schema.max_output, 4)
    reads = [(0,)] + ([*((i,) for i in range(1, most)), tuple(range(most))] if most > 1 else [])
    given = {n: list(values(n, schema, rank)) for n in schema.attributes}
    least = {n: v[0] for n, v in given.items() if schema.attributes[n].required and v}
    return Settings(least, [{**least, n: one} for n, v in given.items() for one in v], reads), given


def forms(operator: str, opset: int) -> Iterator[Form]:
    """Each set of operands, each output, each attribute at each value with two sets of operands."""
    for shape in shapes(operator):
        tried, _ = settings(operator, opset, len(shape))
        operands = list(alternatives(operator, opset, shape, tried.least))
        yield from (Form(operator, opset, shape, tuple(o), tried.least) for o in operands)
        yield from (
            Form(operator, opset, shape, tuple(operands[0]), tried.least, r) for r in tried.reads[1:] if operands
        )
        for i, attributes in enumerate(tried.single):
            operands = list(alternatives(operator, opset, shape, attributes))
            for chosen in [operands[0], operands[i % len(operands)]][: len(operands)]:
                yield Form(operator, opset, shape, tuple(chosen), attributes)


def mixed(operator: str, opset: int, rng: random.Random) -> Form | None:
    """One form with everything drawn at random; None where nothing fits."""
    shape = rng.choice(list(shapes(operator)))
    tried, given = settings(operator, opset, len(shape))
    share = rng.choice((0, 0.2, 0.6))
    attributes = {**tried.least, **{n: rng.choice(v) for n, v in given.items() if v and rng.random() < share}}
    operands = list(alternatives(operator, opset, shape, attributes))
    if not operands:
        return None
    read = rng.choice(tried.reads) if rng.random() < 0.3 else (0,)
    return Form(operator, opset, shape, tuple(rng.choice(operands)), attributes, read)


def walked() -> list[tuple[str, int]]:
    """All operators of the table with the opsets of their forms."""
    return [(name, opset) for name in sorted(TABLE) if defs.has(name) for opset in opsets(name)]
