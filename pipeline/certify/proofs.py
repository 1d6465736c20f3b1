"""Proofs that an independent checker can replay: leaves, slopes and multipliers that make every margin positive (docs/proofs.md).

A certified sample is proved once more, by the method that decided it, and the proof is recorded; nothing is recorded while
verdicts are computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pipeline.bounds.margins import margin_form
from pipeline.bounds.rows import ends_tail
from pipeline.bounds.splits import Domains, SplitBounds
from pipeline.certify.complete import decide
from pipeline.certify.prover import Prover
from pipeline.core.linear_form import LinearForm
from pipeline.core.network import Step
from pipeline.core.threat import Ball
from pipeline.methods import DOMAINS, IBP, METHODS

Relus = Mapping[str, int]
"""By the name of a step of the network, the number of its ReLU in the file's order."""


@dataclass(frozen=True, eq=False)
class Proof:
    """The arrays of one sample's proof; ``tighten``: whether the boxes of neurons are bounded by backward walks of their own."""

    arrays: dict[str, np.ndarray]
    tighten: bool


def proof_of(prover: Prover, decided_by: str, ball: Ball, row: int, relus: Relus) -> Proof | None:
    """The proof of one sample in its ball, by the method that decided it, else by the most expensive; None if both fail."""
    for method in dict.fromkeys((decided_by, prover.settings.methods[-1])):
        if method in METHODS and (proof := _by(prover, method, ball, row, relus)) is not None:
            return proof
    return None


@torch.no_grad()
def _by(prover: Prover, method: str, ball: Ball, row: int, relus: Relus) -> Proof | None:
    """The proof by one method: by the initial slopes, and by branch and bound for the forms that these leave open."""
    bounds = prover.engine.bounds(method)
    x, label = prover.tensors(np.array([row]))
    known, index = bounds.over([ball.region(x)]), bounds.top.index
    logits = known.box(index).center
    forms = margin_form(label, logits.shape[1:], logits.dtype)
    needed, count = bounds.needed(1 + len(forms.const)), len(forms.const)
    least, split = known.lower({index: forms}, until=ends_tail)[:, 0], None
    start = least.new_zeros(count, 0)
    if method != IBP:
        split = SplitBounds(known, forms, index, prover.engine.need(method).rows(bounds.linear.memory, 1))
        start = split.lines()[0].expand(count, -1)
    whole = Domains(torch.arange(count, device=x.device), 0 * start, start, 0 * start, least)
    if split is not None:
        least = torch.fmax(least, split.proved(whole))
    record = Recorder(relus, torch.arange(count) + (torch.arange(count) >= label.cpu()))
    record.leaves(split, whole[least > needed])
    others = (~(least > needed)).nonzero().flatten()
    if len(others):
        rest, record.rivals = LinearForm(forms.coeff[others], forms.const[others]), record.rivals[others.cpu()]
        if method == IBP:
            return None
        most = max(prover.settings.most_domains or 0, DOMAINS)
        decision = decide(known, rest, index, _no_counterexample, needed=needed, domains=most, record=record)
        if decision.end != "proved":
            return None
    return Proof({"x": x[0].float().cpu().numpy(), **record.arrays()}, METHODS[method].over == "tightened")


def _no_counterexample(points: Tensor) -> tuple[Tensor, np.ndarray]:
    """The judge for a certified sample: no point is a counterexample."""
    return points, np.zeros(len(points), bool)


