"""What a file does to its input first, and whether the data that it gets can be meant: graph, values and flags side by side.

Doubt is told and tried, never acted on: a reading under which the file would be right far more often is offered as flags."""

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

LOOKED_AT = 64
"""Samples of a first look."""
SPREAD = (0.02, 100.0)
"""Between which a first layer's inputs are taken to deviate, all pixels together."""
ASIDE = 10
"""How many deviations from zero their mean may be."""
PIXELWISE = (ops.Add, ops.Sub, ops.Mul, ops.Div)
OWN = BatchNorm
"""Operators of one input that normalise by constants of their own."""
MOVING = (ops.Cast, ops.Transpose, ops.Reshape, ops.Unsqueeze, ops.RoundToGrid, ops.Clip, nn.Identity)


@dataclass(frozen=True)
class Entrance:
    """What lies between the input and the first layer: a sentence an operation, and the values behind the last of them."""

    told: tuple[str, ...]
    values: Callable[[Tensor], Tensor]


def entrance(network: Network) -> Entrance:
    """Arithmetic with constants between the input and the first layer, and a BatchNorm there."""
    plan = network.plan()
    constants = {index: getattr(owner, name) for index, owner, name in plan.constants}
    pixels, told, steps, end = set(plan.inputs), [], [], plan.inputs[0]
    for step in plan.steps:
        known = [constants[a] for a in step.args if a in constants]
        if not step.args or not set(step.args) <= pixels | set(constants):
            continue
        if not isinstance(step.op, (*PIXELWISE, *MOVING, OWN)):
            continue
        pixels.add(step.index)
        steps.append(step)
        if isinstance(step.op, OWN) or (isinstance(step.op, PIXELWISE) and known):
            what = f"with {_values(known[0])}" if known else "by statistics of its own"
            told.append(f"{network.origin(step.name)}: {type(step.op).__name__} {what}")
            end = step.index

    @torch.no_grad()
    def values(x: Tensor) -> Tensor:
        found = dict(constants) | {plan.inputs[0]: x}
        for step in steps:
            found[step.index] = step.op(*(found[a] for a in step.args))
        return found[end]

    return Entrance(tuple(told), values)


def _values(constant: Tensor) -> str:
    numbers = constant.flatten().tolist()
    return ", ".join(f"{value:g}" for value in numbers[:4]) + (f", … ({len(numbers)})" if len(numbers) > 4 else "")


OTHERWISE = (
    "If that should be more: does the deployment normalise pixels (--mean, --std), or take another range (--range) or order of "
    "channels?"
)


@dataclass(frozen=True)
class Doubt:
    """What a first look has against the inputs: how often the file is right, and what a report says of it too, if anything."""

    right: str
    grave: str

    @property
    def said(self) -> str:
        """All of it, before minutes are spent."""
        return f"{self.right}. {self.grave or OTHERWISE}"


def first_look(subject: Subject, fitted: Fitted) -> Doubt | None:
    """Hold what the graph does, the values of some samples and the flags against each other; None where they agree."""
    rows = np.unique(np.linspace(0, len(fitted) - 1, LOOKED_AT).astype(int))
    images, labels, n = fitted.images[rows], fitted.labels[rows], len(rows)
    strange = _out_of_scale(subject, images)
    right = _right(subject, subject.inputs(images), labels)
    chance = guessing(subject.classes, np.unique(fitted.labels, return_counts=True)[1].tolist())
    guesses = near_chance(right, n, chance)
    if strange is None and not guesses and 2 * right >= n:
        return None
    tried = {said: _right(subject, x, labels) for said, x in _readings(subject, fitted, images)}
    best = max(tried, key=lambda said: tried[said], default="")
    # By far, since it is chosen among several.
    better = best in tried and tried[best] > right and not near_chance(tried[best], n, max(chance, Fraction(right, n)))
    told = [f"{best} it is right on {tried[best]} of {n}: is that what the deployment does?"] if better else []
    told += [strange] if strange else []
    return Doubt(f"the file is right on {right} of {n} samples" + ", as guessing is" * guesses, " ".join(told))


def require_said_threshold(subject: Subject, settings: Settings, fitted: Fitted) -> None:
    """Raise UsageError where what is taken for a logit, because no Sigmoid ends the file, looks like a probability."""
    threshold = subject.threshold
    if threshold is None or threshold.probability or settings.threshold is not None:
        return
    given = subject.predict(fitted.images[:LOOKED_AT])[:, 1]
    if ((given >= 0) & (given <= 1)).all():
        raise UsageError(
            f"one number a sample is a probability where a Sigmoid ends the file, and a logit elsewhere; here none does, and "
            f"{len(given)} samples get {given.min():.3g} to {given.max():.3g}. Say --threshold 0.5 if these are probabilities, "
            "--threshold 0 if they are logits."
        )


def _out_of_scale(subject: Subject, images: np.ndarray) -> str | None:
    """What is wrong with the values that the first layer gets, where graph or flags make them of the pixels."""
    network, flagged = subject.imported.network, subject.normalise is not None
    if subject.joined is not None:
        return None
    graph = entrance(network)
    some = images if network.inputs[0].shape[0] is None else images[:1]
    if not (graph.told or flagged) or not some.std():
        return None
    mean, spread = _spread(graph.values(torch.from_numpy(subject.inputs(some))))
    if not _in_scale(mean, spread):
        who = " and ".join(["The graph's own operations"] * bool(graph.told) + ["--mean and --std"] * flagged)
        return (
            f"{who} turn pixels of {some.min():.3g} to {some.max():.3g} into values about {mean:.3g} that deviate by "
            f"{spread:.3g}, where layers are used to deviations near 1: something is divided or normalised twice, or not at all."
        )
    if graph.told and flagged and _in_scale(*_spread(graph.values(torch.from_numpy(some)))):
        return (
            "The graph itself normalises pixels of this range, and --mean and --std do so before it: is it done twice?"
        )
    return None


def _spread(x: Tensor) -> tuple[float, float]:
    return float(x.double().mean()), float(x.double().std())


def _in_scale(mean: float, spread: float) -> bool:
    return SPREAD[0] <= spread <= SPREAD[1] and abs(mean) <= ASIDE * spread


def _readings(subject: Subject, fitted: Fitted, images: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Other inputs that the same samples may be meant to become, and how flags say so."""
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


def _right(subject: Subject, inputs: np.ndarray, labels: np.ndarray) -> int:
    return int((subject.run(inputs).argmax(1) == labels).sum())
