"""Where the samples are, of every value of a graph: a type that says that no sample of a batch influences another.

Each value that depends on the data has its samples in one axis (``Place``), at the input the first; each one computed from
shapes is a function of their number (``Sized``). An operator gets the place of its result from those of its operands
by a rule of its family (``batch_rules.py``), or is refused by its name: where it reads across samples, puts them where they
cannot be followed, or reads a number that depends on how many there are. An operator without a rule is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from onnx import GraphProto

from pipeline.errors import InputRejected
from pipeline.onnx.batch.place import Lost, Place
from pipeline.onnx.batch.sizes import Sized, evaluated, shape_of
from pipeline.onnx.ir import Draft, Node
from pipeline.onnx.names import shown
from pipeline.onnx.operators import TABLE

Rule = Callable[["Tracing", Node], Place]
"""Where the samples of an operator's results stand. Raises Lost where they influence each other or cannot be followed."""
RULES: dict[str, Rule] = {}


def follows(*names: str) -> Callable[[Rule], Rule]:
    """Enters the rule of operators. Raises KeyError where one has a rule already."""

    def register(rule: Rule) -> Rule:
        for name in names:
            if name in RULES:
                raise KeyError(f"an operator has one rule; {name} has one already")
            RULES[name] = rule
        return rule

    return register


POINTWISE = "pointwise"
"""Under this name stands the rule of every operator that the table of operators calls so."""


def rule_of(operator: str) -> Rule | None:
    entry = TABLE.get(operator)
    return RULES.get(POINTWISE if entry is not None and entry.pointwise else operator)