@dataclass(eq=False)
class Recorder:
    """Records the proof of a search in the checker's terms: neurons by the number of their ReLU and their flat entry."""

    relus: Relus
    rivals: Tensor
    """The class that each form of the current search compares with the label."""
    _parts: list[tuple[SplitBounds | None, Domains, np.ndarray]] = field(default_factory=list)
    """For each search its leaves, and their classes."""
    _ends: list[tuple[SplitBounds, Step, Tensor, Tensor]] = field(default_factory=list)

    def leaves(self, split: SplitBounds | None, proved: Domains) -> None:
        """Part of ``Record``; ``split`` is None for leaves without slopes."""
        self._parts.append((split, proved, self.rivals[proved.of.cpu()].numpy()))

    def ends(self, split: SplitBounds, step: Step, at: Tensor, alpha: Tensor) -> None:
        """Part of ``Record``."""
        self._ends.append((split, step, at, alpha))

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of the proof; a form that was searched twice, over other boxes, has the leaves of the last search."""
        last = {int(rival): split for split, _, rivals in self._parts for rival in rivals}
        last_parts = [
            (s, part, rivals, np.array([last[int(r)] is s for r in rivals], bool)) for s, part, rivals in self._parts
        ]
        columns = _Columns([*(s for s, *_ in self._parts), *(s for s, *_ in self._ends)], self.relus)

        def leaves(name: str) -> np.ndarray:
            parts = [columns.scatter(s, getattr(part, name))[mine] for s, part, _, mine in last_parts]
            return np.concatenate(parts)

        alpha, sign, beta = map(leaves, ("alpha", "sign", "beta"))
        split = np.argwhere(sign)
        entries = tuple(split.T)
        return {
            "row": np.concatenate([rivals[mine] for _, _, rivals, mine in last_parts]).astype(np.int32),
            "alpha": alpha.clip(0, 1),
            "split": split.astype(np.int32),
            "sign": sign[entries].astype(np.int8),
            "beta": np.nan_to_num(beta[entries], nan=0.0, posinf=0.0).clip(0),
            "relu": columns.relu,
            "at": columns.at,
            **self._boxes(columns),
        }

    def _boxes(self, columns: _Columns) -> dict[str, np.ndarray]:
        at, sign, alpha = [np.zeros((0, 2))], [np.zeros(0)], [np.zeros((0, len(columns.relu)), np.float32)]
        for split, step, entries, slopes in self._ends:
            entry = np.tile(entries.cpu().numpy(), 2)
            at.append(np.stack([np.full_like(entry, self.relus[step.name]), entry], 1))
            sign.append(np.repeat([1, -1], len(entries)))
            before = torch.zeros(len(slopes), split.neurons)
            before[:, : slopes.shape[1]] = slopes
            alpha.append(columns.scatter(split, before))
        return {
            "box_at": np.concatenate(at).astype(np.int32),
            "box_sign": np.concatenate(sign).astype(np.int8),
            "box_alpha": np.concatenate(alpha).clip(0, 1),
        }


class _Columns:
    """The neurons of several searches as columns: the ReLU (``relu``) and the flat entry (``at``) of each."""

    def __init__(self, splits: Sequence[SplitBounds | None], relus: Relus):
        self._of = {split: self._neurons(split, relus) for split in dict.fromkeys(splits)}
        every = np.unique(np.concatenate([np.zeros((0, 2), np.int32), *self._of.values()]), axis=0)
        self.relu, self.at = every.T
        self._column = {(int(relu), int(at)): column for column, (relu, at) in enumerate(every)}

    @staticmethod
    def _neurons(split: SplitBounds | None, relus: Relus) -> np.ndarray:
        """The number of the ReLU and the flat entry of each neuron of a search: (neurons, 2)."""
        layers = [] if split is None else split.layers
        parts = [np.stack([np.full(len(at), relus[step.name]), at.cpu().numpy()], 1) for step, at, _ in layers]
        return np.concatenate([np.zeros((0, 2)), *parts]).astype(np.int32)

    def scatter(self, split: SplitBounds | None, values: Tensor) -> np.ndarray:
        """Values of a search's neurons, (rows, neurons), in their columns: (rows, columns), zero elsewhere."""
        columns = np.zeros((len(values), len(self.relu)), np.float32)
        columns[:, [self._column[int(relu), int(at)] for relu, at in self._of[split]]] = values.cpu().numpy()
        return columns
