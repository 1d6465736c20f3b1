"""Verdicts, sample by sample: the deployed file's prediction, an attack, and a proof."""

from __future__ import annotations

from pipeline.certify.attack import PGD, Attacked, Predict, attack
from pipeline.certify.journal import Journal
from pipeline.certify.ladder import LOOKED_INTO, certify
from pipeline.certify.largest import TOLERANCE, certified_at
from pipeline.certify.scheduler import Work
from pipeline.certify.spots import Deployed, Spots, sampled, unforeseen
from pipeline.certify.verdicts import (
    Certification,
    Strategy,
)
from pipeline.progress import Progress

__all__ = [
    "LOOKED_INTO",
    "PGD",
    "TOLERANCE",
    "Attacked",
    "Certification",
    "Deployed",
    "Journal",
    "Predict",
    "Progress",
    "Spots",
    "Strategy",
    "Work",
    "attack",
    "certified_at",
    "certify",
    "sampled",
    "unforeseen",
]