class Tracing:
    """One way through the nodes of a draft, its inputs with the samples in the first axis.

    ``runs`` are values measured with 2 and with 3 samples, where the file is run so, which what is computed here must equal.
    """

    def __init__(self, draft: Draft, runs: Sequence[Mapping[str, np.ndarray]] = (), *, normal: bool = False):
        self.draft, self.runs = draft, runs
        self.normal = normal
        """Whether the graph is the normal one, where a constant for all samples broadcasts beside them."""
        self.opset = 23 if normal else draft.opset
        self.places = {v: Place(0) for v in draft.inputs}
        self.sized: dict[str, Sized] = {}
        """Values that are no constants, but functions of the number of samples."""
        self.constant = set(draft.constants)
        """Values that are the same whatever the inputs and their shapes."""
        self.why: dict[str, str] = {}
        """Of a value of shapes that is no such function, what makes it none."""
        self.refused: dict[int, str] = {}
        """By the index of a node."""
        self.gone: set[str] = set()
        """Values of which nothing is known behind what was refused."""
        self.needed = draft.needed()
        self.nodes, self.outputs = tuple(draft.nodes), tuple(draft.outputs)
        for index, node in enumerate(self.nodes):
            self._visit(index, node)

    def _visit(self, index: int, node: Node) -> None:
        reads = [v for v in node.inputs if v]
        made = [v for v in node.outputs if v]
        try:
            if self.gone.intersection(reads):
                self.gone.update(made)
            elif any(isinstance(node.attributes.peek(a), GraphProto) for a in node.attributes):
                raise Lost("it holds a graph of its own")
            elif node.op_type in ("Shape", "Size") or self.places.keys().isdisjoint(reads):
                self._shapes(node, reads, made)
            elif (rule := rule_of(node.op_type)) is None:
                raise Lost("where its samples stand is not known")
            else:
                place = rule(self, node)
                for value in made:
                    self._placed(value, place)
        except (Lost, AssertionError, IndexError, KeyError, TypeError, ValueError) as error:
            self.refused[index] = str(error) if isinstance(error, Lost) else "where its samples stand is not known"
            self.gone.update(made)

    def _placed(self, value: str, place: Place) -> None:
        shapes = [np.shape(run[value]) for run in self.runs if value in run]
        for samples, shape in zip((2, 3), shapes, strict=False):
            share = self._share(shapes[0], place, 2)
            want = tuple(samples * d if i == place.axis else d for i, d in enumerate(share))
            if shape != want:
                raise Lost("its shape is no product of the number of samples")
        self.places[value] = place

    def _shapes(self, node: Node, reads: Sequence[str], made: Sequence[str]) -> None:
        """An operator on values without data."""
        if lost := [self.why[v] for v in reads if v in self.why]:
            self.why.update(dict.fromkeys(made, lost[0]))
        elif node.op_type in ("Shape", "Size"):
            (value,) = reads
            if self.place(value) is None:
                self.constant.update(made)
                return
            x = shape_of(self.share(value), self.place(value))
            if node.op_type == "Shape":
                cut = slice(node.attributes.peek("start", 0), node.attributes.peek("end"))
                x = x.each(lambda v: v[cut])
            else:
                x = Sized.of(np.array(0), int(np.prod(x.base + x.slope)))
            self._known(made[0], x)
        elif all(v in self.constant for v in reads):
            self.constant.update(made)
        else:
            try:
                try:
                    found = evaluated(node, [self._sized(v) if v else None for v in node.inputs])
                except Lost as error:
                    found = self._alike(node, error)
                self._known(made[0], found)
            except (Lost, IndexError, ValueError, TypeError) as error:
                why = str(error) if isinstance(error, Lost) else "it cannot be computed"
                self.why.update(dict.fromkeys(made, f"{self.told(node)}: {why}"))

    def _alike(self, node: Node, otherwise: Lost) -> Sized:
        """An operator on what every sample has alike: its result is, too, where it keeps samples apart."""
        varying = [self.sized[v] for v in node.inputs if v in self.sized]
        rule = rule_of(node.op_type)
        if rule is None or not self.runs or not all(v.alike for v in varying):
            raise otherwise
        place = rule(self, node)
        seen = np.asarray(self.runs[0][node.output])
        if place.outer != 1:
            raise Lost("it folds samples into another axis")
        share = seen.take(range(place.inner), place.axis)
        return Sized.of(share, axis=place.axis)

    def _known(self, value: str, sized: Sized) -> None:
        for samples, run in zip((2, 3), self.runs, strict=False):
            if value in run and not sized.is_at(samples, np.asarray(run[value])):
                raise Lost("it is no function of the batch size that is known")
        if sized.constant and self.runs:
            self.constant.add(value)
        else:
            self.sized[value] = sized

    def place(self, value: str) -> Place | None:
        """Where the samples of a value stand, None for one that is the same for each. Raises Lost for any other."""
        if value in self.places:
            return self.places[value]
        if value in self.why:
            raise Lost(f"it reads a value that depends on the batch size ({self.why[value]})")
        if value in self.sized:
            sized = self.sized[value]
            if not sized.alike:
                raise Lost("it reads a number that depends on the batch size, as data")
            return sized.place
        return None

    def sizes(self, value: str) -> Sized:
        """A target, axes or the like. Raises Lost for what is computed from data, or is no known function of the batch size."""
        if value in self.why:
            raise Lost(f"it reads a size that depends on the batch size ({self.why[value]})")
        if value in self.places:
            raise Lost("it takes sizes or indices that are computed from data")
        return self._sized(value)

    def _sized(self, value: str) -> Sized:
        if value in self.sized:
            return self.sized[value]
        if value in self.draft.constants:
            return Sized.of(self.draft.constants[value])
        if not self.runs or value not in self.runs[0]:
            raise Lost("a value that it reads was not measured")
        return Sized.of(np.asarray(self.runs[0][value]))

    def numbers(self, node: Node, attribute: str, position: int) -> list[int] | None:
        """Whole numbers that are an attribute or, in newer forms, an input; None where they are left out."""
        given = node.attributes.peek(attribute)
        if given is not None:
            return [int(v) for v in np.atleast_1d(given)]
        if not node.input(position):
            return None
        value = self.sizes(node.input(position))
        if not value.constant:
            raise Lost("its axes or indices depend on the batch size")
        return [int(v) for v in value.base.reshape(-1)]

    def share(self, value: str) -> tuple[int, ...]:
        """The shape of one sample's share of a value."""
        if value in self.sized:
            return tuple(self.sized[value].base.shape)
        if value in self.draft.constants:
            return self.draft.constants[value].shape
        shape = np.shape(self.runs[0][value]) if self.runs and value in self.runs[0] else self.draft.shapes.get(value)
        if shape is None:
            raise Lost("the shape of what it reads was not measured")
        place = self.places.get(value)
        first = self.draft.shapes[self.draft.inputs[0]][0]
        return tuple(shape) if place is None else self._share(shape, place, first)

    def _share(self, shape: Sequence[int], place: Place, samples: int) -> tuple[int, ...]:
        each = place.outer * place.inner
        if not place.axis < len(shape) or shape[place.axis] != samples * each:
            raise Lost("its shape is no product of the number of samples")
        return tuple(each if i == place.axis else d for i, d in enumerate(shape))

    def told(self, node: Node) -> str:
        """A node in the file's own words."""
        origin = next((self.draft.origins[v] for v in node.outputs if v in self.draft.origins), None)
        if origin is None:
            return shown(node.op_type)
        return f"{shown(origin.op_type)} '{shown(origin.name or origin.output, 60)}'"

    def require(self, ignored: Callable[[str], bool] = lambda op_type: False) -> None:
        """Raise InputRejected naming every operator that the outputs need and that does not keep samples apart.

        Operators that are ``ignored`` are refused elsewhere, and what stands behind them with them.
        """
        refused = {i: why for i, why in self.refused.items() if not self.needed.isdisjoint(self.nodes[i].outputs)}
        found = [
            f"{self.told(self.nodes[i])}: {why}" for i, why in refused.items() if not ignored(self.nodes[i].op_type)
        ]
        made_by = {value: f", of {self.told(node)}," for node in self.nodes for value in node.outputs}
        for value in () if refused else self.outputs:
            output = f"an output{made_by.get(value, '')}"
            try:
                place = self.place(value)
            except Lost as error:
                found.append(f"{output}: {error}")
                continue
            if place is None or value not in self.places:
                found.append(f"{output} does not depend on the input")
            elif place.axis or not place.alone:
                found.append(f"{output} has its samples in axis {place.axis}, or not alone there")
        if found:
            said = "; ".join(dict.fromkeys(found))
            raise InputRejected(
                "The samples of a batch must not influence one another, and nothing but shapes may depend on their number; here"
                f" they may. {said[:1500]}. Export the model with the batch first and each sample by itself."
            )
