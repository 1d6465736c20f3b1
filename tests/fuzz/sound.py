"""What is asked of a random graph, no attack in sight: every node's bounds, by every method, hold what is computed there.

In float64 the points' values are the Network's own, and may leave a bound by what a box of radius zero around the point is
charged; in float32 they are ONNX Runtime's, every value of the file made an output, and may not leave it at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from pipeline.bounds import walk
from pipeline.bounds.alpha import Search, improved
from pipeline.bounds.ibp import IntervalWalk
from pipeline.bounds.linear import Bounds, LinearWalk
from pipeline.bounds.margins import MarginBounds
from pipeline.core.floating_point import U64
from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.core.network import Network, Plan
from pipeline.core.outward import Outward
from pipeline.core.threat import Box
from pipeline.errors import InputRejected, PipelineError
from pipeline.methods import METHODS
from pipeline.onnx import runtime
from pipeline.onnx.importer import Imported
from pipeline.onnx.kernels import OPERATORS
from pipeline.onnx.probe import with_outputs
from pipeline.rules import rule_for, unsupported
from tests.fuzz.graphs import Graph
from tests.laws import inside
from tests.onnx.files import load

# Twice the largest error that a sweep of a million inputs finds of any of these kernels.
KERNELS = dict.fromkeys(OPERATORS, (1.1e-6, 4e-7))
MODES = {"real": Outward(deployed=False), "float32": Outward(deployed=True, kernels=KERNELS)}
ROWS = 6
"""Forms bounded at each node by backward walks."""
ORDER = 1e-9
"""By how much of its size a bound may lie below that of a weaker method."""
PLANES = ("bilinear", "maxima", "normalisation", "softmax")
"""The files of rules that relax an operator by planes over several of its entries, rather than by lines."""


@dataclass
class Figures:
    """What was tried."""

    graphs: int = 0
    refused: int = 0
    """Files that were not imported, with a sentence."""
    nodes: int = 0
    unbounded: int = 0
    """Graphs that no method bounds in one of the two arithmetics, with a sentence."""
    bounds: int = 0
    """Ends of boxes and of forms that values were compared with."""
    points: int = 0
    compared: int = 0
    """Pairs of a value and a bound."""
    finite: int = 0
    """Graphs with a finite margin in some arithmetic."""
    certified: int = 0
    operators: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        return (
            f"{self.graphs} graphs ({self.refused} refused by a sentence), {len(self.operators)} operators, {self.nodes} nodes,"
            f" {self.points} points, {self.bounds} bounds, {self.compared} comparisons; {self.finite} graphs with finite"
            f" margins, {self.certified} certified"
        )


@dataclass(frozen=True)
class Case:
    """A graph that was imported, its box, and points in it with every value there, by node."""

    network: Network
    plan: Plan
    box: Interval
    exact: list[Tensor]
    """float64, by the Network."""
    own: list[Tensor | None]
    """What that evaluation itself may err by."""
    deployed: Mapping[int, Tensor]
    """By ONNX Runtime at float32 points of the box, where it computes the node."""


def examine(graph: Graph, folder: Path, figures: Figures) -> None:
    """Import a graph and hold all bounds against all points. Raises AssertionError, naming method, mode and node."""
    figures.graphs += 1
    path = folder / "random.onnx"
    onnx.save(graph.model, path)
    try:
        imported = load(path)
    except InputRejected:
        figures.refused += 1
        return
    found = unsupported(imported.network)
    assert not found, f"no rule for {found}"
    case = _case(graph, imported)
    figures.operators |= {n.op_type for n in graph.model.graph.node}
    figures.nodes += len(case.plan.steps)
    figures.points += len(case.exact[0]) + (len(case.deployed[case.plan.inputs[0]]) if case.deployed else 0)
    finite = [_bounded(case, mode, rounding, figures) for mode, rounding in MODES.items()]
    figures.finite += any(finite)


def _bounded(case: Case, mode: str, rounding: Outward, figures: Figures) -> bool:
    """Whether a margin is finite; a refusal by a sentence is no bound."""
    try:
        _nodes(case, mode, rounding, figures)
        return _margins(case, mode, rounding, figures)
    except PipelineError:
        figures.unbounded += 1
        return False


def _nodes(case: Case, mode: str, rounding: Outward, figures: Figures) -> None:
    """Every node's box by IBP and CROWN, and forms over it by backward walks through either and by searched slopes."""
    for tighten in (False, True):
        bounds = LinearWalk(case.network, rounding, case.plan, tighten=tighten).over([Box(case.box)])
        name = "crown" if tighten else "ibp"
        for step in case.plan.steps:
            if not isinstance(bounds.values.get(step.index), Interval):
                continue
            where = f"{name}, {mode}, {step.name} {type(step.op).__name__}"
            _hold_box(case, step.index, bounds.box(step.index), mode, where, figures)
            form = _forms(bounds.box(step.index).center, step.index)
            least = bounds.lower({step.index: form})
            _hold_forms(case, step.index, form, least, mode, f"rows over {where}", figures)
        if tighten:
            _hold_alpha(case, bounds, mode, figures)


