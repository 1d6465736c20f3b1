"""Verdicts, sample by sample: the deployed file's prediction, an attack, and a proof."""

from __future__ import annotations

from pipeline.certify.attack import PGD, AttackResult, Predict, attack
from pipeline.certify.box_sampling import BoxSampling, DeployedFile, random_points, sample_boxes
from pipeline.certify.journal import Journal
from pipeline.certify.ladder import LAYER_SAMPLES, certify
from pipeline.certify.largest import TOLERANCE, certified_at
from pipeline.certify.scheduler import Work
from pipeline.certify.verdicts import Certification, Strategy
from pipeline.progress import Progress

__all__ = [
    "LAYER_SAMPLES",
    "PGD",
    "TOLERANCE",
    "AttackResult",
    "BoxSampling",
    "Certification",
    "DeployedFile",
    "Journal",
    "Predict",
    "Progress",
    "Strategy",
    "Work",
    "attack",
    "certified_at",
    "certify",
    "random_points",
    "sample_boxes",
]
