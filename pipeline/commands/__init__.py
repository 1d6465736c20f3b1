"""The commands (certify, retrain, inspect, ...) as functions that yield events and print nothing.

Each is imported on first use: most of them import PyTorch and ONNX Runtime, which some commands do not need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.commands.certification import certify
    from pipeline.commands.check_proof import check_proof
    from pipeline.commands.events import Done, Event, Note
    from pipeline.commands.inspection import Inspection, inspect
    from pipeline.commands.merging import merge
    from pipeline.commands.retrain_settings import write_config
    from pipeline.commands.retraining import retrain
    from pipeline.commands.verification import verify

__all__ = [
    "Done",
    "Event",
    "Inspection",
    "Note",
    "certify",
    "check_proof",
    "inspect",
    "merge",
    "retrain",
    "verify",
    "write_config",
]
_MODULES = {
    **dict.fromkeys(("Done", "Event", "Note"), "events"),
    **dict.fromkeys(("Inspection", "inspect"), "inspection"),
    "certify": "certification",
    "check_proof": "check_proof",
    "merge": "merging",
    "retrain": "retraining",
    "verify": "verification",
    "write_config": "retrain_settings",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
