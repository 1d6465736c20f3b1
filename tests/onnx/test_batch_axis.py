"""Samples are independent by type: what is imported gives each sample its own value, whatever the batch."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import onnx
import pytest

from pipeline.errors import InputRejected, PipelineError
from pipeline.onnx import runtime
from pipeline.onnx.batch import registry, rules
from pipeline.onnx.operators import TABLE
from pipeline.onnx.passes.normalise import normalise
from pipeline.rules import unsupported
from tests.onnx.batch_games import Game
from tests.onnx.files import load, model, node, saved

BATCHES = (1, 2, 3, 7, 8)


def accepted(proto: onnx.ModelProto) -> bool:
    """Whether the type accepts a graph; parity and the lowering are left out."""
    for batch_trace in normalise(proto).traces:
        batch_trace.require()
    return True


def apart(proto: onnx.ModelProto) -> str | None:
    """What ONNX Runtime does that a batch of independent samples would not, None where it does nothing of the kind."""
    run = runtime.session(proto.SerializeToString())
    shape = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim][1:]
    x = np.random.default_rng(5).standard_normal((8, *shape)).astype(np.float32)
    try:
        alone = [run(x[i : i + 1])[0] for i in range(8)]
    except PipelineError:
        return "one sample cannot be run"
    if any(y.shape[:1] != (1,) for y in alone):
        return f"one sample has {alone[0].shape}"
    for batch in BATCHES:
        try:
            y = run(x[:batch])[0]
        except PipelineError:
            continue  # it does not run at that size, and nothing is said of it
        if y.shape[:1] != (batch,):
            return f"{batch} samples have {y.shape}"
        if y.shape[1:] != alone[0].shape[1:] or not np.allclose(
            y, np.concatenate(alone[:batch]), rtol=1e-4, atol=1e-4, equal_nan=True
        ):
            return f"{batch} samples differ from each by itself"
    return None


def played(seeds) -> Counter[str]:
    counts: Counter[str] = Counter()
    for seed in seeds:
        try:
            proto = Game(seed).model()
            run = runtime.session(proto.SerializeToString())
            run(np.zeros((2, *[d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim][1:]), np.float32))
        except (PipelineError, onnx.shape_inference.InferenceError):
            counts["no graph"] += 1
            continue
        try:
            accepted(proto)
        except PipelineError:
            counts["refused"] += 1
            continue
        counts["accepted"] += 1
        if (difference := apart(proto)) is not None:
            counts["mixed"] += 1
            counts[f"seed {seed}: {difference}"] += 1
    return counts


def test_what_is_accepted_keeps_samples_apart_at_every_batch_size():
    counts = played(range(200))
    assert counts["mixed"] == 0, counts
    assert counts["accepted"] > 30, counts
    assert counts["refused"] > 60, counts


WRONG = {
    "Softmax": rules.pointwise,
    "Slice": lambda t, n: t.batch_axis(n.inputs[0]),
    "CumSum": lambda t, n: t.batch_axis(n.inputs[0]),
    "Add": lambda t, n: next(p for v in n.inputs if (p := t.batch_axes.get(v))),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_is_found_out(name, monkeypatch):
    key = registry.POINTWISE if name in TABLE and TABLE[name].pointwise else name
    monkeypatch.setitem(registry.RULES, key, WRONG[name])
    seeds = (s for s in range(2000) if any(n.op_type == name for n in Game(s).nodes))
    assert any(played([s])["mixed"] for s in itertools.islice(seeds, 80))


def test_every_operator_of_the_table_has_a_rule():
    """One without is refused, so that none can be forgotten; ``Linear`` is the import's own."""
    assert not {name for name in TABLE if registry.rule_of(name) is None}


def test_an_operator_without_a_rule_is_refused_by_name(monkeypatch):
    monkeypatch.delitem(registry.RULES, "Softmax")
    with pytest.raises(InputRejected, match="Softmax 'end': where its samples stand is not known"):
        accepted(model([node("Softmax", ["x"], ["y"], name="end")], ["N", 3]))


def test_what_is_drawn_ends_as_a_network_or_a_refusal(tmp_path):
    """The whole import: a fault of ours would be another kind of error."""
    imported = 0
    for seed in range(60):
        try:
            network = load(saved(tmp_path, Game(seed).model())).network
            imported += not unsupported(network)
        except InputRejected:
            pass
    assert imported > 5


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        (
            [node("ReduceMax", ["x"], ["m"], axes=[-2], name="top"), node("Sub", ["x", "m"], ["y"])],
            "ReduceMax 'top': .*axis 0",
        ),
        ([node("Add", ["x", "two"], ["y"], name="sum")], "Add 'sum': a constant has more than one entry along"),
        (
            [node("Transpose", ["x"], ["t"]), node("MatMul", ["x", "t"], ["y"])],
            "MatMul .*: samples of one operand meet",
        ),
        (
            [
                node("Shape", ["x"], ["s"], end=1),
                node("Equal", ["s", "eight"], ["e"], name="trap"),
                node("Cast", ["e"], ["f"], to=1),
                node("Add", ["x", "f"], ["y"], name="flips"),
            ],
            "Add 'flips': it reads a value that depends on the batch size .Equal 'trap': it compares the batch size",
        ),
    ],
)
def test_refusals_name_the_operator_and_what_it_does(nodes, says):
    with pytest.raises(InputRejected, match=says):
        accepted(model(nodes, ["N", 3], {"two": np.ones((2, 3), np.float32), "eight": np.array([8])}))


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [0, -2])
def test_a_softmax_along_the_batch_is_refused(operator: str, axis: int) -> None:
    with pytest.raises(InputRejected, match=rf"(?s)samples of a batch must not.*{operator} 's': it runs along"):
        accepted(model([node(operator, ["x"], ["s"], axis=axis), node("Relu", ["s"], ["y"])], ["N", 3], opset=13))
