"""Budgets of memory and time: kept for any number of classes, and no bit of any result depends on them."""

from __future__ import annotations

import subprocess
import sys
import time
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.bounds import walk
from pipeline.bounds.footprint import footprint
from pipeline.bounds.margins import MarginBounds
from pipeline.certify import Strategy, Work
from pipeline.certify.prover import Prover
from pipeline.core.floating_point import GROUP
from pipeline.core.outward import Outward
from pipeline.core.threat import LinfBall
from pipeline.errors import Incomplete, UsageError
from pipeline.methods import METHODS
from pipeline.system.clock import Clock, OutOfTime, check_time, time_limit
from tests import nets
from tests.climbing import climb, images_of, lively

BALL = LinfBall(Fraction(1, 100))
MB = 10**6


def many(classes: int, seed: int = 0, side: int = 6):
    """A convolution, a ReLU and a classifier of many classes."""
    d = nets.Drawing(seed)
    x = d(nn.Flatten(), d(nn.ReLU(), d(nn.Conv2d(1, 4, 3, padding=1), d.input(1, side, side))))
    return d.finish(d(nn.Linear(4 * side * side, classes), x), shapes=((None, classes),))


def prover(network, n: int = 8, **settings) -> Prover:
    images = images_of(network, n)
    return Prover(network, images, np.arange(n) % 2, Strategy(**settings))


