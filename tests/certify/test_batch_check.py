"""The second net under the independence of samples: the delivered file in several batch sizes."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from pipeline.certify import Strategy, batch_check
from pipeline.certify.prover import Prover
from pipeline.commands.subject import open_model
from pipeline.core.threat import LinfBall
from pipeline.errors import Contradiction, InputRejected
from pipeline.onnx import model_file, runtime
from pipeline.results import Samples
from pipeline.settings import Settings
from tests.onnx.files import model, node, saved, weights

WEIGHTS = {"w": weights(4, 3, seed=1), "zero": np.array([0]), "minus": np.array([-1]), "far": np.array([-(2**31)])}
GAMES = {
    "turned round": [node("Slice", ["z", "minus", "far", "zero", "minus"], ["y"])],
    "less the largest": [node("ReduceMax", ["z"], ["m"], axes=[0]), node("Sub", ["z", "m"], ["y"])],
    "other at eight": [
        *(node("Shape", ["x"], ["s"], end=1), node("Equal", ["s", "eight"], ["e"]), node("Cast", ["e"], ["f"], to=1)),
        *(node("Mul", ["f", "two"], ["g"]), node("Sub", ["one", "g"], ["h"]), node("Mul", ["z", "h"], ["y"])),
    ],
}
WEIGHTS |= {"eight": np.array([8]), "two": np.array([2.0], np.float32), "one": np.array([1.0], np.float32)}


def opened(folder, tail):
    """An honest file's subject, run by the session of another."""
    product = node("MatMul", ["x", "w"], ["z"])
    honest = saved(folder, model([node("MatMul", ["x", "w"], ["y"])], ["N", 4], WEIGHTS))
    subject = open_model(model_file.read(honest), Settings())
    mixing = model([product, *tail], ["N", 4], WEIGHTS).SerializeToString()
    return replace(subject, session=runtime.session(mixing)) if tail else subject


IMAGES = np.random.default_rng(0).random((70, 4), np.float32)


def certified(labels):
    n = len(labels)
    return Samples(
        eps=("1/100",),
        index=np.arange(n),
        label=labels,
        predicted=labels,
        verdict=np.zeros((1, n), np.uint8),
        margin_lower=np.ones((1, n)),
    )


def test_an_honest_file_passes(tmp_path):
    subject = opened(tmp_path, [])
    batch_check.require_batch_independence(subject.predict_batches, IMAGES)
    batch_check.require_batch_labels(subject.predict_batches, IMAGES, certified(subject.predict(IMAGES).argmax(1)))


@pytest.mark.parametrize("tail", GAMES.values(), ids=GAMES)
def test_samples_that_influence_each_other_are_noticed(tail, tmp_path):
    subject = opened(tmp_path, tail)
    with pytest.raises(InputRejected, match=r"must not depend on the other samples of its batch; .* in batches of"):
        batch_check.require_batch_independence(subject.predict_batches, IMAGES)


@pytest.mark.parametrize("name", ["turned round", "other at eight"])
def test_a_certified_sample_with_another_label_is_a_contradiction(name, tmp_path):
    labels = opened(tmp_path, []).predict(IMAGES).argmax(1)
    with pytest.raises(Contradiction, match="certified samples have another label in batches of"):
        batch_check.require_batch_labels(opened(tmp_path, GAMES[name]).predict_batches, IMAGES, certified(labels))


@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_a_file_of_one_sample_at_once_is_bounded_one_sample_at_once(method, tmp_path):
    """Such a file may read across its batch, which holds one sample: bounds of several at once would be of another function."""
    product = node("MatMul", ["x", "w"], ["z"])
    path = saved(tmp_path, model([product, *GAMES["turned round"]], [1, 4], WEIGHTS))
    subject = open_model(model_file.read(path), Settings())
    prover = Prover(subject.network, IMAGES, np.arange(len(IMAGES)) % 3, Strategy(method=method, batch=1))
    ball, rows = LinfBall(Fraction(1, 10)), np.arange(7)
    alone = np.concatenate([prover.margins(method, ball, rows[i : i + 1]) for i in rows])
    assert prover.margins(method, ball, rows).tobytes() == alone.tobytes()
    assert prover.margins(method, [ball] * len(rows), rows).tobytes() == alone.tobytes()
