"""Checks whether the preprocessing of the data is the one that the file expects: graph, values and flags are compared.

A doubt is only reported: where the file classifies far better under another preprocessing, the flags for that are suggested."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.commands.subject import Subject
from pipeline.core import ops
from pipeline.core.network import Network
from pipeline.core.ops import BatchNorm
from pipeline.core.preprocess import Normalise
from pipeline.data import Fitted, channel_axis
from pipeline.data.usual import USUAL, flags
from pipeline.errors import UsageError
from pipeline.results.chance import guessing, near_chance
from pipeline.settings import Settings

SAMPLES = 64
"""How many samples are checked."""
DEVIATIONS = (0.02, 100.0)
"""The plausible range of the standard deviation of a first layer's inputs, over all pixels."""
MOST_SHIFT = 10
"""How many standard deviations their mean may be away from zero."""
ARITHMETIC = (ops.Add, ops.Sub, ops.Mul, ops.Div)
LAYOUT = (ops.Cast, ops.Transpose, ops.Reshape, ops.Unsqueeze, ops.RoundToGrid, ops.Clip, nn.Identity)
"""Operators that rearrange or round pixels, but do not normalise them."""


@dataclass(frozen=True)
class InputOperations:
    """What the graph computes between its input and the first layer."""

    sentences: tuple[str, ...]
    """One for each operation."""
    values: Callable[[Tensor], Tensor]
    """From a batch of inputs to the values behind the last operation."""


def input_operations(network: Network) -> InputOperations:
    """Arithmetic with constants, and BatchNorm, between the input and the first layer."""
    plan = network.plan()
    constants = {index: getattr(owner, name) for index, owner, name in plan.constants}
    pixels, sentences, steps, end = set(plan.inputs), [], [], plan.inputs[0]
    for step in plan.steps:
        operands = [constants[a] for a in step.args if a in constants]
        if not step.args or not set(step.args) <= pixels | set(constants):
            continue
        if not isinstance(step.op, (*ARITHMETIC, *LAYOUT, BatchNorm)):
            continue
        pixels.add(step.index)
        steps.append(step)
        if isinstance(step.op, BatchNorm) or (isinstance(step.op, ARITHMETIC) and operands):
            what = f"with {_listed(operands[0])}" if operands else "by statistics of its own"
            sentences.append(f"{network.origin(step.name)}: {type(step.op).__name__} {what}")
            end = step.index

    @torch.no_grad()
    def values(x: Tensor) -> Tensor:
        computed = dict(constants) | {plan.inputs[0]: x}
        for step in steps:
            computed[step.index] = step.op(*(computed[a] for a in step.args))
        return computed[end]

    return InputOperations(tuple(sentences), values)


def _listed(constant: Tensor) -> str:
    numbers = constant.flatten().tolist()
    return ", ".join(f"{value:g}" for value in numbers[:4]) + (f", … ({len(numbers)})" if len(numbers) > 4 else "")


HINT = (
    "If that should be more: does the deployment normalise pixels (--mean, --std), or take another range (--range) or order of "
    "channels?"
)


@dataclass(frozen=True)
class InputDoubt:
    """Why the preprocessing may be wrong: a sentence on the accuracy, and a warning for the report, or nothing."""

    accuracy: str
    warning: str

    @property
    def message(self) -> str:
        """Both, for the user, who may stop the run."""
        return f"{self.accuracy}. {self.warning or HINT}"


def check_inputs(subject: Subject, fitted: Fitted) -> InputDoubt | None:
    """Compare the graph's input operations, the values of some samples and the flags; None where nothing looks wrong."""
    rows = np.unique(np.linspace(0, len(fitted) - 1, SAMPLES).astype(int))
    images, labels, n = fitted.images[rows], fitted.labels[rows], len(rows)
    out_of_scale = _out_of_scale(subject, images)
    right = _correct(subject, subject.inputs(images), labels)
    chance = guessing(subject.classes, np.unique(fitted.labels, return_counts=True)[1].tolist())
    guesses = near_chance(right, n, chance)
    if out_of_scale is None and not guesses and 2 * right >= n:
        return None
    by_flags = {flags: _correct(subject, x, labels) for flags, x in _alternatives(subject, fitted, images)}
    best = max(by_flags, key=lambda flags: by_flags[flags], default="")
    # Better by far, since it is the best of several.
    better = (
        best in by_flags
        and by_flags[best] > right
        and not near_chance(by_flags[best], n, max(chance, Fraction(right, n)))
    )
    warnings = [f"{best} it is right on {by_flags[best]} of {n}: is that what the deployment does?"] if better else []
    warnings += [out_of_scale] if out_of_scale else []
    return InputDoubt(f"the file is right on {right} of {n} samples" + ", as guessing is" * guesses, " ".join(warnings))