PEAKS = """
import numpy as np, torch
from pathlib import Path
from tests.certify.test_budgets import BALL, MB, many, prover

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

LIMIT = 64
for classes, method, budget, side in CASES:
    network = many(classes, side=side)
    mine = prover(network, n=1100, method=method, memory=budget * MB)
    batch = mine.batch(method, classes)
    Path("/proc/self/clear_refs").write_text("5")
    idle = peak()
    mine.margins(method, BALL, np.arange(min(batch, LIMIT)))
    print(classes, method, budget, side, batch, (peak() - idle) // MB, flush=True)
"""
CASES = [
    *((10, method, 20, 6) for method in ("ibp", "crown", "alpha-crown")),
    *((400, method, 40, 6) for method in ("ibp", "crown-ibp")),
    (3000, "ibp", 40, 6),
    (10, "crown-ibp", 60, 64),
]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_takes_no_more_than_the_budget(pytestconfig):
    """Measured by the system, in a child: the peak of one batch above what the process took before it."""
    code = f"CASES = {CASES}\n{PEAKS}"
    ran = subprocess.run([sys.executable, "-c", code], cwd=pytestconfig.rootpath, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    lines = [line.split() for line in ran.stdout.splitlines()]
    assert len(lines) == len(CASES)
    for line in lines:
        assert int(line[5]) <= int(line[2]), f"classes, method, budget, side, batch, peak: {line}"


@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
@pytest.mark.parametrize("size", [1, 7])
def test_how_samples_are_cut_changes_no_bit(method, size):
    mine = prover(many(10), n=20, method=method)
    rows = np.arange(20)
    whole = mine.margins(method, BALL, rows)
    parts = [mine.margins(method, BALL, rows[start : start + size]) for start in range(0, 20, size)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


@pytest.mark.parametrize("method", METHODS)
def test_how_rows_are_cut_changes_no_bit(method, monkeypatch):
    """Whole groups of rows, and all at once; a memory that holds no group gives the same up to rounding."""
    network, found = many(GROUP + 10).in_float64(), {}
    x = torch.from_numpy(images_of(network, 2)).double()
    for rows in (7, GROUP, 2 * GROUP):
        bounds = MarginBounds(network, Outward(deployed=True), method=method, memory=1 << 40)
        monkeypatch.setattr("pipeline.bounds.rows.SMALL", 1 << 40)
        monkeypatch.setattr("pipeline.bounds.footprint.Need.rows", lambda self, memory, samples, rows=rows: rows)
        found[rows] = bounds.rows(BALL.region(x), torch.tensor([0, GROUP]))
    assert torch.equal(found[GROUP], found[2 * GROUP])
    assert torch.allclose(found[7], found[GROUP], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_too_little_memory_for_one_sample_is_refused_with_the_number_before_it_is_taken(method):
    mine = prover(many(1000), method=method, memory=2 * MB)
    with pytest.raises(UsageError, match=rf"{method} takes (\d+)MB here") as refused:
        mine.require([method])
    needed = int(str(refused.value).split(" takes ")[1].split("MB")[0])
    prover(many(1000), method=method, memory=needed * MB).require([method])
    assert footprint(lambda: None).peak == 0


def test_what_nobody_asked_for_refuses_no_model(monkeypatch):
    monkeypatch.setattr("pipeline.certify.engine.MEMORY", 1 << 20)
    mine = prover(many(400), method="crown-ibp")
    mine.require(METHODS)
    assert np.isfinite(mine.margins("crown-ibp", BALL, np.arange(1))).all()


def test_tensors_are_counted_until_they_are_freed():
    def run():
        a = torch.zeros(1000, dtype=torch.float64)  # 8000 bytes
        b = a + 1  # 16000
        del a
        c = b[10:].reshape(9, 110).T.contiguous()  # a view counts nothing, a copy 7920
        return c

    assert footprint(run).peak == 16000
    x, w = torch.zeros(3, 5, 9, 9), torch.zeros(7, 5, 3, 3)
    seen = footprint(lambda: torch.nn.functional.conv2d(x, w, padding=1))
    assert seen.peak == 4 * 3 * 81 * (7 + 45)  # the result, and the patches that it is computed from
    assert seen.flops == 2 * 3 * 7 * 81 * 45


def test_the_clock_is_looked_at_within_one_batch_of_many_classes():
    network = many(10_000)
    mine = prover(network, method="ibp", memory=200 * MB)
    batch = max(8, mine.batch("ibp", 10_000))
    mine.clock = Clock.of(0.2)
    began = time.process_time()
    with pytest.raises(OutOfTime):
        mine.margins("ibp", BALL, np.tile(np.arange(8), 1 + batch // 8))
    assert time.process_time() - began < 3


@pytest.mark.parametrize("method", METHODS)
def test_the_clock_is_looked_at_in_every_operator_forward_and_back(method, monkeypatch):
    network, looks, visited = many(10).in_float64(), [], []

    def looking(visit):
        def looked(*args):
            before = len(looks)
            found = visit(*args)
            visited.append(found is not None)
            assert len(looks) > before or found is None
            return found

        return looked

    ahead, back = walk.forward, walk.backward
    monkeypatch.setattr(walk, "forward", lambda plan, xs, apply, **how: ahead(plan, xs, looking(apply), **how))
    monkeypatch.setattr(walk, "backward", lambda plan, xs, visit, merge: back(plan, xs, looking(visit), merge))
    bounds = MarginBounds(network, method=method, memory=1 << 40, check=lambda: looks.append(None))
    bounds.least(BALL.region(torch.from_numpy(images_of(network, 2)).double()), torch.tensor([0, 1]))
    assert sum(visited) > len(bounds.top.plan.steps)


def test_an_attack_ends_in_time():
    network, steps = lively(), []
    work = Work(budget=3600.0)

    def predict(x):
        steps.append(len(x))
        with torch.no_grad():
            return network(torch.from_numpy(x)).numpy()

    from pipeline.certify import PGD, attack

    def check():
        if len(steps) >= 3:
            raise OutOfTime

    x = torch.from_numpy(images_of(network, 40))
    labels = torch.from_numpy(predict(x.numpy()).argmax(1))
    with pytest.raises(OutOfTime):
        attack(network, predict, x, labels, np.arange(40), LinfBall(Fraction(1, 2)), PGD(1000, 1000), check)
    assert not work.over


def test_predictions_beyond_the_budget_leave_nothing_checked(monkeypatch):
    """Below a few seconds they are made all the same, so that there is a report."""
    assert climb(lively(), ("1/100",), work=Work(budget=0.0), n=4).incomplete
    monkeypatch.setattr("pipeline.system.clock.PREPARING", 0.0)
    with pytest.raises(Incomplete, match="nothing was checked"):
        climb(lively(), ("1/100",), work=Work(budget=0.0), n=4)


def test_what_is_prepared_is_ended_by_its_clock():
    with time_limit(Clock.of(0.0)), pytest.raises(OutOfTime):
        check_time()
    check_time()