def _hold_alpha(case: Case, bounds: Bounds, mode: str, figures: Figures) -> None:
    """The forms over two nodes, slopes searched."""
    search = Search(steps=4, until_proved=False)
    varying = [s for s in case.plan.steps if isinstance(bounds.values.get(s.index), Interval)]
    for step in varying[-1:] + varying[len(varying) // 2 : len(varying) // 2 + 1]:
        form = _forms(bounds.box(step.index).center, step.index)
        forms = {step.index: form}
        least = improved(bounds, forms, bounds.lower(forms), search)
        _hold_forms(case, step.index, form, least, mode, f"alpha-crown, {mode}, {step.name}", figures)


def _margins(case: Case, mode: str, rounding: Outward, figures: Figures) -> bool:
    """Every method's margins of every label, each no lower than those of the method before where lines are all there is.

    Planes are laid at the middle of a box: over a tighter box they are others, and may be lower where a margin is decided.
    The ladder keeps the best of all methods.
    """
    planes = any(type(rule_for(s.op)).__module__.rpartition(".")[2] in PLANES for s in case.plan.steps)
    (output,) = case.plan.outputs
    classes = case.exact[output].shape[1]
    boxes = Interval(*(v.expand(classes, *v.shape[1:]) for v in (case.box.center, case.box.radius)))
    last: Tensor | None = None
    for method in METHODS:
        bounds = MarginBounds(case.network, rounding, method=method, search=Search(steps=3))
        rows = bounds.least(boxes, torch.arange(classes))
        where = f"margins by {method}, {mode}"
        for z, slack in _values(case, output, mode):
            z = z.flatten(1)
            others = torch.stack([z[:, [j for j in range(classes) if j != y]].amax(1) for y in range(classes)], 1)
            true, allowed = z - others, 4 * U64 * (z.abs().amax(1, keepdim=True) + 1e-300)
            allowed = allowed if slack is None else allowed + 2 * slack.flatten(1).amax(1, keepdim=True)
            _assert_below(rows.expand_as(true), true, allowed, where, figures)
        if last is not None:
            worse = rows < last - (ORDER if mode == "real" else 1e-5) * (1 + last.abs())
            assert planes or not bool(worse.any()), (
                f"{where} are {rows.tolist()}, those of the method before {last.tolist()}"
            )
            assert not bool((last.isfinite() & ~rows.isfinite()).any()), f"{where} are lost: {last} and now {rows}"
        last = rows
        figures.certified += bool((rows > 0).any())
    assert last is not None
    return bool(last.isfinite().any())


def _hold_box(case: Case, index: int, box: Interval, mode: str, where: str, figures: Figures) -> None:
    for value, slack in _values(case, index, mode):
        if value.shape[1:] != box.center.shape[1:]:
            continue
        allowed = torch.zeros_like(value) if slack is None else slack
        lower, upper = (end.expand_as(value) for end in (box.lower, box.upper))
        _assert_below(lower, value, allowed, where, figures)
        _assert_below(-upper, -value, allowed, where, figures)


def _hold_forms(
    case: Case, index: int, form: LinearForm, least: Tensor, mode: str, where: str, figures: Figures
) -> None:
    coeff = form.coeff.flatten(2)[:, 0]
    for value, slack in _values(case, index, mode):
        if value.shape[1:] != form.coeff.shape[2:]:
            continue
        true, size = value.flatten(1) @ coeff.T, value.flatten(1).abs() @ coeff.abs().T
        allowed = size * (16 * (coeff.shape[1] + 2) * U64)
        allowed = allowed if slack is None else allowed + slack.flatten(1) @ coeff.abs().T
        # A product with an infinite value that a row does not read is NaN: only rows over finite values say anything.
        true = torch.where(size.isfinite(), true, torch.nan)
        _assert_below(least[:, 0].expand_as(true), true, allowed, where, figures, undefined=False)


def _assert_below(
    lower: Tensor, value: Tensor, allowed: Tensor, where: str, figures: Figures, *, undefined: bool = True
) -> None:
    """``lower <= value`` up to what is allowed; where a value is not finite the bound must not be finite either.

    A bound that is NaN or infinite claims nothing.
    """
    figures.bounds += lower[0].numel()
    figures.compared += value.numel()
    lower, value = lower.detach(), value.detach()
    claims = lower.isfinite()
    broken = claims & (lower > value + allowed)
    if undefined:
        broken |= claims & value.isnan()
    if bool(broken.any()):
        at = broken.nonzero()[0].tolist()
        pick = tuple(at)
        raise AssertionError(
            f"{where}: point {at[0]}, entry {at[1:]}: {float(value[pick])!r} lies below {float(lower[pick])!r} by"
            f" {float(lower[pick] - value[pick]):.3g}, allowed {float(allowed.expand_as(value)[pick]):.3g}"
        )


def _values(case: Case, index: int, mode: str) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The values of a node over the points, and what they may leave a bound by."""
    own = case.own[index]
    yield case.exact[index], torch.zeros_like(case.exact[index]) if own is None else own
    if mode == "float32" and index in case.deployed:
        yield case.deployed[index], None


def _forms(center: Tensor, seed: int) -> LinearForm:
    """Rows of both signs over a node: single entries, differences of two, and one of all entries."""
    generator = torch.Generator().manual_seed(seed)
    n = center[0].numel()
    coeff = torch.zeros(ROWS, n, dtype=torch.float64)
    for row in range(ROWS - 1):
        i, j = torch.randint(n, (2,), generator=generator).tolist()
        coeff[row, j] -= float(row > 2)
        coeff[row, i] += -1.0 if row % 2 else 1.0
    coeff[-1] = torch.randn(n, generator=generator, dtype=torch.float64)
    return LinearForm(coeff.reshape(ROWS, 1, *center.shape[1:]), torch.zeros(ROWS, 1, dtype=torch.float64))


def _case(graph: Graph, imported: Imported) -> Case:
    network = imported.network.in_float64()
    plan = network.plan()
    box = Interval(torch.from_numpy(graph.center).double(), torch.from_numpy(graph.radius))
    points = torch.cat(list(_points(network, plan, box)))
    with torch.no_grad():
        exact = walk.forward(plan, [points], lambda s, *xs: s.op(*xs), keep=walk.EVERYTHING)
        try:
            at = Interval(points, torch.zeros_like(points))
            zero = IntervalWalk(network, MODES["real"], plan).boxes([at], keep=walk.EVERYTHING)
        except PipelineError:
            zero = [None] * plan.size
    # A point at which nothing is bounded (outside a domain) may err by anything.
    own = [z.radius.nan_to_num(nan=torch.inf) if isinstance(z, Interval) else None for z in zero]
    single = points[(points == points.float()).flatten(1).all(1)].float()
    return Case(network, plan, box, exact, own, _deployed(graph, imported, plan, single))


def _deployed(graph: Graph, imported: Imported, plan: Plan, points: Tensor) -> dict[int, Tensor]:
    """ONNX Runtime's values by node: of all of the file's values at once, and of the outputs of the file as it is."""
    everything, plain = (runtime.session(m.SerializeToString()) for m in (with_outputs(graph.model), graph.model))
    index = {imported.network.provenance.nodes[n].output: i for i, n in enumerate(plan.names) if n in _named(imported)}
    names = [n for n in everything.outputs if n in index]
    parts: list[list[np.ndarray]] = []
    size = len(points) if everything.fixed_batch is None else 1
    for start in range(0, len(points), size):
        x = points[start : start + size].numpy()
        parts.append([*everything(x, outputs=names), *plain(x)])
    values = [torch.from_numpy(np.concatenate(p)).double() for p in zip(*parts, strict=True)]
    known = {index[n]: v for n, v in zip(names, values, strict=False)}
    known[plan.inputs[0]] = points.double()
    (output,) = plan.outputs
    known[output] = torch.cat([known[output], values[-1]]) if output in known else values[-1]
    return known


def _named(imported: Imported) -> set[str]:
    return {n for n, o in imported.network.provenance.nodes.items() if o.output}


def _points(network: Network, plan: Plan, box: Interval) -> Iterator[Tensor]:
    """The center, interior points, edges and corners; corners that the gradients of nodes name, and steps on from there."""
    generator = torch.Generator().manual_seed(5)

    def drawn(count: int) -> Tensor:
        return torch.rand(count, *box.center.shape[1:], generator=generator, dtype=torch.float64) * 2 - 1

    edges = torch.where(drawn(4) < 0, drawn(4).sign(), drawn(4))
    weights = [torch.zeros_like(box.center), drawn(4), drawn(5).sign(), edges]
    steps = [s.index for s in plan.steps]
    for index in steps[-1:] * 2 + steps[:: max(1, len(steps) // 4)]:
        weight = torch.zeros(2, *box.center.shape[1:], dtype=torch.float64)
        direction: Tensor | None = None
        for _ in range(2):
            leaf = inside(box, weight).requires_grad_()
            values = walk.forward(plan, [leaf], lambda s, *xs: s.op(*xs), keep=walk.EVERYTHING)
            value = values[index].flatten(1)
            if not value.requires_grad:
                break
            if direction is None:
                direction = torch.randn(value.shape[1], generator=generator, dtype=torch.float64)
            signed = value @ direction * torch.tensor([1.0, -1.0], dtype=torch.float64)
            (g,) = torch.autograd.grad(signed.sum(), leaf)
            weight = torch.where(g == 0, drawn(2).sign(), g.nan_to_num().sign())
            weights.append(weight)
    for weight in weights:
        point = inside(box, weight)
        yield _within(box, point)
        single = point.float()
        yield _within(box, torch.where(_holds(box, single), single, single.nextafter(box.center.float())).double())


def _within(box: Interval, point: Tensor) -> Tensor:
    """The point, entries that rounding has moved out of the box put at its center."""
    return torch.where(_holds(box, point), point, box.center)


def _holds(box: Interval, point: Tensor) -> Tensor:
    distance = (point.double() - box.center).abs()
    return (distance <= box.radius * (1 - 2.0**-50)) | (distance == 0)