def require_threshold(subject: Subject, settings: Settings, fitted: Fitted) -> None:
    """Raise UsageError where the output is taken for a logit, since no Sigmoid ends the file, but looks like a probability."""
    threshold = subject.threshold
    if threshold is None or threshold.probability or settings.threshold is not None:
        return
    outputs = subject.predict(fitted.images[:SAMPLES])[:, 1]
    if ((outputs >= 0) & (outputs <= 1)).all():
        raise UsageError(
            f"one number a sample is a probability where a Sigmoid ends the file, and a logit elsewhere; here none does, and "
            f"{len(outputs)} samples get {outputs.min():.3g} to {outputs.max():.3g}. Say --threshold 0.5 if these are "
            "probabilities, --threshold 0 if they are logits."
        )


def _out_of_scale(subject: Subject, images: np.ndarray) -> str | None:
    """A sentence where the graph or the flags normalise pixels and the first layer gets implausible values, else None."""
    network, by_flags = subject.imported.network, subject.normalise is not None
    if subject.joined is not None:
        return None
    graph = input_operations(network)
    some = images if network.inputs[0].shape[0] is None else images[:1]
    if not (graph.sentences or by_flags) or not some.std():
        return None
    mean, deviation = _statistics(graph.values(torch.from_numpy(subject.inputs(some))))
    if not _in_scale(mean, deviation):
        who = " and ".join(["The graph's own operations"] * bool(graph.sentences) + ["--mean and --std"] * by_flags)
        return (
            f"{who} turn pixels of {some.min():.3g} to {some.max():.3g} into values about {mean:.3g} that deviate by "
            f"{deviation:.3g}, where layers are used to deviations near 1: something is divided or normalised twice, or not at "
            "all."
        )
    if graph.sentences and by_flags and _in_scale(*_statistics(graph.values(torch.from_numpy(some)))):
        return (
            "The graph itself normalises pixels of this range, and --mean and --std do so before it: is it done twice?"
        )
    return None


def _statistics(x: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of all entries."""
    return float(x.double().mean()), float(x.double().std())


def _in_scale(mean: float, deviation: float) -> bool:
    return DEVIATIONS[0] <= deviation <= DEVIATIONS[1] and abs(mean) <= MOST_SHIFT * deviation


def _alternatives(subject: Subject, fitted: Fitted, images: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The same samples under other preprocessing, with the flags that give it."""
    scale, stored = np.float32(255), fitted.images
    if subject.normalise is not None:
        yield "Without --mean and --std", images
    if fitted.value_range == (0.0, 1.0):
        pixels, also = images, ""
        whole = "--range 0,255" if stored.divisor != 1 else f"--mean 0 --std {1 / 255:.9g}"
        yield f"With `{whole}`", images * scale
    elif fitted.value_range == (0.0, 255.0) and stored.stored.dtype == np.uint8:
        pixels, also = images / scale, " and without --range"
        yield "Without --range", pixels
    else:
        return
    for usual in USUAL.values():
        axis = channel_axis(subject.sample_shape, len(usual[0]), None if fitted.layout == "flat" else fitted.layout)
        if len(usual[0]) in (1, subject.sample_shape[axis]):
            yield f"With `{flags(usual)}`{also}", Normalise(*usual, axis)(pixels)


def _correct(subject: Subject, inputs: np.ndarray, labels: np.ndarray) -> int:
    """How many samples the file classifies correctly."""
    return int((subject.run(inputs).argmax(1) == labels).sum())
