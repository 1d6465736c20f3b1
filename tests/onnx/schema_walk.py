"""The walk: every form of every operator of the table against ONNX Runtime, parity off: equal, or refused by name.

``python -m tests.onnx.schema_walk [--operators A,B] [--each N] [--seconds S]`` prints the figures and what is wrong.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
import onnxruntime
import torch

from pipeline.core.network import Network
from pipeline.errors import InputRejected
from pipeline.onnx import absurd, guard
from pipeline.onnx.conversion import convert
from pipeline.onnx.passes.normalise import normalise
from tests.onnx.schema_forms import Form, forms, mixed, walked

TOLERANCE = 1e-4
"""Of the largest absolute entry, for sums in another order and kernels of powers."""


@dataclass
class Figures:
    """How many forms came out how, by operator; what was wrong, in words."""

    equal: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    invalid: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    opsets: set[int] = field(default_factory=set)
    reasons: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def __str__(self) -> str:
        operators = len(self.equal | self.refused)
        return (
            f"{operators} operators, opsets {min(self.opsets)} to {max(self.opsets)}: {self.equal.total()} forms equal, "
            f"{self.refused.total()} refused by name, {len(self.wrong)} wrong ({self.invalid.total()} are no model)"
        )


def truth(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """ONNX Runtime node by node: its optimiser off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def imported(model: onnx.ModelProto) -> Network:
    """What ``load`` makes of a file before it looks at parity. Raises InputRejected."""
    guard.check_structure(model)
    if all(port.type.tensor_type.HasField("shape") for port in model.graph.output):
        try:
            onnx.checker.check_model(model)
        except onnx.checker.ValidationError as error:
            raise InputRejected(f"{model.graph.node[0].op_type}: {error}") from None
    for free in (True, False):
        normal = normalise(model, free_batch=free)
        network = convert(normal, model)
        try:
            for trace in normal.traces:
                trace.require()
            break
        except InputRejected:
            if not free:
                raise
    return network


def points(form: Form, samples: int) -> np.ndarray:
    """Numbers of both signs without ties, between -17 and 24: their exponentials are finite."""
    shape = [samples if d == "batch" else int(d) for d in form.shape]
    rng = np.random.default_rng(samples)
    spread = rng.permutation(count := math.prod(shape)).reshape(shape) / count
    x = 40 * spread - 17 + rng.uniform(0.1, 0.4, shape) / count
    return np.asarray(
        np.abs(x) if form.operator == "ReduceLogSum" else x, np.float32
    )  # a sum near zero has any logarithm


def judge(form: Form, figures: Figures) -> None:
    """Adds one form to the figures."""
    model = form.model()
    free = form.shape[0] == "batch"
    runs = [points(form, samples) for samples in ((2, 3, 1) if free else (1,))]
    try:
        absurd.check(model)  # what it refuses may end the process that ONNX Runtime runs in
    except InputRejected as refusal:
        refused(form, figures, refusal)
        return
    try:
        session = truth(model)
        expected = [session.run(None, {"x": x}) for x in runs]
    except Exception:  # ONNX Runtime raises its own kinds: such a node is no model
        figures.invalid[form.operator] += 1
        return
    figures.opsets.add(form.opset)
    for port, value in zip(model.graph.output, expected[0], strict=True):
        for axis in range(value.ndim):  # the checker wants a rank
            port.type.tensor_type.shape.dim.add(dim_param=f"{port.name}_{axis}")
        port.type.tensor_type.shape.SetInParent()
    try:
        network = imported(model)
        if form.shape[0] == 1 and network.inputs[0].shape[0] is None:
            # The file fixes a batch of one, which was made free: sample by sample.
            runs = [points(replace(form, shape=(3, *form.shape[1:])), 3)]
            singly = [session.run(None, {"x": one[None]}) for one in runs[0]]
            expected = [[joined(form, values) for values in zip(*singly, strict=True)]]
        with torch.no_grad():
            outputs = [network(torch.from_numpy(x)) for x in runs]
    except InputRejected as refusal:
        refused(form, figures, refusal)
        return
    except Exception as error:
        figures.wrong.append(f"{form}: {type(error).__name__}: {str(error)[:200]}")
        return
    network_outputs = [[y.numpy() for y in (y if isinstance(y, tuple) else (y,))] for y in outputs]
    gaps = [
        gap(a, b) for run, those in zip(expected, network_outputs, strict=True) for a, b in zip(run, those, strict=True)
    ]
    if max(gaps) > TOLERANCE:
        figures.wrong.append(f"{form}: differs by {max(gaps):.3g}")
    else:
        figures.equal[form.operator] += 1


def refused(form: Form, figures: Figures, refusal: InputRejected) -> None:
    """Adds a form that the import refuses: wrong where it is not named."""
    if form.operator in str(refusal) or "The samples of a batch" in str(refusal):
        figures.refused[form.operator] += 1
        figures.reasons[form.operator][str(refusal)] += 1
    else:
        figures.wrong.append(f"{form}: refused without its name: {refusal}")


def joined(form: Form, values: Sequence[np.ndarray]) -> np.ndarray:
    """What one sample after the other gives, as a batch; a Squeeze of all axes of size one removes that of the one sample."""
    squeezed = form.operator == "Squeeze" and len(form.operands) == 1 and "axes" not in form.attributes
    return np.stack(values) if squeezed or not values[0].ndim else np.concatenate(values)


def gap(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference as a part of the largest finite entry; infinite for another shape, or NaN on one side."""
    if a.shape != b.shape:
        return float("inf")
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    size = np.abs(np.where(np.isfinite(a), a, 0.0)).max(initial=1.0)
    return float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0) / size)


def walk(chosen: Iterable[Form], *, seconds: float = float("inf")) -> Figures:
    """The figures of some forms, as far as the time allows."""
    figures, until = Figures(), time.monotonic() + seconds
    for form in chosen:
        judge(form, figures)
        if time.monotonic() > until:
            break
    return figures


def all_forms(operators: Sequence[str] = ()) -> Iterator[Form]:
    for operator, opset in walked():
        if not operators or operator in operators:
            yield from forms(operator, opset)


def sample(each: int, *, operators: Sequence[str] = (), seed: int = 0) -> Iterator[Form]:
    """Forms drawn at random, as many of each operator at each opset, whatever other operators there are."""
    for operator, opset in walked():
        rng = random.Random(f"{seed} {operator} {opset}")
        for _ in range(each if not operators or operator in operators else 0):
            form = mixed(operator, opset, rng)
            if form is not None:
                yield form


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operators", default="", help="their names, with commas; all of the table if not given")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--each", type=int, help="as many drawn at random of each operator at each opset, not all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reasons", action="store_true", help="show what was refused, and why")
    parser.add_argument("--shown", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = tuple(n for n in options.operators.split(",") if n)
    chosen = all_forms(names) if options.each is None else sample(options.each, operators=names, seed=options.seed)
    figures = walk(chosen, seconds=options.seconds)
    for operator in sorted(figures.reasons) if options.reasons else ():
        for reason, count in figures.reasons[operator].most_common():
            print(f"{count:5} {reason[:300]}")
    rng = random.Random(0)
    for line in sorted(rng.sample(figures.wrong, min(options.shown, len(figures.wrong)))):
        print(line)
    print(figures)
    return 1 if figures.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
