"""Verdicts, sample by sample: the deployed file's prediction, an attack, and a proof."""

from __future__ import annotations

from pipeline.certify.attack import PGD, Attacked, Predict, attack
from pipeline.certify.journal import Journal
from pipeline.certify.ladder import certify
from pipeline.certify.largest import TOLERANCE, certified_at
from pipeline.certify.scheduler import Work
from pipeline.certify.spots import Deployed, Spots, sampled, unforeseen
from pipeline.certify.verdicts import (
    DECIDERS,
    Certification,
    Counterexamples,
    Layer,
    Level,
    RoundingCost,
    Strategy,
    Verdict,
)
from pipeline.progress import Progress

__all__ = [
    "DECIDERS",
    "PGD",
    "TOLERANCE",
    "Attacked",
    "Certification",
    "Counterexamples",
    "Deployed",
    "Journal",
    "Layer",
    "Level",
    "Predict",
    "Progress",
    "RoundingCost",
    "Spots",
    "Strategy",
    "Verdict",
    "Work",
    "attack",
    "certified_at",
    "certify",
    "sampled",
    "unforeseen",
]
