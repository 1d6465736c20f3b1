"""Rewritings that move values and compute nothing: copies, transposes, reshapes, blocks of channels; and the same operator."""

from __future__ import annotations

from itertools import permutations

from pipeline.onnx.executed.graphs import NCHWC, GraphOperator
from pipeline.onnx.executed.matching import RESHAPES, Matching, Pair, Steps, copied, rewriting, same_numbers, same_shape
from pipeline.onnx.executed.views import AS_IT_IS, BLOCKED, FLAT, View

BLOCK = 16
"""Channels in a block are at most as many."""
COMMUTE = ("Add", "Mul", "Sum", "Max", "Min")
ELEMENTWISE = {
    *("Add", "Sub", "Mul", "Div", "Sum", "Max", "Min", "Pow", "PRelu", "Where"),
    *("Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "Tanh", "Exp", "Log", "Erf", "Sqrt", "Abs", "Neg"),
    *(
        "Softplus",
        "Softsign",
        "HardSigmoid",
        "HardSwish",
        "Gelu",
        "Clip",
        "Floor",
        "Ceil",
        "Round",
        "Sign",
        "Sin",
        "Cos",
    ),
    *("Reciprocal", "ThresholdedRelu", "Mish", "Not", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"),
}
"""Each entry of the output is made of the entries at the same place."""
SETTINGS = {"Clip": (1, 2)}
"""Inputs of elementwise operators that are no arrays beside the first."""


@rewriting()
def same_operator(at: Matching, own: GraphOperator, index: int, pair: Pair) -> Steps:
    """The operator of the file itself, with its attributes, on what it reads; Sum of two is Add, and operands may commute."""
    theirs = at.file.producer(pair.file)
    if theirs is None or at.file.made[pair.file][1] != index:
        return False
    names = {_name(own), _name(theirs)}
    if len(names) > 1 or own.type.startswith(NCHWC) or own.attributes != theirs.attributes:
        return False
    mine, others = _given(own), _given(theirs)
    if len(mine) != len(others):
        return False
    orders = permutations(others) if _name(own) in COMMUTE and len(others) == 2 else [tuple(others)]
    for order in orders:
        wanted = _operands(at, own, pair.view, mine, order)
        if wanted is None:
            continue
        for operand in wanted:
            if not (yield operand):
                break
        else:
            return True
    return False


def _name(own: GraphOperator) -> str:
    return "Add" if own.type == "Sum" and len(own.inputs) == 2 else own.type


def _given(own: GraphOperator) -> list[str]:
    """Inputs, those that are left out at the end forgotten."""
    inputs = list(own.inputs)
    while inputs and not inputs[-1]:
        inputs.pop()
    return inputs


def _operands(
    at: Matching, own: GraphOperator, view: View, mine: list[str], theirs: tuple[str, ...]
) -> list[Pair] | None:
    """The pairs that make an operator's output be seen so; None where the operator does not commute with the view."""
    if any(bool(a) != bool(b) for a, b in zip(mine, theirs, strict=True)):
        return None
    read = [(a, b) for a, b in zip(mine, theirs, strict=True) if a]
    if view.plain:
        return [Pair(a, b) for a, b in read]
    if own.type == "Concat" and view.blocked:
        whole = all((at.file.size(b, 1) or 1) % BLOCK == 0 for _, b in read)
        return [Pair(a, b, view) for a, b in read] if own.attributes["axis"] == 1 and whole else None
    if own.type == "Concat" and view.perm is not None:
        return None
    if own.type not in ELEMENTWISE:
        return None
    pairs, varying = [], []
    for position, (a, b) in enumerate(read):
        if position in SETTINGS.get(own.type, ()):
            pairs.append(Pair(a, b))
        elif at.executed.constants.fixed(a):
            if not _constant_fits(at, a, b, view):
                return None
        else:
            varying.append(b)
            pairs.append(Pair(a, b, view))
    # Two executed arrays that are only known in row-major order might be broadcast against each other.
    alike = all(not view.flat and same_shape(at.file, varying[0], other) for other in varying[1:])
    ranks = view.perm is None or all(at.file.rank(v) == len(view.perm) for v in varying)
    return pairs if alike and ranks and varying else None


def _constant_fits(at: Matching, executed: str, file: str, view: View) -> bool:
    """A constant operand, broadcast: a single number, or one turned as the other operand is."""
    if file not in at.file.constants:
        return False
    mine, theirs = at.executed.constants[executed], at.file.constants[file]
    if mine.size == theirs.size == 1:
        return same_numbers(mine.reshape(()), theirs.reshape(()))
    if view.perm is None or theirs.ndim > len(view.perm):
        return False
    rank = len(view.perm)
    turned = theirs.reshape((1,) * (rank - theirs.ndim) + theirs.shape).transpose(view.perm)
    return same_numbers(mine.reshape((1,) * (rank - mine.ndim) + mine.shape), turned) if mine.ndim <= rank else False


@rewriting()
def copies(at: Matching, own: GraphOperator, index: int, pair: Pair) -> Steps:
    """What is executed is a copy itself."""
    inner = copied(at.executed, pair.executed)
    return inner is not None and (yield Pair(inner, pair.file, pair.view))


@rewriting("Transpose")
def transposes(at: Matching, own: GraphOperator, index: int, pair: Pair) -> Steps:
    """A transpose may stand elsewhere, or nowhere: it is a matter of the view."""
    perm = own.attributes.get("perm")
    view = None if perm is None else pair.view.before_executed(perm)
    return view is not None and (yield Pair(own.inputs[0], pair.file, view))


@rewriting(*RESHAPES)
def reshapes(at: Matching, own: GraphOperator, index: int, pair: Pair) -> Steps:
    """A reshape keeps the row-major order; where an array is wanted, its shape must be that of the file's value."""
    if pair.view.plain and not _reaches(at, own, pair.file):
        return False
    if not (pair.view.plain or pair.view.flat):
        return False
    return (yield Pair(own.inputs[0], pair.file, FLAT))


def _reaches(at: Matching, own: GraphOperator, file: str) -> bool:
    """Whether an executed reshape ends in the shape of the file's value: all sizes but one, which their product gives."""
    known = at.file.types.get(file)
    if known is None or not known.HasField("shape"):
        return False
    sizes = [d.dim_value for d in known.shape.dim]
    if own.type != "Reshape" or own.inputs[1] not in at.executed.constants:
        return False
    target = [int(d) for d in at.executed.constants[own.inputs[1]].reshape(-1)]
    if len(target) != len(sizes):
        return False
    open_ = [t for t, s in zip(target, sizes, strict=True) if not (t > 0 and s > 0 and t == s)]
    return len(open_) <= 1 and all(t <= 0 or s == 0 for t, s in zip(target, sizes, strict=True) if t != s)


@rewriting(NCHWC + "ReorderInput")
def into_blocks(at: Matching, own: GraphOperator, index: int, pair: Pair) -> Steps:
    """Channels put into blocks, from an array with channels second or last."""
    view = View.of((0, 2, 3, 1)) if own.attributes.get("channels_last", 0) else AS_IT_IS
    return pair.view.blocked and (yield Pair(own.inputs[0], pair.file, view))


@rewriting(NCHWC + "ReorderOutput")
def out_of_blocks(at: Matching, own: GraphOperator, index: int, pair: Pair) -> Steps:
    """Channels taken out of their blocks."""
    wanted = View.of((0, 2, 3, 1)) if own.attributes.get("channels_last", 0) else AS_IT_IS
    return pair.view == wanted and (yield Pair(own.inputs[0], pair.file, BLOCKED))
