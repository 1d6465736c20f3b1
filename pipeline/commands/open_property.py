"""Opens the model of a property: checks it against the property, and compares it with its own runtime inside the boxes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch

from pipeline.certify.subdomain import inputs_of, outputs_of
from pipeline.commands.guarantee import require_guarantee
from pipeline.commands.subject import Subject
from pipeline.core.network import Network
from pipeline.errors import InputRejected
from pipeline.onnx import importer, parity
from pipeline.onnx.model_file import ModelFile
from pipeline.onnx.names import shown
from pipeline.rules import require, rule_for
from pipeline.settings import Settings
from pipeline.vnnlib import Property, nearest32

PARITY_BOXES = 4
"""In how many boxes the import is compared with ONNX Runtime."""


def open_for(file: ModelFile, settings: Settings, question: Property, seed: int = 0) -> Subject:
    """The model of a property. Raises InputRejected (3) where the property does not have its inputs and outputs.

    Operators without a rule are accepted here, since a property of them may still be falsified. ``seed`` draws the points in the
    boxes at which import and runtime are compared.
    """
    imported = importer.load(file, output=settings.output, level=settings.runtime_optimization)
    if not _has_batch_axis(imported.network):
        imported = importer.load(file, output=settings.output, level=settings.runtime_optimization, lift=True)
    network = imported.network
    for port in network.inputs:
        if port.dtype != torch.float32 or None in port.shape[1:]:
            raise InputRejected(
                f"a property is about float32 inputs of fixed size; input {shown(port.name)!r} is {port.dtype} of shape "
                f"{list(port.shape)}. Export the model so."
            )
    if not parity.batch_axis(network):
        shapes = ", ".join(str(list(port.shape)) for port in network.inputs)
        raise InputRejected(f"the first axis of every input must count samples; the shapes are {shapes}. Export it so.")
    with torch.no_grad():
        xs = [torch.zeros(1, *(d or 1 for d in port.shape[1:])) for port in network.inputs]
        ys = outputs_of(network, xs)
    if any(y.dim() == 0 or len(y) != 1 for y in ys):
        raise InputRejected(
            f"the first axis of every output must count samples; the shapes are {[list(y.shape) for y in ys]}. "
            "Name one that does with --output."
        )
    _require_declared(network, question, [tuple(x.shape) for x in xs], [tuple(y.shape) for y in ys])
    counts = {
        "inputs": (question.inputs, sum(x.numel() for x in xs)),
        "outputs": (question.outputs, sum(y.numel() for y in ys)),
    }
    for what, (declared, actual) in counts.items():
        if declared != actual:
            raise InputRejected(
                f"a property names every value of a model; it declares {declared} {what} and the model has {actual}. "
                "Is it the property of another model?"
            )
    session = imported.session_on(settings.provider, settings.runtime_optimization)
    points = _points(network, question, seed)
    parity.require(parity.compare(session, file.model, network, points))
    subject = Subject(file, imported, network, session, None, tuple(xs[0].shape[1:]), question.outputs)
    require_guarantee(subject, settings)
    return subject


def _has_batch_axis(network: Network) -> bool:
    """Whether the first axis of all inputs and outputs is a batch axis."""
    return parity.batch_axis(network) and all(port.shape[:1] in ((None,), (1,)) for port in network.outputs)


def _require_declared(
    network: Network, question: Property, inputs: list[tuple[int, ...]], outputs: list[tuple[int, ...]]
) -> None:
    """Raise InputRejected where the declared inputs and outputs are not the model's, by order, name and shape."""
    if not question.declared:
        return
    for kind, ports, shapes in (("X", network.inputs, inputs), ("Y", network.outputs, outputs)):
        declared = [one for one in question.declared if one.kind == kind]
        if len(declared) != len(ports):
            names = ", ".join(shown(port.name) for port in ports)
            raise InputRejected(
                f"a property declares every input and output of a model, in its order; it declares {len(declared)} of "
                f"{len(ports)}: {names}. A single one is named by --output."
            )
        for one, port, shape in zip(declared, ports, shapes, strict=True):
            if one.onnx_name not in (None, port.name) or one.shape not in (shape, shape[1:]):
                raise InputRejected(
                    f"{shown(one.name)} is declared as {shown(one.onnx_name or one.name)} of shape {list(one.shape)}; the model "
                    f"has {shown(port.name)} of shape {list(shape)} there. Declare them in the model's order."
                )


def require_rules(network: Network) -> None:
    """Raise InputRejected unless every operator has a rule, a final Softmax too, since the property is about its outputs."""
    require(network)
    plan = network.plan()
    cut, _ = plan.before_softmax()
    for step in plan.steps[len(cut.steps) :]:
        rule = rule_for(step.op)
        why = "it has no rule yet" if rule is None else rule.refuses(step.op, (True,))
        if why is not None:
            raise InputRejected(
                f"a property is about the model's own outputs, and {network.origin(step.name)}, with which it ends, cannot be "
                f"bounded: {why}. Certify the model up to it."
            )


def _points(network: Network, question: Property, seed: int) -> list[np.ndarray]:
    """Points for parity, an array for each input: in some boxes the centre and two corners, a random point and a random corner.

    The usual points of parity where the property has no box.
    """
    rng, flat = np.random.default_rng(seed), []
    for case in question.cases[:: max(1, len(question.cases) // PARITY_BOXES)][:PARITY_BOXES]:
        for share in (Fraction(0), Fraction(1, 2), Fraction(1)):
            flat.append([nearest32(a + share * (b - a)) for a, b in zip(case.lower, case.upper, strict=True)])
        for shares in (rng.random(len(case.lower)), rng.integers(0, 2, len(case.lower))):
            ends = zip(shares.tolist(), case.lower, case.upper, strict=True)
            flat.append([nearest32(a + Fraction(share) * (b - a)) for share, a, b in ends])
    if not flat:
        return parity.points(network)
    shapes = [tuple(d or 1 for d in port.shape[1:]) for port in network.inputs]
    return [x.numpy() for x in inputs_of(torch.tensor(flat, dtype=torch.float32), shapes)]
