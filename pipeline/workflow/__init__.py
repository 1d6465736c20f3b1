"""certify, retrain and inspect as functions: where the rooms of the package meet. They yield events and print nothing."""

from __future__ import annotations

from pipeline.workflow.certify import certify
from pipeline.workflow.events import Done, Event, Note
from pipeline.workflow.inspect import Inspection, inspect
from pipeline.workflow.retrain import retrain

__all__ = ["Done", "Event", "Inspection", "Note", "certify", "inspect", "retrain"]
