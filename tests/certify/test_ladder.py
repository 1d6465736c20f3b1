"""Verdicts obey their laws, with the attack on and off, and a proof that something refutes is an alarm."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from pipeline.certify import PGD, Certification, Strategy, attack, certify
from pipeline.core.threat import LinfBall
from pipeline.errors import Contradiction, Incomplete
from pipeline.results import Samples, Verdict
from tests import nets

EPS = ("1/1000", "8/255", "0.1", "1")


def deployed(network):
    """The network as a file would run: float32, numpy in and out."""

    def predict(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(x)).numpy()

    return predict


def run(network, n=40, seed=0, predict=None, settings=None, eps=EPS, labels=None) -> Samples:
    shape = [d for d in network.inputs[0].shape if d is not None]
    images = torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed)).numpy()
    predict = predict or deployed(network)
    if labels is None:
        labels = predict(images).argmax(1)
        labels[::7] = (labels[::7] + 1) % 4
    *_, last = certify(network, predict, images, labels, [LinfBall(Fraction(e)) for e in eps], settings or Strategy())
    assert isinstance(last, Certification)
    return last.samples


@pytest.mark.parametrize("make", [nets.mlp, nets.conv_net, nets.residual_concat_net])
def test_certified_survives_and_is_correct_and_falls_with_eps(make):
    samples = run(make(seed=1), n=21, settings=Strategy(domains=4))
    wrong = np.arange(21) % 7 == 0
    certified, survived = samples.verdict == Verdict.CERTIFIED, samples.survived
    assert (samples.verdict[:, wrong] == Verdict.MISCLASSIFIED).all()
    assert (certified <= survived).all()
    assert (survived <= ~wrong).all()
    assert (certified[1:] <= certified[:-1]).all()
    assert (survived[1:] <= survived[:-1]).all()
    assert certified[0].any(), "a test in which nothing is certified shows nothing"
    assert (samples.verdict[-1] == Verdict.FALSIFIED).any(), "nor one in which nothing is falsified"


def test_without_an_attack_the_same_samples_are_certified_and_none_is_falsified():
    network = nets.conv_net(seed=4)
    attacked = run(network, n=12, settings=Strategy(method="alpha-crown"))
    alone = run(network, n=12, settings=Strategy(method="alpha-crown", attack=None))
    assert ((attacked.verdict == Verdict.CERTIFIED) == (alone.verdict == Verdict.CERTIFIED)).all()
    assert alone.survived is None
    assert not (alone.verdict == Verdict.FALSIFIED).any()


def test_neither_chunks_nor_the_device_change_a_verdict(device):
    network = nets.conv_net(seed=5)
    whole, cut = (
        run(network, n=16, settings=Strategy(batch=batch, device=device, method="crown-ibp")) for batch in (None, 3)
    )
    assert next(network.parameters()).device.type == "cpu", "the caller's network stays where it was"
    assert (whole.verdict == cut.verdict).all()
    assert np.allclose(whole.margin_lower, cut.margin_lower, rtol=1e-9, atol=1e-12)


def test_arithmetic_none_certifies_nothing():
    samples = run(nets.mlp(seed=6), settings=Strategy(arithmetic="none", method="alpha-crown"))
    assert not (samples.verdict == Verdict.CERTIFIED).any()


def test_a_file_that_denies_a_proved_label_is_an_alarm():
    network = nets.mlp(seed=7)
    honest = deployed(network)
    labels = honest(_images(40)).argmax(1)
    with pytest.raises(Contradiction, match="another label"):
        run(network, predict=lambda x: -honest(x), labels=labels, eps=("1/100000",))


def test_an_attacked_certificate_is_an_alarm(monkeypatch):
    """A bound that lies meets the attack: everything is called proved, and PGD breaks some of it."""
    from pipeline.bounds import margins

    monkeypatch.setattr(margins.MarginBounds, "least", lambda self, box, labels: torch.ones(len(labels)).double())
    with pytest.raises(Contradiction, match="attack"):
        run(nets.mlp(seed=8), labels=deployed(nets.mlp(seed=8))(_images(40)).argmax(1), eps=("0.3",))


def _images(n: int) -> np.ndarray:
    return torch.rand(n, 12, generator=torch.Generator().manual_seed(0)).numpy()


def test_no_sample_is_no_success():
    with pytest.raises(Incomplete):
        run(nets.mlp(), n=0, labels=np.zeros(0, np.int64))


def test_nan_logits_are_misclassified():
    network = nets.mlp(seed=9)
    nan = lambda x: np.full((len(x), 5), np.nan, np.float32)  # noqa: E731
    result = run(network, predict=nan, labels=np.zeros(40, np.int64), settings=Strategy(arithmetic="real", attack=None))
    assert (result.verdict[0] == Verdict.MISCLASSIFIED).all()


def test_counterexamples_lie_in_the_exact_ball_and_fool_the_file():
    network = nets.conv_net(seed=10)
    predict = deployed(network)
    images = torch.rand(30, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    images[0], images[1] = 0.0, 1.0
    labels = torch.from_numpy(predict(images.numpy()).argmax(1))
    for eps in ("1/3", "8/255"):
        ball = LinfBall(Fraction(eps))
        broken, points, became, _ = attack(
            network, predict, images, labels, np.arange(30), ball, PGD(steps=10, restarts=2)
        )
        assert broken.any() or eps == "8/255"
        assert (predict(points[broken]).argmax(1) != labels.numpy()[broken]).all()
        assert (became[broken] == predict(points[broken]).argmax(1)).all()
        for x, p in zip(images.numpy()[broken].ravel(), points[broken].ravel(), strict=True):
            assert abs(Fraction(float(p)) - Fraction(float(x))) <= ball.eps
            assert 0 <= p <= 1


def test_an_attack_depends_on_the_sample_and_not_on_its_neighbours():
    network = nets.conv_net(seed=11)
    predict = deployed(network)
    images = torch.rand(20, 2, 8, 8, generator=torch.Generator().manual_seed(2))
    labels = torch.from_numpy(predict(images.numpy()).argmax(1))
    ball = LinfBall(Fraction(1, 4))
    broken, *_ = attack(network, predict, images, labels, np.arange(20), ball, PGD())
    pick = np.array([3, 11, 17])
    alone, *_ = attack(network, predict, images[pick], labels[pick], pick, ball, PGD())
    assert (alone == broken[pick]).all()


def test_a_point_counts_only_where_the_file_says_another_label():
    """The network may be fooled as it likes: a file that keeps its label is not broken."""
    network = nets.conv_net(seed=2)
    images = torch.rand(12, 2, 8, 8, generator=torch.Generator().manual_seed(2)).numpy()
    x, labels = torch.from_numpy(images), torch.from_numpy(deployed(network)(images).argmax(1))
    ball, asked = LinfBall(Fraction(1, 2)), []

    def steadfast(points: np.ndarray) -> np.ndarray:
        asked.append(len(points))
        nearest = np.abs(points[:, None] - images[None]).reshape(len(points), len(images), -1).sum(2).argmin(1)
        return np.eye(5)[labels.numpy()[nearest]]

    assert attack(network, deployed(network), x, labels, np.arange(12), ball, PGD()).broken.any()
    found = attack(network, steadfast, x, labels, np.arange(12), ball, PGD())
    assert asked
    assert not (found.broken & (found.labels == labels.numpy())).any()
