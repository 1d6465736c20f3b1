"""Verdicts for a whole data set, the cheapest proof first: what a rung decides, no later rung looks at.

The file's own prediction, a short attack on every correct sample, IBP on every sample, CROWN-IBP, a long attack on what is
left, CROWN, alpha-CROWN, branch and bound. The order costs or saves time and nothing else: each rung's answers are true by
themselves.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.certify.attack import PGD, Attacked, Predict, attack, attacked_at_once
from pipeline.certify.engine import predicted_at_once
from pipeline.certify.largest import largest_eps
from pipeline.certify.prover import Prover
from pipeline.certify.rungs import Rungs, chunks
from pipeline.certify.scheduler import Work
from pipeline.certify.verdict_table import VerdictTable
from pipeline.certify.verdicts import Certification, Images, Strategy
from pipeline.core.network import Network
from pipeline.core.threat import Ball
from pipeline.errors import Incomplete
from pipeline.methods import ATTACKS, IBP, LONG_ATTACK, METHODS, SHORT_ATTACK, bounding
from pipeline.progress import Progress
from pipeline.results import Looked, RoundingCost
from pipeline.results.blocks import Rows, by_block
from pipeline.results.blocks import blocks as default_blocks

ATTACKED, LOOKED_INTO = 128, 128
"""Samples in one batch of the attack, and behind the figures on layers."""


def certify(
    network: Network,
    predict: Predict,
    images: Images,
    labels: np.ndarray,
    balls: Sequence[Ball],
    settings: Strategy,
    *,
    indices: np.ndarray | None = None,
    blocks: Sequence[Rows] | None = None,
    looked_into: np.ndarray | None = None,
    work: Work | None = None,
) -> Iterator[Progress | Certification]:
    """Prove, sample by sample, that no point of the ball changes the label; the last value yielded is the Certification.

    ``predict`` is the delivered file itself. The attack runs on every correctly classified sample and IBP on every
    sample, so that each can contradict the other: a sample both certified and attacked, or proved to have a label that
    the file does not give it, raises Contradiction (5). Zero samples raise Incomplete (4). ``work`` says who does it, within
    what budget, and what was done before. ``blocks`` cut the samples; those of a run that is shared out, and ``looked_into``, the
    first of that run, behind the figures on layers, give each sample to the bit what the whole run gives it.
    """
    if len(images) == 0:
        raise Incomplete("nothing was selected, so nothing can be checked; select at least one sample.")
    indices, balls = np.arange(len(images)) if indices is None else indices, sorted(balls, key=lambda ball: ball.eps)
    cut = default_blocks(len(images)) if blocks is None else blocks
    some = images[:LOOKED_INTO] if looked_into is None else looked_into
    yield from _Ladder(network, predict, images, labels, balls, settings, indices, cut, some, work or Work()).climb()


@dataclass(eq=False)
class _Ladder:
    """One certification under way; eps ascends in ``balls``."""

    network: Network
    predict: Predict
    images: Images
    labels: np.ndarray
    balls: Sequence[Ball]
    settings: Strategy
    indices: np.ndarray
    blocks: Sequence[Rows]
    looked_into: np.ndarray
    work: Work

    def climb(self) -> Iterator[Progress | Certification]:
        """Every rung in turn, and what came of it."""
        predicted, reach, self.classes = yield from self._predictions()
        settings = self.settings
        self.table = VerdictTable(
            self.balls, predicted, self.labels, arithmetic=settings.arithmetic, attack=settings.attack is not None
        )
        self.blind = np.zeros(len(self.images), bool)
        """Samples on which no attack saw a gradient at the last eps where it was tried."""
        self.prover = Prover(self.network, self.images, self.labels, settings, self.work.clock)
        self.prover.require(settings.methods)
        if settings.attack is not None:
            yield from self._attack(SHORT_ATTACK, settings.attack)
        costs = yield from self._ibp()
        linear = settings.methods[1:] if settings.method != "auto" or self.prover.has_relaxations() else ()
        waiting = settings.long_attack
        rungs = Rungs(
            self.table,
            self.prover,
            self.work,
            self.predict,
            self.images,
            self.labels,
            self.indices,
            self.classes,
            self.blocks,
            reach,
            impatient=settings.method == "auto",
        )
        for method in linear:
            if waiting is not None and METHODS[method].cost >= ATTACKS[LONG_ATTACK]:
                yield from self._attack(LONG_ATTACK, waiting)
                waiting = None
            yield from rungs.climb(method)
        largest = None
        if settings.largest_eps:
            methods = bounding((IBP, *linear))
            largest = yield from largest_eps(self.prover, self.table, methods, self.work, self.classes, self.blocks)
        layers = [self.prover.layers(ball, self.looked_into) if not self.work.cut else () for ball in self.balls]
        self.work.journal.flush()
        yield Certification(
            self.table.balls,
            self.table.samples(self.indices, cut=self.work.cut, largest=largest),
            tuple(
                Looked(layers[i], costs[i], self.table.rungs(i), rungs.unfinished(i)) for i in range(len(self.balls))
            ),
            dict(self.work.seconds),
            self.work.cut,
            int(self.blind.sum()),
        )

    @property
    def _sample(self) -> torch.Tensor:
        """One input, of which it is measured what it takes."""
        return torch.from_numpy(self.images[:1])

    def _cuts(self, rows: Rows, size: int) -> list[Rows]:
        """Rows in order, so many at once, of one block each time."""
        return [cut for some in by_block(self.blocks, rows) for cut in chunks(some, size)]

    def _predictions(self) -> Generator[Progress, None, tuple[np.ndarray, np.ndarray, int]]:
        """The file's own labels, by what margin each is larger than the next, and how many classes it tells apart."""

        def compute(rows: np.ndarray) -> dict[str, np.ndarray]:
            logits = self.predict(self.images[rows])
            # A NaN logit is nobody's argmax: such a sample counts as misclassified.
            finite = np.asarray(np.isfinite(logits).all(1))
            largest = np.sort(np.where(finite[:, None], logits, 0.0), axis=1)[:, -2:].astype(np.float64)
            return {
                "label": np.where(finite, logits.argmax(1), -1).astype(np.int64),
                "margin": largest[:, 1] - largest[:, 0],
                "classes": np.array(logits.shape[1]),
            }

        at_once = predicted_at_once(self.network, self._sample, self.settings.memory)
        cuts = self._cuts(np.arange(len(self.images)), at_once)
        results = yield from self.work.units("prediction", cuts, compute, phase="prediction", always=True)
        found = [r for r in results if r is not None]
        label, margin = (np.concatenate([r[name] for r in found]) for name in ("label", "margin"))
        return label, margin, int(found[0]["classes"])

    def _attack(self, rung: str, pgd: PGD) -> Generator[Progress, None, None]:
        """Attack what is still open at each eps, ascending: what breaks at a smaller eps is broken at every larger one."""
        network, table = copy.deepcopy(self.network).to(self.settings.device), self.table
        sample, most = self._sample.to(self.settings.device), self.settings.batch or ATTACKED
        at_once = attacked_at_once(network, sample, self.settings.memory, most)
        total, done = sum(len(table.open(i)) for i in range(len(self.balls))), 0
        for level, ball in enumerate(self.balls):
            rows = table.open(level)
            cuts = self._cuts(rows, at_once)

            def compute(pick: np.ndarray, ball: Ball = ball) -> dict[str, np.ndarray]:
                x = torch.from_numpy(self.images[pick]).to(self.settings.device)
                y = torch.from_numpy(self.labels[pick]).to(self.settings.device)
                found = attack(network, self.predict, x, y, self.indices[pick], ball, pgd, self.work.clock.check)
                points = found.points[found.broken]
                return {"broken": found.broken, "points": points, "labels": found.labels, "blind": found.blind}

            key = f"{rung}@{ball.eps}"
            results = yield from self.work.units(key, cuts, compute, phase=rung, before=done, total=total)
            for pick, found in zip(cuts, results, strict=True):
                if found is None:
                    table.skipped[level, pick] = True
                else:
                    table.attacked(rung, level, pick, Attacked(found["broken"], found["points"], found["labels"]))
                    self.blind[pick] = found["blind"]
                    table.looked(rung, level, len(pick))
            done += len(rows)
        if total:
            yield Progress(rung, total, total)
        table.check(self.indices)

    def _ibp(self) -> Generator[Progress, None, list[RoundingCost | None]]:
        """Bound every sample at every eps, in the mode asked for and, where that is float32, beside it in real arithmetic."""
        table, both = self.table, self.settings.arithmetic == "float32-any-order"
        cuts = self._cuts(np.arange(len(self.images)), self.prover.batch(IBP, self.classes))
        total, costs, real = len(self.images) * len(self.balls), [], np.full(len(self.images), np.nan)
        for level in reversed(range(len(self.balls))):
            ball = self.balls[level]

            def compute(rows: np.ndarray, ball: Ball = ball) -> dict[str, np.ndarray]:
                found = {"margins": self.prover.margins(IBP, ball, rows)}
                return found | ({"real": self.prover.margins(IBP, ball, rows, mode="real")} if both else {})

            before = (len(self.balls) - 1 - level) * len(self.images)
            results = yield from self.work.units(
                f"{IBP}@{ball.eps}", cuts, compute, phase=IBP, before=before, total=total
            )
            lost = 0.0
            for rows, found in zip(cuts, results, strict=True):
                if found is None:
                    table.skipped[level, rows] = True
                    continue
                table.bound(IBP, level, rows, found["margins"])
                table.looked(IBP, level, len(rows))
                if both:
                    real[rows] = np.fmax(real[rows], found["real"])
                    finite = np.isfinite(found["real"]) & np.isfinite(found["margins"])
                    gap = found["real"][finite] - found["margins"][finite]
                    lost = max(lost, float(gap.max(initial=0.0)))
            stands = table.alive[level] & (real > 0)
            cost = RoundingCost(
                largest=lost, certified=int(table.certified[level].sum()), certified_in_real=int(stands.sum())
            )
            costs.append(cost if both and not self.work.cut else None)
        yield Progress(IBP, total, total)
        table.check(self.indices)
        return costs[::-1]
