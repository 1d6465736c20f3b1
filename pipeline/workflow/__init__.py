"""certify, retrain and inspect as functions: where the rooms of the package meet. They yield events and print nothing."""

from __future__ import annotations

from pipeline.workflow.certification import certify
from pipeline.workflow.events import Done, Event, Note
from pipeline.workflow.inspection import Inspection, inspect
from pipeline.workflow.retraining import retrain, write_config
from pipeline.workflow.verification import verify

__all__ = ["Done", "Event", "Inspection", "Note", "certify", "inspect", "retrain", "verify", "write_config"]
