"""Which initialiser each parameter came from, and what must never train.

A parameter trains if its value is an initialiser (or a Constant node) of the file up to steps that can be undone, and nothing
else in the graph reads that initialiser in another form. Everything else is frozen, with the reason.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import nn

from pipeline.core.network import Origin, Provenance, Weight
from pipeline.onnx.ir import ConstantSource
from pipeline.onnx.operators import TABLE


class Ledger:
    """Collects the table while a graph is lowered."""

    def __init__(self, sources: Mapping[str, ConstantSource]):
        self._sources = sources
        self._nodes: dict[str, Origin] = {}
        self._weights: dict[str, Weight] = {}
        self._frozen: dict[str, str] = {}
        self._forms: dict[str, set[str]] = defaultdict(set)

    def node(self, name: str, origin: Origin) -> None:
        self._nodes[name] = origin

    def parameter(self, name: str, constant: str, op_type: str) -> None:
        """A parameter or BN statistic that holds a constant of the normalised graph."""
        source = self._sources[constant]
        self._read(constant)
        if source.initializer is None:
            self._frozen[name] = source.reason
            return
        self._weights[name] = Weight(source.initializer, source.steps)
        # A statistic that shares its initialiser with a weight (an exporter merged equal tensors) cannot follow it.
        role = " as a statistic" if name.rpartition(".")[2] in ("running_mean", "running_var") else ""
        self._forms[source.initializer].add(constant + role)
        if op_type not in TABLE or not TABLE[op_type].trains:
            self._frozen[name] = f"a constant of {op_type}"

    def constant(self, name: str, constant: str, reason: str) -> None:
        """A constant operand, which never trains."""
        source = self._sources[constant]
        self._read(constant)
        self._frozen[name] = reason if source.initializer is not None else f"{reason}, {source.reason}"
        if source.initializer is not None:
            # A reading in its own right: an initialiser that is a weight too must not change under it.
            self._forms[source.initializer].add(f"{constant} as it stands")

    def _read(self, constant: str) -> None:
        """What was computed of initialisers and folded away must not change under the constant it became."""
        for initializer in self._sources[constant].reads:
            self._forms[initializer].add(constant)

    def literal(self, name: str) -> None:
        """A constant that the file does not hold."""
        self._frozen[name] = "written by the import"

    def finish(self, graph: nn.Module) -> Provenance:
        """The finished table; parameters that do not train stop requiring gradients."""
        for name, weight in self._weights.items():
            if len(self._forms[weight.initializer]) > 1:
                self._frozen.setdefault(name, "its initialiser is read in several forms")
        for name in self._weights:
            if not self._nodes.get(name.rpartition(".")[0], Origin("", "", "at the root")).output:
                self._frozen.setdefault(name, "part of a node that the file does not have by itself")
        tied = {id(p): self._frozen[n] for n, p in graph.named_parameters(remove_duplicate=False) if n in self._frozen}
        for name, parameter in graph.named_parameters(remove_duplicate=False):
            if name not in self._weights:
                self._frozen.setdefault(name, "not in the file")
            if id(parameter) in tied:
                self._frozen.setdefault(name, tied[id(parameter)])
            if not parameter.dtype.is_floating_point or parameter.dtype in (torch.float16, torch.bfloat16):
                self._frozen.setdefault(name, f"stored as {parameter.dtype}")
            if name in self._frozen:
                parameter.requires_grad_(False)
        return Provenance(nodes=self._nodes, weights=self._weights, frozen=self._frozen)
