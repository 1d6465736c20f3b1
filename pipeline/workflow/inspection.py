"""``pipeline inspect``: what is in a file, which of it bounds can cross, and what retraining would touch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.graph import importer
from pipeline.graph.parity import Parity
from pipeline.network import Network, Port
from pipeline.rules import Unsupported, unsupported
from pipeline.settings import settle
from pipeline.train.full_bn import Placement, placements
from pipeline.workflow.subject import metadata


@dataclass(frozen=True)
class NodeRow:
    """One operator of the network: what the file calls it, what it became, and why bounds cannot cross it, if so."""

    name: str
    operator: str
    became: str
    problem: str | None
    bn: Placement | None


@dataclass(frozen=True)
class WeightRow:
    """One parameter: the initialiser it came from, its size, and why it never trains, if so."""

    parameter: str
    initializer: str
    shape: tuple[int, ...]
    frozen: str | None


@dataclass(frozen=True)
class Inspection:
    """Everything that certify and retrain would find out before they start."""

    file: str
    opsets: dict[str, int]
    ir_version: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    nodes: tuple[NodeRow, ...]
    weights: tuple[WeightRow, ...]
    parity: Parity
    notes: tuple[str, ...]

    @property
    def supported(self) -> bool:
        """Whether bounds cross every node."""
        return all(row.problem is None for row in self.nodes)


def inspect(model: Path, flags: Mapping[str, Any]) -> Inspection:
    """Import a file and describe it. Raises InputRejected (3) only where it cannot be imported."""
    settings, _ = settle(model, flags, metadata(model))
    imported = importer.load(model, output=settings.output)
    network = imported.network
    return Inspection(
        file=model.name,
        opsets={o.domain or "ai.onnx": o.version for o in imported.model.opset_import},
        ir_version=imported.model.ir_version,
        inputs=network.inputs,
        outputs=network.outputs,
        nodes=_nodes(network),
        weights=_weights(network),
        parity=imported.parity,
        notes=imported.notes,
    )


def _nodes(network: Network) -> tuple[NodeRow, ...]:
    problems: dict[str, Unsupported] = {u.name: u for u in unsupported(network)}
    try:
        bn = {p.node: p for p in placements(network)}
    except (PipelineError, RuntimeError):  # a network that does not run on one blank sample still has its other columns
        bn = {}
    rows = []
    for step in network.plan().steps:
        origin = network.provenance.nodes.get(step.name)
        rows.append(
            NodeRow(
                name=(origin.name or origin.output) if origin else step.name,
                operator=origin.op_type if origin else type(step.op).__name__,
                became=str(step.op),
                problem=problems[step.name].reason if step.name in problems else None,
                bn=bn.get(step.name),
            )
        )
    return tuple(rows)


def _weights(network: Network) -> tuple[WeightRow, ...]:
    tensors = dict(network.graph.named_parameters()) | dict(network.graph.named_buffers())
    frozen = network.provenance.frozen
    return tuple(
        WeightRow(name, weight.initializer, tuple(tensors[name].shape), frozen.get(name))
        for name, weight in network.provenance.weights.items()
        if name in tensors
    )
