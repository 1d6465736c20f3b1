"""``pipeline inspect``: the operators and weights of a file, which of them can be bounded and retrained, and the costs.

Costs are computed from the graph, not measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.bounds.cost import Cost, cost_of
from pipeline.certify.engine import CHUNK_BYTES
from pipeline.certify.prover import IBP_BATCH
from pipeline.commands.guarantee import kernels_of, require_guarantee
from pipeline.commands.input_check import input_operations
from pipeline.commands.subject import Subject, opened, subject_of
from pipeline.core.network import Network, Port
from pipeline.errors import EnvironmentFailure, NoClassifier, PipelineError, UsageError
from pipeline.onnx import freeze, importer
from pipeline.onnx.model_file import ModelFile
from pipeline.onnx.names import shown
from pipeline.onnx.parity import MeasuredParity
from pipeline.rules import UnsupportedNode, unsupported
from pipeline.settings import Settings, settle
from pipeline.system.atomic import replace_atomically, require_replaceable
from pipeline.train.full_bn import Placement, placements


@dataclass(frozen=True)
class NodeRow:
    """One operator: its name in the file, the module that it became, and why it cannot be bounded, or None."""

    name: str
    operator: str
    became: str
    problem: str | None
    bn: Placement | None


@dataclass(frozen=True)
class WeightRow:
    """One parameter: its initialiser in the file, its shape, and why it is never trained, or None."""

    parameter: str
    initializer: str
    shape: tuple[int, ...]
    frozen: str | None


@dataclass(frozen=True)
class Inspection:
    """Everything that certify and retrain find out about a file before they start."""

    file: str
    opsets: dict[str, int]
    ir_version: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    nodes: tuple[NodeRow, ...]
    weights: tuple[WeightRow, ...]
    parity: MeasuredParity
    notes: tuple[str, ...]
    preprocessing: tuple[str, ...]
    """Sentences on the operations before the first layer, and on the preprocessing that the metadata states."""
    cost: Cost | None
    """None where the graph does not run on one sample of zeros."""
    mode: str
    refused: str | None
    """Why ``certify`` refuses the file in this mode of arithmetic on this machine, or None."""
    classifier: bool = True
    """Whether the output of a sample is one number a class, or one number; other files can have properties certified."""
    fixed: tuple[str, ...] = ()
    """The weights that were fixed in the copy, if one was written."""

    @property
    def supported(self) -> bool:
        """Whether every operator can be bounded."""
        return all(row.problem is None for row in self.nodes)


def inspect(model: Path, flags: Mapping[str, Any], *, freeze_to: Path | None = None) -> Inspection:
    """Import a file and describe it; to ``freeze_to``, write a copy in which no caller can override weights.

    Raises InputRejected (3) only where the file cannot be imported, UsageError (2) where the copy would replace the file,
    EnvironmentFailure (74) where the copy cannot be written.
    """
    file = opened(model)
    settings, _ = settle(file.path, flags, file.metadata)
    imported = importer.load_with_batch(file, output=settings.output, level=settings.runtime_optimization)
    network = imported.network
    subject, refusal = _subject(file, imported, settings)
    return Inspection(
        file=file.path.name,
        opsets={o.domain or "ai.onnx": o.version for o in file.model.opset_import},
        ir_version=file.model.ir_version,
        inputs=network.inputs,
        outputs=network.outputs,
        nodes=_nodes(network),
        weights=_weights(network),
        parity=imported.parity,
        notes=(subject.imported if subject else imported).notes,
        preprocessing=_preprocessing(network, file.metadata),
        cost=_cost(network),
        mode=settings.arithmetic,
        refused=None if refusal is None else str(refusal),
        classifier=not isinstance(refusal, NoClassifier),
        fixed=() if freeze_to is None else _write_frozen(file, freeze_to),
    )


def _subject(
    file: ModelFile, imported: importer.Imported, settings: Settings
) -> tuple[Subject | None, PipelineError | None]:
    """The subject that ``certify`` would make of the file, and the error that it would raise before its first bound."""
    subject = None
    try:
        subject = subject_of(file, imported, settings)
        kernels_of(subject, settings)
        require_guarantee(subject, settings)
    except PipelineError as error:
        return subject, error
    return subject, None


def _write_frozen(file: ModelFile, out: Path) -> tuple[str, ...]:
    """Write the file with its overridable weights fixed; returns their names."""
    if file.is_at(out):
        raise UsageError(
            f"--freeze must name another file than the model; received the model itself, {shown(str(out))}. Name another."
        )
    require_replaceable(out)
    content, names = freeze.freeze_inputs(file)
    try:
        replace_atomically(out, content)
    except OSError as error:
        raise EnvironmentFailure(f"{shown(str(out))} cannot be written: {error.strerror or error}.") from None
    return names


def _preprocessing(network: Network, metadata: Mapping[str, str]) -> tuple[str, ...]:
    sentences = [*input_operations(network).sentences]
    if "pipeline.preprocessing" in metadata:
        sentences.append(f"outside the file, by its metadata: {shown(metadata['pipeline.preprocessing'], 200)}")
    return tuple(sentences)


def _cost(network: Network) -> Cost | None:
    try:
        return cost_of(network, batch=IBP_BATCH, memory=CHUNK_BYTES)
    except (PipelineError, RuntimeError):
        return None


def _nodes(network: Network) -> tuple[NodeRow, ...]:
    problems: dict[str, UnsupportedNode] = {u.name: u for u in unsupported(network)}
    try:
        bn = {p.node: p for p in placements(network)}
    except (
        PipelineError,
        RuntimeError,
    ):  # a network that does not run on one sample of zeros still has the other columns
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
