"""Which initialiser each parameter comes from, and which parameters must not train.

A parameter trains if its value is an initialiser (or a Constant node) of the file up to steps that can be undone, and nothing
else in the graph reads that initialiser in another form. Any other is frozen, with the reason.
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
    """Collects the provenance of nodes and parameters while a graph is lowered."""

    def __init__(self, sources: Mapping[str, ConstantSource]):
        self._sources = sources
        self._nodes: dict[str, Origin] = {}
        self._weights: dict[str, Weight] = {}
        self._frozen: dict[str, str] = {}
        self._forms: dict[str, set[str]] = defaultdict(set)

    def node(self, name: str, origin: Origin) -> None:
        self._nodes[name] = origin

    def parameter(self, name: str, constant: str, op_type: str) -> None:
        """Record a parameter or BN statistic whose value is a constant of the normalised graph."""
        source = self._sources[constant]
        self._record_reads(constant)
        if source.initializer is None:
            self._frozen[name] = source.reason
            return
        self._weights[name] = Weight(source.initializer, source.steps)
        # A statistic may share its initialiser with a weight, where an exporter merged equal tensors: the weight must not train.
        role = " as a statistic" if name.rpartition(".")[2] in ("running_mean", "running_var") else ""
        self._forms[source.initializer].add(constant + role)
        if op_type not in TABLE or not TABLE[op_type].trains:
            self._frozen[name] = f"a constant of {op_type}"

    def constant(self, name: str, constant: str, reason: str) -> None:
        """Record a constant operand, which never trains."""
        source = self._sources[constant]
        self._record_reads(constant)
        self._frozen[name] = reason if source.initializer is not None else f"{reason}, {source.reason}"
        if source.initializer is not None:
            # Another form: a weight of the same initialiser must not train.
            self._forms[source.initializer].add(f"{constant} as it stands")

    def _record_reads(self, constant: str) -> None:
        """Record the initialisers that a folded constant was computed from: they must not train."""
        for initializer in self._sources[constant].reads:
            self._forms[initializer].add(constant)

    def literal(self, name: str) -> None:
        """Record a constant that the file does not have."""
        self._frozen[name] = "written by the import"

    def finish(self, graph: nn.Module) -> Provenance:
        """The provenance of a graph, whose frozen parameters stop requiring gradients."""
        for name, weight in self._weights.items():
            if len(self._forms[weight.initializer]) > 1:
                self._frozen.setdefault(name, "its initialiser is read in several forms")
        for name in self._weights:
            if not self._nodes.get(name.rpartition(".")[0], Origin("", "", "at the root")).output:
                self._frozen.setdefault(name, "part of a node that the file does not have by itself")
        reasons = {
            id(p): self._frozen[n] for n, p in graph.named_parameters(remove_duplicate=False) if n in self._frozen
        }
        for name, parameter in graph.named_parameters(remove_duplicate=False):
            if name not in self._weights:
                self._frozen.setdefault(name, "not in the file")
            if id(parameter) in reasons:
                self._frozen.setdefault(name, reasons[id(parameter)])
            if not parameter.dtype.is_floating_point or parameter.dtype in (torch.float16, torch.bfloat16):
                self._frozen.setdefault(name, f"stored as {parameter.dtype}")
            if name in self._frozen:
                parameter.requires_grad_(False)
        return Provenance(nodes=self._nodes, weights=self._weights, frozen=self._frozen)
