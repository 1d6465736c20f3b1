"""What is certified: a delivered file, the network that was proved equal to it, and data in the shape of its input."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from pipeline.certify.batch_check import PredictBatches
from pipeline.certify.engine import prediction_batch_size
from pipeline.commands.several_inputs import joined_of
from pipeline.core.binary import Threshold
from pipeline.core.joined import Joined
from pipeline.core.network import Network, Port
from pipeline.core.preprocess import Normalise
from pipeline.data import channel_axis
from pipeline.distributed.group import ALONE, Crew
from pipeline.errors import EnvironmentFailure, InputRejected, NoClassifier, UsageError
from pipeline.limits import hold
from pipeline.onnx import freeze, importer, model_file, parity, runtime
from pipeline.onnx.executed import Executed, optimised
from pipeline.onnx.model_file import ModelFile
from pipeline.onnx.names import shown
from pipeline.rules import require
from pipeline.settings import Settings, limits_beside


@dataclass(frozen=True, eq=False)
class Subject:
    """A file, and the same function as a network of pixels."""

    file: ModelFile
    imported: importer.Imported
    network: Network
    """Of pixels and classes: a normalisation outside the graph comes first, a threshold of one number last."""
    session: runtime.Session
    normalise: Normalise | None
    sample_shape: tuple[int, ...]
    classes: int
    threshold: Threshold | None = None
    """Where the file gives one number a sample."""
    memory: int | None = None
    """The budget in bytes, where one was asked for."""
    joined: Joined | None = None
    """Where the file has several inputs, of which the network takes a row."""

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What any statement about this file takes for granted."""
        said = freeze.assumption(self.file.model)
        return () if said is None else (said,)

    @cached_property
    def executed(self) -> Executed:
        """The graph that ONNX Runtime executes of this file, by a session like ``session``."""
        return optimised(self.file, provider=self.session.provider, level=self.session.level)

    @property
    def predict_together(self) -> PredictBatches | None:
        """``predict`` for so many samples together; None where the file fixes its batch."""
        return None if self.session.fixed_batch is not None else lambda x, count: self.predict(x, chunk=count)

    @cached_property
    def at_once(self) -> int:
        """Samples for one run of the file, as memory has room for."""
        return prediction_batch_size(self.network, torch.zeros(1, *self.sample_shape), self.memory)

    def predict(self, x: np.ndarray, *, chunk: int | None = None) -> np.ndarray:
        """The delivered bytes on float32 pixels: logits (n, classes), by ONNX Runtime, ``chunk`` samples together."""
        return self.run(self.inputs(x), chunk=chunk)

    def inputs(self, pixels: np.ndarray) -> np.ndarray:
        """What the file gets of float32 pixels."""
        return self.normalise(pixels) if self.normalise else pixels

    def run(self, inputs: np.ndarray, *, chunk: int | None = None) -> np.ndarray:
        """The delivered bytes on their own inputs: logits (n, classes)."""
        name = self.network.outputs[0].name
        given = self._of_file(inputs)
        found = self.session.batched(*given, output=name, chunk=chunk or self.at_once).reshape(len(inputs), -1)
        return self.threshold.columns(found[:, 0]) if self.threshold else found

    def parity_on(self, images: np.ndarray, drawn: np.ndarray) -> parity.MeasuredParity:
        """Parity at real samples beside the usual points, and node by node at others. Raises InputRejected (3) without it."""
        real, more = (self._of_file(self.inputs(x)) for x in (images, drawn))
        usual = parity.points(self.imported.network)
        xs = [np.concatenate([x[:64], y]) for x, y in zip(real, usual, strict=True)]
        measured = parity.compare(self.session, self.file.model, self.imported.network, xs, more)
        parity.require(measured)
        return measured

    def _of_file(self, inputs: np.ndarray) -> list[np.ndarray]:
        return [inputs] if self.joined is None else self.joined.inputs(inputs)

    def agrees_at(self, images: np.ndarray) -> None:
        """Every node at some points more. Raises InputRejected (3) where one differs."""
        xs = self._of_file(self.inputs(images))
        seen = parity.by_node(self.session, self.file.model, self.imported.network, xs)
        if seen.difference is not None:
            parity.refuse(seen.difference.describe(self.imported.network))


def opened(path: Path, crew: Crew = ALONE, sha256: str | None = None) -> ModelFile:
    """A model file, read once for the whole run; from here on the limits of ``pipeline.toml`` hold.

    Raises InputRejected (3) for a file that is unsafe or no ONNX model, EnvironmentFailure (74) where the processes of a run
    read different bytes, or others than those of the digest that was asked for.
    """
    hold(limits_beside(path))
    file = model_file.read(path)
    if len({*crew.share(file.digests.sha256), sha256 or file.digests.sha256}) > 1:
        raise EnvironmentFailure(
            f"A run works on one model; {shown(str(path))} was changed meanwhile, or differs from machine to machine. "
            "Start again when it is the same everywhere."
        )
    return file


