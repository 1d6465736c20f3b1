"""The subject of a run: a delivered file, with a network that computes the same and a session that runs the file."""

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
from pipeline.distributed.group import SINGLE, ProcessGroup
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
    """A file, and a network from pixels to logits that computes the same function."""

    file: ModelFile
    imported: importer.Imported
    network: Network
    """From pixels to logits: with the normalisation outside the graph, if any, and the threshold of a binary classifier."""
    session: runtime.Session
    normalise: Normalise | None
    sample_shape: tuple[int, ...]
    classes: int
    threshold: Threshold | None = None
    """Of a file that outputs one number a sample, else None."""
    memory: int | None = None
    """``--memory-budget`` in bytes, if given."""
    joined: Joined | None = None
    """How the network's input is divided into those of the file, where the file has several; else None."""

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Assumptions on which every statement about this file rests, as sentences."""
        assumption = freeze.assumption(self.file.model)
        return () if assumption is None else (assumption,)

    @cached_property
    def executed(self) -> Executed:
        """The graph that ONNX Runtime executes for this file, with the provider and level of ``session``."""
        return optimised(self.file, provider=self.session.provider, level=self.session.level)

    @property
    def predict_batches(self) -> PredictBatches | None:
        """``predict`` in batches of a given size; None where the file fixes its batch."""
        return None if self.session.fixed_batch is not None else lambda x, count: self.predict(x, chunk=count)

    @cached_property
    def batch_size(self) -> int:
        """How many samples to give the file in one run, by memory."""
        return prediction_batch_size(self.network, torch.zeros(1, *self.sample_shape), self.memory)

    def predict(self, x: np.ndarray, *, chunk: int | None = None) -> np.ndarray:
        """Run the delivered file on float32 pixels by ONNX Runtime, ``chunk`` samples at once: logits (n, classes)."""
        return self.run(self.inputs(x), chunk=chunk)

    def inputs(self, pixels: np.ndarray) -> np.ndarray:
        """The file's inputs for float32 pixels: normalised, where that happens outside the file."""
        return self.normalise(pixels) if self.normalise else pixels

    def run(self, inputs: np.ndarray, *, chunk: int | None = None) -> np.ndarray:
        """Run the delivered file on its own inputs: logits (n, classes)."""
        name = self.network.outputs[0].name
        xs = self._split(inputs)
        outputs = self.session.batched(*xs, output=name, chunk=chunk or self.batch_size).reshape(len(inputs), -1)
        return self.threshold.columns(outputs[:, 0]) if self.threshold else outputs

    def parity_at(self, images: np.ndarray, points: np.ndarray) -> parity.MeasuredParity:
        """Parity of outputs at samples and the usual points, node by node at ``points``. Raises InputRejected (3) if it fails."""
        real, more = (self._split(self.inputs(x)) for x in (images, points))
        usual = parity.points(self.imported.network)
        xs = [np.concatenate([x[:64], y]) for x, y in zip(real, usual, strict=True)]
        measured = parity.compare(self.session, self.file.model, self.imported.network, xs, more)
        parity.require(measured)
        return measured

    def _split(self, inputs: np.ndarray) -> list[np.ndarray]:
        """An array for each input of the file."""
        return [inputs] if self.joined is None else self.joined.inputs(inputs)

    def require_parity_at(self, images: np.ndarray) -> None:
        """Raise InputRejected (3) where a node of the file differs from the network at these points."""
        xs = self._split(self.inputs(images))
        compared = parity.by_node(self.session, self.file.model, self.imported.network, xs)
        if compared.difference is not None:
            parity.refuse(compared.difference.describe(self.imported.network))


def opened(path: Path, group: ProcessGroup = SINGLE, sha256: str | None = None) -> ModelFile:
    """Read a model file, once for the whole run, and put the limits of ``pipeline.toml`` into effect.

    Raises InputRejected (3) for a file that is unsafe or no ONNX model, EnvironmentFailure (74) where the processes of a run
    read different bytes, or the digest is not ``sha256``.
    """
    hold(limits_beside(path))
    file = model_file.read(path)
    if len({*group.all_gather(file.digests.sha256), sha256 or file.digests.sha256}) > 1:
        raise EnvironmentFailure(
            f"A run works on one model; {shown(str(path))} was changed meanwhile, or differs from machine to machine. "
            "Start again when it is the same everywhere."
        )
    return file


def open_model(file: ModelFile, settings: Settings) -> Subject:
    """Import a classifier of which every operator can be bounded.

    Raises InputRejected (3) for a file or an operator that cannot be certified, UsageError (2) where a setting is missing.
    """
    imported = importer.load_with_batch(file, output=settings.output, level=settings.runtime_optimization)
    return subject_of(file, imported, settings)


def subject_of(file: ModelFile, imported: importer.Imported, settings: Settings) -> Subject:
    """``open_model`` for a file that is already imported."""
    network = imported.network
    if len(network.outputs) != 1:
        names = ", ".join(shown(p.name) for p in network.outputs)
        raise UsageError(
            f"a classifier has one output of logits; this file has {len(network.outputs)}: name it with --output {names}."
        )
    if not parity.batch_axis(network):
        if imported.no_batch is not None:
            raise imported.no_batch
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
    # A file that declares a free batch axis, but only runs with one sample, is always run with one sample.
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
    """Raise NoClassifier where the output of one sample is not a vector."""
    if len(shape) < 3 or sum(d > 1 for d in shape[1:]) < 2:
        return
    size = " x ".join(["n", *map(str, shape[1:])])
    raise NoClassifier(
        f"a classifier gives each sample one number a class, n x C; output {shown(port.name)!r} is {size}: {shape[1]} numbers "
        f"at each of {math.prod(shape[2:])} places, as a segmenter or a detector gives them. Reduce it to n x C in the file, "
        "name another output with --output, or ask for a property of it by `certify --property`."
    )


def _threshold(network: Network, logits: torch.Tensor, settings: Settings) -> Threshold | None:
    """The threshold of a file that outputs one number a sample, else None. Raises UsageError for one that does not apply."""
    if logits.numel() == 1:
        threshold = Threshold.of(network, settings.threshold)
        if threshold.probability and threshold.value != 0.5 and settings.arithmetic == "real":
            raise UsageError(
                f"`--arithmetic real` needs the exact logit of the threshold; that of the probability {threshold.value:g} is no "
                "floating-point number. Take --threshold 0.5, or float32-any-order."
            )
        return threshold
    if settings.threshold is not None:
        raise UsageError(
            f"--threshold is for files that output one number a sample; this one outputs {logits.numel()}, the largest of which "
            "is the label. Leave it out."
        )
    return None


def device_of(settings: Settings) -> str:
    """``cuda`` or ``cpu``; ``auto`` is the GPU if there is one. Raises EnvironmentFailure (74) for a missing GPU."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentFailure("--device cuda was asked for, and torch sees no CUDA device; use --device cpu.")
    return "cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu"
