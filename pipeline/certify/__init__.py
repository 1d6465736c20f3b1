"""Verdicts, sample by sample: the deployed file's prediction, an attack, and a proof."""

from __future__ import annotations

from pipeline.certify.attack import PGD, Predict, attack
from pipeline.certify.ladder import Certification, Level, Progress, Settings, Verdict, certify

__all__ = ["PGD", "Certification", "Level", "Predict", "Progress", "Settings", "Verdict", "attack", "certify"]