def open_model(file: ModelFile, settings: Settings) -> Subject:
    """Import a classifier with one image input and one logits output, every operator supported.

    Raises InputRejected (3) for a file or an operator that cannot be certified, UsageError (2) where a choice is missing.
    """
    imported = importer.load_with_batch(file, output=settings.output, level=settings.runtime_optimization)
    return subject_of(file, imported, settings)


def subject_of(file: ModelFile, imported: importer.Imported, settings: Settings) -> Subject:
    """The same of a file that is imported already."""
    network = imported.network
    if len(network.outputs) != 1:
        names = ", ".join(shown(p.name) for p in network.outputs)
        raise UsageError(
            f"a classifier has one output of logits; this file has {len(network.outputs)}: name it with --output {names}."
        )
    if not parity.batch_axis(network):
        port = next(p for p in network.inputs if not parity.counts_samples(p))
        raise InputRejected(
            f"the first axis of the input must count samples; input {shown(port.name)!r} has shape {list(port.shape)}. "
            "Export the model with a batch axis."
        )
    joined = joined_of(network, settings)
    if joined is not None:
        network = joined.before(network)
    (port,) = network.inputs
    shape = tuple(port.shape[1:])
    if any(d is None for d in shape) or not shape:
        raise InputRejected(
            f"the size of one sample must be fixed; input {shown(port.name)!r} has shape {list(port.shape)}. "
            "Export the model at the size it is used with."
        )
    sample = tuple(int(d) for d in shape if d is not None)
    if port.dtype != torch.float32:
        raise InputRejected(f"the input must be float32 to be perturbed; input {shown(port.name)!r} is {port.dtype}.")
    require(network)
    with torch.no_grad():
        logits = network(torch.zeros(1, *sample))
    assert isinstance(logits, torch.Tensor)
    _require_classes(network.outputs[0], logits.shape)
    threshold = _threshold(network, logits, settings)
    if threshold is not None:
        note = f"one {threshold.kind} a sample: label 1 where it is above {threshold.value:g}, else 0 (--threshold says another)"
        imported = replace(imported, notes=(*imported.notes, note))
        network = threshold.behind(network)
    session = imported.session_on(settings.provider, settings.runtime_optimization)
    # A file that declares any batch and runs at a batch of one alone is only ever run so.
    lifted = len(session.shapes[0]) < len(imported.network.inputs[0].shape)
    session.fixed_batch = 1 if lifted else session.fixed_batch or port.shape[0]
    normalise = None
    if settings.mean is not None and settings.std is not None:
        axis = channel_axis(sample, max(len(settings.mean), len(settings.std)), settings.layout)
        if axis and settings.layout is None:
            note = (
                f"--mean and --std stand along the last axis of the input {list(sample)}: channels last (--layout NHWC)"
            )
            imported = replace(imported, notes=(*imported.notes, note))
        normalise = Normalise.of(settings.mean, settings.std, axis)
    pixels = normalise.before(network) if normalise else network
    classes = 2 if threshold else logits.numel()
    memory = settings.memory_budget
    return Subject(file, imported, pixels, session, normalise, sample, classes, threshold, memory, joined)


def _require_classes(port: Port, shape: torch.Size) -> None:
    """Raise NoClassifier where the output of one sample is not one vector."""
    if len(shape) < 3 or sum(d > 1 for d in shape[1:]) < 2:
        return
    written = " x ".join(["n", *map(str, shape[1:])])
    raise NoClassifier(
        f"a classifier gives each sample one number a class, n x C; output {shown(port.name)!r} is {written}: {shape[1]} numbers "
        f"at each of {math.prod(shape[2:])} places, as a segmenter or a detector gives them. Reduce it to n x C in the file, "
        "name another output with --output, or ask for a property of it by `certify --property`."
    )


def _threshold(network: Network, logits: torch.Tensor, settings: Settings) -> Threshold | None:
    """Of one number a sample; None of more. Raises UsageError for a threshold that nothing is compared with."""
    if logits.numel() == 1:
        found = Threshold.of(network, settings.threshold)
        if found.probability and found.value != 0.5 and settings.arithmetic == "real":
            raise UsageError(
                f"the logit at which a probability is {found.value:g} is no number that a computer holds, and `--arithmetic "
                "real` asks for it exactly: take --threshold 0.5, or float32-any-order."
            )
        return found
    if settings.threshold is not None:
        raise UsageError(
            f"--threshold is of a file that gives one number a sample; this one gives {logits.numel()}, and the largest is the "
            "label: leave it out."
        )
    return None


def device_of(settings: Settings) -> str:
    """``auto`` is the GPU where there is one. Raises EnvironmentFailure (74) for a GPU that is not there."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentFailure("--device cuda was asked for, and torch sees no CUDA device; use --device cpu.")
    return "cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu"
