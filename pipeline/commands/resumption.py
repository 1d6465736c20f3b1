"""What makes two runs the same, and a certification that goes on from what the same command decided before it was stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator
from dataclasses import asdict

from pipeline.certify import Journal
from pipeline.commands import facts
from pipeline.commands.events import Event, Note
from pipeline.commands.gates import GATES
from pipeline.commands.guarantee import measured
from pipeline.commands.runs import RunFolder, program
from pipeline.commands.subject import Subject, device_of
from pipeline.data import Dataset
from pipeline.distributed.group import Crew
from pipeline.settings import Settings, metadata_of
from pipeline.system.user_key import VARIABLE
from pipeline.train import Execution, Recipe

CLEARED = {
    "another command": "is of another model, data, settings or version",
    "somebody": "carries no authentication code of yours, whoever left it",
}
FOREIGN = "{} files in {} carry no authentication code of yours for this run (another machine's? damaged?)"


def run_key(subject: Subject, dataset: Dataset, settings: Settings) -> str:
    """The digest of everything that a verdict depends on; gates, and how long one may look, are not among it."""
    asked = settings.model_dump(
        mode="json", exclude=GATES | {"time_budget", "download", "thumbnails", "retrain", "parity_seed"}
    )
    parts = {
        "model": asdict(subject.file.digests),
        "data": dataset.digest,
        "settings": asked,
        "device": device_of(settings),
        "versions": facts.versions(),
        "program": program(),
        "kernels": measured(subject, settings).assumptions,
        "executed": subject.executed.described.graph_sha256,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def training_key(subject: Subject, training: Dataset, recipe: Recipe, settings: Settings, execution: Execution) -> str:
    """The digest of everything that the trained weights depend on."""
    parts = {
        "model": asdict(subject.file.digests),
        "data": training.digest,
        "recipe": recipe.model_dump(mode="json"),
        "execution": [execution.precision, execution.channels_last],
        **metadata_of(settings),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def resumed(run: RunFolder, key: str, crew: Crew) -> Generator[Event, None, Journal]:
    """What the same command decided before it was stopped; what another left is cleared away by the first process."""
    seal = run.seal(key)
    keys = crew.share(None if seal is None else seal.fingerprint)
    if keys[0] is None:
        yield Note(f"nothing is kept of a run that is stopped, and nothing in {run.path} is read: {run.user.why}", True)
        return Journal()
    if len(set(keys)) > 1:
        yield Note(f"what some processes decide cannot be gone on from: set the same {VARIABLE} on every machine", True)
    if crew.leads and (told := CLEARED.get(run.begin_anew(key))):
        yield Note(f"{run.path} {told}: it is cleared, and everything is decided afresh")
    crew.share(None)
    journal = Journal(run.path, seal, rank=crew.rank)
    if crew.leads and journal.foreign:
        yield Note(f"{FOREIGN.format(len(journal.foreign), run.path)}: they are removed, and decided afresh", True)
    if len(journal):
        yield Note(f"going on from {run.path}, where {len(journal)} batches are decided")
    # Nobody may write before everybody has read.
    crew.share(None)
    for part in journal.foreign if crew.leads else ():
        part.unlink(missing_ok=True)
    return journal
