"""Resize drawn at random: every rank, axis, mode, opset and way to say a size, behind what moves or flattens its input."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as pybind

from pipeline.errors import InputRejected
from tests.onnx.bare import imported, truth

COORDINATES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "tf_crop_and_resize")
ROUNDINGS = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")


class Drawn:
    """One file with a Resize: ``model``, and the shape of a sample, in which None is a free size."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.opset, self.nodes, self.held = int(self.rng.integers(7, 24)), list[onnx.NodeProto](), {}
        self.shape = [int(n) for n in self.rng.integers(1, 5, self.rng.integers(0, 5))]
        x, self.sizes = self._before("x", list(self.shape))
        y = self._upsampled(x) if self.opset < 11 else self._resized(x)
        declared: list = list(self.shape)
        if len(declared) > 1 and self.rng.random() < 0.2:
            declared[1:] = ["size"] * (len(declared) - 1)
        self.free = "size" in declared
        self.model = helper.make_model(
            helper.make_graph(
                [*self.nodes, helper.make_node("Identity", [y], ["y"])],
                "resize",
                [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *declared])],
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                [numpy_helper.from_array(a, n) for n, a in self.held.items()],
            ),
            opset_imports=[helper.make_opsetid("", self.opset)],
            ir_version=8 if self.opset < 21 else 10,
        )

    def pick(self, *choices):
        return choices[int(self.rng.integers(len(choices)))]

    def const(self, value, dtype=np.int64) -> str:
        self.held[f"c{len(self.held)}"] = np.asarray(value, dtype)
        return f"c{len(self.held) - 1}"

    def emit(self, operator: str, *inputs: str, **attributes) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [f"v{len(self.nodes)}"], **attributes))
        return self.nodes[-1].output[0]

    def _before(self, x: str, sizes: list[int]) -> tuple[str, list[int]]:
        kind = self.pick("nothing", "scaled", "flat", "moved", "wider") if sizes else "nothing"
        if kind == "scaled":
            return self.emit("Relu", self.emit("Mul", x, self.const(self.rng.normal(), np.float32))), sizes
        if kind == "flat":
            return self.emit("Flatten", x), [int(np.prod(sizes))]
        if kind == "moved":
            order = [int(a) for a in 1 + self.rng.permutation(len(sizes))]
            return self.emit("Transpose", x, perm=[0, *order]), [sizes[a - 1] for a in order]
        if kind == "wider" and self.opset >= 13:
            return self.emit("Unsqueeze", x, self.const([1])), [1, *sizes]
        return x, sizes

    def _scales(self) -> list[float]:
        return [1.0, *(float(self.pick(1.0, 1.0, 1.0, 2.0, 1.5, 0.5, 3.0)) for _ in self.sizes)]

    def _upsampled(self, x: str) -> str:
        mode, scales = self.pick("nearest", "linear"), self._scales()
        if self.opset < 9:
            return self.emit("Upsample", x, mode=mode, scales=scales)
        return self.emit("Upsample" if self.opset == 9 else "Resize", x, self.const(scales, np.float32), mode=mode)

    def _resized(self, x: str) -> str:
        scales, rank = self._scales(), 1 + len(self.sizes)
        sizes = [
            self.pick(1, 2),
            *(int(np.float32(n) * np.float32(s)) for n, s in zip(self.sizes, scales[1:], strict=True)),
        ]
        attributes = {"mode": self.pick("nearest", "linear", "cubic"), "nearest_mode": self.pick(*ROUNDINGS)}
        attributes["coordinate_transformation_mode"] = where = self.pick(*COORDINATES)
        rare = {"exclude_outside": 1, "cubic_coeff_a": -0.5, "extrapolation_value": 3.0}
        if self.opset >= 18:
            rare |= {"antialias": 1, "keep_aspect_ratio_policy": self.pick("not_larger", "not_smaller")}
        attributes |= {name: value for name, value in rare.items() if self.rng.random() < 0.15}
        region = [0.0] * rank + [1.0] * rank if where == "tf_crop_and_resize" else []
        roi = "" if self.opset >= 13 and not region else self.const(region, np.float32)
        picked = list(range(rank))
        if self.opset >= 18 and self.rng.random() < 0.5:
            picked = [int(a) for a in self.rng.permutation(rank)[: self.rng.integers(1, rank + 1)]]
            attributes["axes"] = [a - rank if self.rng.random() < 0.3 else a for a in picked]
        none = "" if self.opset >= 13 else self.const([], np.float32)
        how = self.pick("scales", "sizes", "computed")
        if how == "scales":
            return self.emit("Resize", x, roi, self.const([scales[a] for a in picked], np.float32), **attributes)
        target = self.const(sizes)
        if how == "computed":
            count = self.emit("Slice", self.emit("Shape", x), self.const([0]), self.const([1]))
            target = self.emit("Concat", count, self.const(sizes[1:]), axis=0)
        if len(picked) < rank or "axes" in attributes:
            target = self.emit("Gather", target, self.const(picked))
        return self.emit("Resize", x, roi, none, target, **attributes)


@pytest.mark.parametrize("part", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 10))])
def test_a_resize_is_read_rightly_or_refused(part: int) -> None:
    """With no parity in between, at several batch sizes and, where they are free, sizes."""
    counts: Counter[str] = Counter()
    for seed in range(100 * part, 100 * (part + 1)):
        drawn = Drawn(seed)
        try:
            network = imported(drawn.model)
        except InputRejected:
            counts["refused"] += 1
            continue
        for batch, size in ((1, 32), (2, 33), (3, 64), (5, 9)):
            shape = [drawn.shape[0], *[size] * (len(drawn.shape) - 1)] if drawn.free else drawn.shape
            x = np.random.default_rng(seed).standard_normal([batch, *shape]).astype(np.float32)
            try:
                expected = truth(drawn.model, x)
            except (pybind.Fail, pybind.RuntimeException):
                continue  # it runs at one batch or one size alone
            got = network(torch.from_numpy(x)).numpy()
            assert got.shape == expected.shape, drawn.model
            assert np.allclose(got, expected, atol=1e-5), drawn.model
            counts["equal"] += 1
    assert counts["equal"] > 24
