"""Every operator of the table computes what ONNX Runtime computes, or refuses its name: in every form that ONNX's schemas allow.

Parity is off: a node that is read wrongly is wrong here, whatever points a file might be built to agree at.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import onnx
import pytest
from onnx import defs
from torch import nn

from pipeline.core import ops
from pipeline.errors import InputRejected
from pipeline.onnx.ir import Attributes, Node
from pipeline.onnx.lowering.lower import LOWERINGS, Item
from pipeline.onnx.operators import OPSETS, TABLE, refusal
from tests.onnx.files import model, node, weights
from tests.onnx.schema_forms import Form, forms, walked
from tests.onnx.schema_walk import Figures, all_forms, imported, judge, sample, walk

ONNX = sorted({s.name for s in defs.get_all_schemas_with_history() if not s.domain})


def test_forms_drawn_at_random_are_equal_or_refused_by_name() -> None:
    figures = walk(sample(1, seed=0))
    assert not figures.wrong, "\n".join(figures.wrong)
    assert figures.equal.total() > 300
    assert set(figures.equal | figures.refused) == {name for name, _ in walked()}


@pytest.mark.parametrize("opset", [11, 23])
@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
def test_windows_of_a_pooling_end_where_onnx_ends_them(operator: str, opset: int) -> None:
    """Strides that do not divide the axis, rounded up and down: the last window sticks out, or entries are left over."""
    figures = Figures()
    for kernel, stride, before, after, ceil in product((2, 3), (2, 3), (0, 1), (0, 1), (0, 1)):
        attributes = {"kernel_shape": [kernel], "strides": [stride], "pads": [before, after], "ceil_mode": ceil}
        for size, include in product((6, 7), (0, 1) if operator == "AveragePool" else (None,)):
            counted = {} if include is None else {"count_include_pad": include}
            judge(Form(operator, opset, ("batch", 3, size), ("x",), attributes | counted), figures)
    assert not figures.wrong, "\n".join(figures.wrong)
    assert figures.equal[operator] >= 0.9 * (figures.equal + figures.refused).total() > 50


def test_a_form_that_ends_the_process_of_onnx_runtime_is_refused_before_it() -> None:
    figures = Figures()
    judge(Form("Split", 23, (3,), ("x",), {"num_outputs": 1, "axis": 0}, read=(3,)), figures)
    assert figures.refused == {"Split": 1}
    assert not figures.wrong


@pytest.mark.slow  # every form: 25 minutes
def test_every_form_is_equal_or_refused_by_name() -> None:
    figures = walk(all_forms())
    print(figures)
    assert not figures.wrong, "\n".join(figures.wrong)


def test_every_operator_that_is_no_constant_has_an_entry_or_is_refused_by_name() -> None:
    unknown = [name for name in ONNX if name not in TABLE]
    assert len(unknown) > 90
    assert {"Det", "Hardmax", "GRU", "Size"} <= set(unknown)
    made = model([node("Hardmax", ["x"], ["y"])], ["batch", 6])
    with pytest.raises(InputRejected, match=r"Hardmax \(1: it is a step.*or ask for support"):
        imported(made)


@pytest.mark.parametrize("name", sorted(TABLE))
def test_what_an_entry_names_is_in_some_schema(name: str) -> None:
    entry, domains = TABLE[name], ("", "ai.onnx.ml")
    schemas = [s for s in defs.get_all_schemas_with_history() if s.name == name and s.domain in domains]
    if name == "Linear":
        return  # of the import's own domain
    assert (entry.reads | entry.inert.keys()) <= {a for s in schemas for a in s.attributes}
    assert not entry.reads & entry.inert.keys()
    assert entry.outputs is None or entry.outputs <= max(s.max_output for s in schemas)
    assert entry.opsets.start >= OPSETS.start
    assert entry.opsets.stop <= OPSETS.stop


def lowered_as(module: nn.Module) -> Any:
    return lambda item: item.build.emit(module, item.arg())


WRONG = {
    "an attribute that is read and ignored": ("Flatten", lambda item: item.attribute("axis") and _flat(item)),
    "an axis that is taken for another": ("ReduceSum", lambda item: _summed(item, 1)),
    "another function": ("Relu", lowered_as(nn.ReLU6())),
    "another number": ("LeakyRelu", lambda item: (item.attribute("alpha"), lowered_as(nn.LeakyReLU(0.02))(item))[1]),
    "a wrong end": ("Clip", lambda item: (item.array(1), item.array(2), lowered_as(ops.Clip(-0.4, 0.8))(item))[2]),
}


def _flat(item: Item) -> Any:
    return item.build.emit(nn.Flatten(), item.arg())


def _summed(item: Item, axis: int) -> Any:
    for name in ("keepdims", "noop_with_empty_axes"):
        item.attribute(name)
    item.array(1)
    return item.build.emit(ops.ReduceSum([axis], keepdim=True), item.arg())


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_lowering_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, lowering = WRONG[fault]
    monkeypatch.setitem(LOWERINGS, name, lowering)
    assert walk(sample(8, operators=[name])).wrong


def test_a_setting_that_no_lowering_reads_refuses_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOWERINGS, "Flatten", _flat)
    made = model([node("Flatten", ["x"], ["y"], axis=-2)], ["batch", 2, 3])
    with pytest.raises(InputRejected, match=r"Flatten \(1: its attribute axis = -2 is not honoured\)"):
        imported(made)
    monkeypatch.setitem(LOWERINGS, "PRelu", lowered_as(nn.ReLU()))
    made = model([node("PRelu", ["x", "w"], ["y"])], ["batch", 3], {"w": weights(3)})
    with pytest.raises(InputRejected, match=r"PRelu \(1: its input 1 is not honoured\)"):
        imported(made)


@pytest.mark.parametrize("flag", [-1, 2])
@pytest.mark.parametrize("name", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1"])
def test_a_flag_that_onnx_runtime_takes_for_0_refuses_the_file(name: str, flag: int) -> None:
    made = model([node(name, ["x"], ["y"], noop_with_empty_axes=flag)], ["batch", 3], opset=18)
    with pytest.raises(InputRejected, match=rf"noop_with_empty_axes = {flag} is neither 0 nor 1|samples of a batch"):
        imported(made)


def test_a_pass_that_copies_a_node_does_not_count_as_reading_it() -> None:
    first = Node("Flatten", ["x"], ["y"], Attributes({"axis": 2}))
    copied = replace(first, attributes=first.attributes | {"other": 1})
    assert copied.attributes == {"axis": 2, "other": 1}
    assert not first.attributes.read
    assert copied.attributes["axis"] == 2
    assert first.attributes.read == {"axis"}


NAMED = {
    "an attribute beyond its default": (
        node("BatchNormalization", ["x", *"abcd"], ["y"], spatial=0), 8, "its attribute spatial = 0"),
    "an input": (node("Resize", ["x", "a", "b", "c", "d"], ["y"]), 13, "its input sizes is not supported"),
    "an output": (node("Dropout", ["x"], ["y", "read"]), 13, "its output mask is read"),
    "a form": (node("BatchNormalization", ["x", *"abcd"], ["y", "m", "v", "s", "t"]), 9, "its training form"),
    "an opset": (node("Upsample", ["x"], ["y"]), 10, "its form at opset 10 is not supported"),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMED)
def test_what_is_not_read_is_named(case: str) -> None:
    proto, opset, message = NAMED[case]
    attributes = Attributes({a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute})
    made = Node(proto.op_type, list(proto.input), list(proto.output), attributes)
    assert message in str(refusal(made, opset, {"y", "read"}))


@pytest.mark.parametrize(
    ("op", "shape", "opset", "settings", "message"),
    [
        ("Selu", (2, 3), 17, {"alpha": 1.5}, r"Selu \(1: its attribute alpha = 1.5 is not supported, only 1.67"),
        ("ReduceMax", (2, 3), 17, {"axes": [1], "keepdims": 2}, "keepdims = 2 is neither"),
        ("Split", ("batch", 4), 17, {}, "Split"),
        ("Squeeze", ("batch", 1), 17, {}, "Squeeze"),
        (
            "MaxPool",
            (1, 1, 5, 5),
            17,
            {"kernel_shape": [2, 2], "pads": [1] * 4, "auto_pad": "VALID"},
            "beside auto_pad",
        ),
    ],
)
def test_a_form_that_runtimes_read_differently_is_refused(
    op: str, shape: tuple, opset: int, settings: dict, message: str
) -> None:
    with pytest.raises(InputRejected, match=message):
        imported(Form(op, opset, shape, ("x",), settings).model())


def test_advice_is_true() -> None:
    """An older opset helps with what opsets before 21 did not have, as exporters then write its parts."""
    both = model([node("Hardmax", ["x"], ["h"]), node("Sinh", ["h"], ["y"])], ["batch", 3], opset=22)
    with pytest.raises(InputRejected, match=r"Hardmax.*Sinh.*Export the model without them"):
        imported(both)


def test_forms_are_many_and_different() -> None:
    seen = [str(form) for form in forms("Conv", 22)]
    assert len(seen) > 300
    assert {form.shape[0] for form in forms("Conv", 22)} == {"batch", 3, 1}
    figures = Figures()
    for form in list(forms("Transpose", 13))[:20]:
        judge(form, figures)
    assert figures.equal.total() + figures.refused.total() == 20
