"""Verdicts for a whole data set, by the cheapest methods first: a sample that one rung decides is not tried by later rungs.

The rungs are: the file's own prediction, a short attack on every correct sample, IBP on every sample, CROWN-IBP, a long attack
on the open samples, CROWN, alpha-CROWN, and branch and bound. Their order affects only the time: each rung's answers are valid
on their own.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.certify.attack import PGD, AttackResult, Predict, attack, attack_batch_size
from pipeline.certify.engine import prediction_batch_size
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
from pipeline.results import LevelDetails, RoundingCost
from pipeline.results.blocks import Rows, by_block
from pipeline.results.blocks import blocks as default_blocks

ATTACK_BATCH, LAYER_SAMPLES = 128, 128
"""The most samples in one batch of the attack, and the samples over which statistics of layers are taken."""


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
    layer_images: np.ndarray | None = None,
    work: Work | None = None,
) -> Iterator[Progress | Certification]:
    """Prove for each sample that no point of its ball changes the label; the last value yielded is the Certification.

    ``predict`` runs the delivered file. The attack runs on every correctly classified sample and IBP on every sample, so that
    each can contradict the other: a sample that is both certified and broken, or proved to have a label that the file does not
    give it, raises Contradiction (5). Zero samples raise Incomplete (4). ``work`` holds the processes, the budget and the results
    of an earlier run. ``blocks`` divide the samples. A shard passes the blocks of the whole run, and the first images of that run
    as ``layer_images``, over which statistics of layers are taken: its results are then bit for bit those of the whole run.
    """
    if len(images) == 0:
        raise Incomplete("nothing was selected, so nothing can be checked; select at least one sample.")
    indices, balls = np.arange(len(images)) if indices is None else indices, sorted(balls, key=lambda ball: ball.eps)
    blocks = default_blocks(len(images)) if blocks is None else blocks
    layer_images = images[:LAYER_SAMPLES] if layer_images is None else layer_images
    yield from _Ladder(
        network, predict, images, labels, balls, settings, indices, blocks, layer_images, work or Work()
    ).climb()


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
    layer_images: np.ndarray
    work: Work

    def climb(self) -> Iterator[Progress | Certification]:
        """Run every rung in turn; the last value yielded is the Certification."""
        predicted, reach, self.classes = yield from self._predictions()
        settings = self.settings
        self.table = VerdictTable(
            self.balls, predicted, self.labels, arithmetic=settings.arithmetic, attack=settings.attack is not None
        )
        self.blind = np.zeros(len(self.images), bool)
        """Whether the attack saw no gradient on a sample, at the last eps where it was tried."""
        self.prover = Prover(self.network, self.images, self.labels, settings, self.work.clock)
        self.prover.require(settings.methods)
        if settings.attack is not None:
            yield from self._attack(SHORT_ATTACK, settings.attack)
        costs = yield from self._ibp()
        linear = settings.methods[1:] if settings.method != "auto" or self.prover.has_relaxations() else ()
        long_attack = settings.long_attack
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
            if long_attack is not None and METHODS[method].cost >= ATTACKS[LONG_ATTACK]:
                yield from self._attack(LONG_ATTACK, long_attack)
                long_attack = None
            yield from rungs.climb(method)
        largest = None
        if settings.largest_eps:
            methods = bounding((IBP, *linear))
            largest = yield from largest_eps(self.prover, self.table, methods, self.work, self.classes, self.blocks)
        layers = [
            self.prover.layers(ball, self.layer_images) if not self.work.incomplete else () for ball in self.balls
        ]
        self.work.journal.flush()
        yield Certification(
            self.table.balls,
            self.table.samples(self.indices, incomplete=self.work.incomplete, largest=largest),
            tuple(
                LevelDetails(layers[i], costs[i], self.table.rungs(i), rungs.unfinished(i))
                for i in range(len(self.balls))
            ),
            dict(self.work.seconds),
            self.work.incomplete,
            int(self.blind.sum()),
        )

    @property
    def _sample(self) -> torch.Tensor:
        """A batch of one image, on which memory is measured."""
        return torch.from_numpy(self.images[:1])

    def _cuts(self, rows: Rows, size: int) -> list[Rows]:
        """The rows in order, in batches of at most ``size`` that do not cross a block."""
        return [cut for of_block in by_block(self.blocks, rows) for cut in chunks(of_block, size)]

    def _predictions(self) -> Generator[Progress, None, tuple[np.ndarray, np.ndarray, int]]:
        """By sample, the label that the file gives it and the margin above the next class; and the number of classes."""

        def compute(rows: np.ndarray) -> dict[str, np.ndarray]:
            logits = self.predict(self.images[rows])
            # A sample with a logit that is not finite counts as misclassified.
            finite = np.asarray(np.isfinite(logits).all(1))
            largest = np.sort(np.where(finite[:, None], logits, 0.0), axis=1)[:, -2:].astype(np.float64)
            return {
                "label": np.where(finite, logits.argmax(1), -1).astype(np.int64),
                "margin": largest[:, 1] - largest[:, 0],
                "classes": np.array(logits.shape[1]),
            }

        at_once = prediction_batch_size(self.network, self._sample, self.settings.memory)
        cuts = self._cuts(np.arange(len(self.images)), at_once)
        results = yield from self.work.units("prediction", cuts, compute, phase="prediction", always=True)
        arrays = [r for r in results if r is not None]
        label, margin = (np.concatenate([r[name] for r in arrays]) for name in ("label", "margin"))
        return label, margin, int(arrays[0]["classes"])

    def _attack(self, rung: str, pgd: PGD) -> Generator[Progress, None, None]:
        """Attack the open samples at each eps, ascending: a sample broken at one eps is broken at every larger one."""
        network, table = copy.deepcopy(self.network).to(self.settings.device), self.table
        sample, most = self._sample.to(self.settings.device), self.settings.batch or ATTACK_BATCH
        at_once = attack_batch_size(network, sample, self.settings.memory, most)
        total, done = sum(len(table.open(i)) for i in range(len(self.balls))), 0
        for level, ball in enumerate(self.balls):
            rows = table.open(level)
            cuts = self._cuts(rows, at_once)

            def compute(pick: np.ndarray, ball: Ball = ball) -> dict[str, np.ndarray]:
                x = torch.from_numpy(self.images[pick]).to(self.settings.device)
                y = torch.from_numpy(self.labels[pick]).to(self.settings.device)
                broken, points, labels, blind = attack(
                    network, self.predict, x, y, self.indices[pick], ball, pgd, self.work.clock.check
                )
                return {"broken": broken, "points": points[broken], "labels": labels, "blind": blind}

            key = f"{rung}@{ball.eps}"
            results = yield from self.work.units(key, cuts, compute, phase=rung, before=done, total=total)
            for pick, arrays in zip(cuts, results, strict=True):
                if arrays is None:
                    table.skipped[level, pick] = True
                else:
                    broken = AttackResult(arrays["broken"], arrays["points"], arrays["labels"])
                    table.enter_attack(rung, level, pick, broken)
                    self.blind[pick] = arrays["blind"]
                    table.count_examined(rung, level, len(pick))
            done += len(rows)
        if total:
            yield Progress(rung, total, total)
        table.check(self.indices)

    def _ibp(self) -> Generator[Progress, None, list[RoundingCost | None]]:
        """Bound every sample at every eps by IBP; returns by eps what rounding cost, None where that is not known.

        Where the arithmetic is float32, bounds in real arithmetic are computed too, for comparison.
        """
        table, both = self.table, self.settings.arithmetic == "float32-any-order"
        cuts = self._cuts(np.arange(len(self.images)), self.prover.batch(IBP, self.classes))
        total, costs, real = len(self.images) * len(self.balls), [], np.full(len(self.images), np.nan)
        for level in reversed(range(len(self.balls))):
            ball = self.balls[level]

            def compute(rows: np.ndarray, ball: Ball = ball) -> dict[str, np.ndarray]:
                margins = {"margins": self.prover.margins(IBP, ball, rows)}
                return margins | ({"real": self.prover.margins(IBP, ball, rows, mode="real")} if both else {})

            before = (len(self.balls) - 1 - level) * len(self.images)
            results = yield from self.work.units(
                f"{IBP}@{ball.eps}", cuts, compute, phase=IBP, before=before, total=total
            )
            largest = 0.0
            for rows, arrays in zip(cuts, results, strict=True):
                if arrays is None:
                    table.skipped[level, rows] = True
                    continue
                table.enter_bounds(IBP, level, rows, arrays["margins"])
                table.count_examined(IBP, level, len(rows))
                if both:
                    real[rows] = np.fmax(real[rows], arrays["real"])
                    finite = np.isfinite(arrays["real"]) & np.isfinite(arrays["margins"])
                    gap = arrays["real"][finite] - arrays["margins"][finite]
                    largest = max(largest, float(gap.max(initial=0.0)))
            certified_in_real = int((table.alive[level] & (real > 0)).sum())
            cost = RoundingCost(
                largest=largest, certified=int(table.certified[level].sum()), certified_in_real=certified_in_real
            )
            costs.append(cost if both and not self.work.incomplete else None)
        yield Progress(IBP, total, total)
        table.check(self.indices)
        return costs[::-1]
