"""Certified boxes sampled on the delivered file: whatever is outside a bound ends the run, and honest files never do."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.certify import (
    PGD,
    BoxSampling,
    Certification,
    DeployedFile,
    Strategy,
    Work,
    certify,
    random_points,
    sample_boxes,
)
from pipeline.certify.attack import Predict
from pipeline.commands.certification import certify as run
from pipeline.commands.events import Done
from pipeline.core.threat import BALLS, Ball
from pipeline.errors import Contradiction
from pipeline.results import Verdict
from tests.onnx.files import load, mlp, saved, session

X = np.random.default_rng(0).random((40, 6), np.float32)
BALL = BALLS["linf"](Fraction(1, 200), 0.0, 1.0)


def ended(events) -> BoxSampling:
    while True:
        try:
            next(events)
        except StopIteration as end:
            return end.value


@pytest.fixture(scope="module")
def proved(tmp_path_factory) -> tuple[DeployedFile, Certification, Strategy]:
    path = saved(tmp_path_factory.mktemp("file"), mlp())
    network, file = load(path).network, session(path)

    def predict(x: np.ndarray) -> np.ndarray:
        return file.batched(x)

    labels = predict(X).argmax(1)
    how = Strategy(attack=PGD(steps=3), method="crown")
    *_, found = certify(network, predict, X, labels, [BALL], how)
    assert isinstance(found, Certification)
    return DeployedFile(network, predict, X, labels, np.arange(len(X)), margins=True), found, how


def lying(
    about: DeployedFile, lie: Callable[[np.ndarray, np.ndarray], np.ndarray], *, margins: bool = True
) -> DeployedFile:
    """The same, of a file that computes something else at some points."""

    def predict(x: np.ndarray) -> np.ndarray:
        return lie(x, about.predict(x))

    told: Predict = predict
    return DeployedFile(about.network, told, about.images, about.labels, about.indices, margins)


def test_an_honest_file_is_inside_all_its_bounds(proved) -> None:
    about, found, how = proved
    for seed in range(5):
        spots = ended(sample_boxes(about, found, how, seed, Work()))
        assert spots.samples == int((found.samples.verdict[0] == Verdict.CERTIFIED).sum()) > 10
        assert spots.points == 4 * spots.samples
        assert len(spots.ends) == 4


def test_another_label_in_a_corner_is_a_contradiction(proved) -> None:
    """Where most coordinates are at an end of the box, as at no point that the attack starts from."""
    about, found, how = proved

    def flipped(x: np.ndarray, z: np.ndarray) -> np.ndarray:
        nearest = np.abs(x[:, None] - X[None]).max(2).argmin(1)
        corner = (np.abs(np.abs(x - X[nearest]) - 1 / 200) < 1e-6).all(1)
        return np.where(corner[:, None], -z, z)

    with pytest.raises(Contradiction, match=r"was proved at eps 1/200 .* has label .*--parity-seed 7 draws the same"):
        ended(sample_boxes(lying(about, flipped), found, how, 7, Work()))


def test_a_margin_below_its_bound_is_a_contradiction_though_the_label_is_right(proved) -> None:
    about, found, how = proved

    def shrunk(x: np.ndarray, z: np.ndarray) -> np.ndarray:
        return z / 100

    with pytest.raises(Contradiction, match="with a margin of at least"):
        ended(sample_boxes(lying(about, shrunk), found, how, 0, Work()))
    assert ended(sample_boxes(lying(about, shrunk, margins=False), found, how, 0, Work())).samples > 10


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_output_that_is_not_finite_is_a_contradiction(value: float, proved) -> None:
    about, found, how = proved
    with pytest.raises(Contradiction):
        ended(sample_boxes(lying(about, lambda x, z: np.full_like(z, value)), found, how, 0, Work()))


def test_a_spent_budget_ends_it(proved) -> None:
    about, found, how = proved
    spots = ended(sample_boxes(about, found, how, 0, Work(budget=0.0)))
    assert (spots.samples, spots.points) == (0, 0)


@pytest.mark.parametrize("ball", [BALL, BALLS["l2"](Fraction(1, 10), 0.0, 1.0)], ids=["linf", "l2"])
def test_points_lie_in_the_real_ball_and_corners_are_among_them(ball: Ball) -> None:
    x = torch.from_numpy(X)
    points = random_points(x, ball, np.random.default_rng(1))
    for point in points:
        assert point.dtype == torch.float32
        moved = (point.double() - x.double()).abs()
        size = moved.amax(1) if ball is BALL else moved.norm(dim=1)
        assert bool((size <= float(ball.radius)).all())
        assert bool(((point >= 0) & (point <= 1)).all())
    if ball is BALL:
        far = (points[1].double() - x.double()).abs() > float(ball.radius) - 1e-6
        edge = (points[1] < 1e-6) | (points[1] > 1 - 1e-6)
        assert bool((far | edge).all())


def test_the_seed_is_kept_and_changes_no_result(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path, mlp())
    np.savez("d.npz", x=X, y=session(tmp_path / "model.onnx").batched(X).argmax(1))
    flags = {"data": "npz:d.npz", "eps": "1/200", "method": "ibp"}
    reports = []
    for given in ({"parity_seed": 5}, {}, {}):
        *_, done = run(tmp_path / "model.onnx", flags | given, report=tmp_path / "r")
        assert isinstance(done, Done)
        reports.append(done.report)
    assert reports[0].run.parity_seed == 5
    assert len({report.run.parity_seed for report in reports}) == 3
    assert len({report.result_sha256 for report in reports}) == 1
    parity = reports[0].result.parity
    assert parity is not None
    assert parity.nodes == 5
    assert parity.boxes == reports[0].result.levels[0].certified.k > 0
    assert parity.points == parity.n + 10
