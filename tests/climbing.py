"""What the tests of certification share: a small trained-like network, its data, and a run of the ladder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import torch
from torch import nn

from pipeline.certify import Certification, Strategy, Work, certify
from pipeline.core import ops
from pipeline.core.threat import BALLS
from pipeline.methods import DECIDERS, METHODS
from pipeline.results import Counterexamples
from pipeline.results.samples import COLUMNS
from tests import nets


@contextmanager
def without_new_methods() -> Iterator[None]:
    """Whatever is registered inside is forgotten behind."""
    methods, deciders = dict(METHODS), list(DECIDERS)
    try:
        yield
    finally:
        METHODS.clear()
        METHODS.update(methods)
        DECIDERS[:] = deciders


def deployed(network):
    """The network as a file would run: float32, numpy in and out."""

    def predict(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(x)).numpy()

    return predict


def images_of(network, n: int, seed: int = 0) -> np.ndarray:
    shape = [d for d in network.inputs[0].shape if d is not None]
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed)).numpy()


def labels_of(network, images: np.ndarray) -> np.ndarray:
    """The network's own labels, but for every seventh."""
    labels = deployed(network)(images).argmax(1)
    labels[::7] = (labels[::7] + 1) % 4
    return labels


def climb(network, eps, *, n: int = 40, norm: str = "linf", work: Work | None = None, **settings) -> Certification:
    """A certification of random samples."""
    images = images_of(network, n)
    balls = [BALLS[norm](Fraction(e)) for e in eps]
    how = Strategy(**settings)
    *_, last = certify(network, deployed(network), images, labels_of(network, images), balls, how, work=work)
    assert isinstance(last, Certification)
    return last


def same(a: Certification, b: Certification) -> bool:
    """Whether two certifications say the same, bit by bit, but for the seconds."""
    if a.details != b.details:
        return False
    one, two = a.samples, b.samples
    parts = [(one.counterexamples, two.counterexamples), *((getattr(one, c), getattr(two, c)) for c in COLUMNS)]
    return all(_bytes(x) == _bytes(y) for x, y in parts)


def _bytes(part: object) -> object:
    """What a column or a file holds, bit by bit."""
    return (
        part.content if isinstance(part, Counterexamples) else part.tobytes() if isinstance(part, np.ndarray) else part
    )


def lively(seed: int = 0):
    """An MLP whose labels differ from sample to sample, so that every verdict occurs at some eps."""
    d = nets.Drawing(seed)
    x = d(ops.Sub(), d.input(12), d.constant(torch.full((12,), 0.5)))
    for a, b in ((12, 24), (24, 24)):
        x = d(nn.ReLU(), d(nn.Linear(a, b), x))
    network = d.finish(d(nn.Linear(24, 5), x), shapes=((None, 5),))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(2)
                module.bias.zero_()
    return network
