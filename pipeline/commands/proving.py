"""``certify --proof DIR``: writes a proof of each certified sample, for ``check-proof``, and a manifest."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.certify import Certification, Strategy, Work
from pipeline.certify.proofs import Relus, proof_of
from pipeline.certify.prover import Prover
from pipeline.checker.graph import FileGraph, refusal
from pipeline.checker.proof import MANIFEST, check
from pipeline.commands.events import Event, Note
from pipeline.commands.subject import Subject
from pipeline.data import Fitted
from pipeline.errors import Preempted, UsageError
from pipeline.onnx.correspondence import value_of
from pipeline.progress import Progress
from pipeline.results import DECIDERS, Proofs, Verdict
from pipeline.results.write import put
from pipeline.settings import Settings

STOPPED = "stopped as asked; what was decided is kept, and the same command goes on from there."


def require_provable(subject: Subject, settings: Settings, work: Work, *, by_feature: bool) -> Relus:
    """The ReLUs of the file, as the checker numbers them.

    Raises UsageError (2) for settings, and InputRejected (3) for a file, whose proofs the checker cannot replay.
    """
    for unsupported, what in (
        (settings.norm != "linf", "--norm l2"),
        (by_feature, "radii by feature"),
        (settings.arithmetic == "none", "--arithmetic none"),
        (settings.shard is not None, "--shard"),
        (settings.time_budget is not None, "--time-budget"),
        (settings.output is not None, "--output"),
        (work.group.world_size > 1, "--devices"),
    ):
        if unsupported:
            raise UsageError(
                f"--proof is for boxes, and for a run in one process without a limit; leave {what} out, or --proof."
            )
    if subject.threshold is not None or subject.network.plan().before_softmax()[1] is not None:
        raise refusal("a threshold or a Softmax behind its logits")
    graph = FileGraph(subject.file.content, _normalisation(subject))
    numbers = {graph.steps[value - 1].name: k for k, value in enumerate(graph.relus)}
    relus = {}
    for step in subject.network.plan().steps:
        name, origin = value_of(subject.network, step.name), subject.network.provenance.nodes.get(step.name)
        if name in numbers and origin is not None and origin.op_type == "Relu":
            axes = [axis for group in origin.axes or () for axis in group]
            if axes != sorted(axes):
                raise refusal("a ReLU whose value is bounded in another order of axes than the file's")
            relus[step.name] = numbers[name]
    if sorted(relus.values()) != list(range(len(numbers))):
        raise refusal("a ReLU that the import merged with another")
    return relus


def proofs(
    subject: Subject,
    fitted: Fitted,
    indices: np.ndarray,
    strategy: Strategy,
    certification: Certification,
    folder: Path,
    relus: Relus,
    work: Work,
) -> Generator[Event, None, Proofs]:
    """Write a proof of each certified sample at its largest certified eps, then the manifest; returns the report's entry.

    Each is replayed as ``check-proof`` does, and kept if that accepts it: its account of rounding is another than the prover's.
    Raises Preempted (75) when told to stop; the next run writes all proofs again.
    """
    samples, entries = certification.samples, list[dict[str, Any]]()
    certified = samples.verdict == Verdict.CERTIFIED
    rows = np.flatnonzero(certified.any(0))
    prover = Prover(subject.network, fitted.images, fitted.labels, strategy, work.clock)
    put(folder, {MANIFEST: None})
    for done, row in enumerate(rows):
        if work.should_stop():
            raise Preempted(STOPPED)
        level = int(np.flatnonzero(certified[:, row])[-1])
        assert samples.decided_by is not None
        ball = certification.balls[level]
        proof = proof_of(prover, DECIDERS[samples.decided_by[level, row]], ball, int(row), relus)
        if proof is not None:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, allow_pickle=False, **proof.arrays)
            content, index = buffer.getvalue(), int(indices[row])
            put(folder, {f"{index}.npz": content})
            entry = {"index": index, "label": int(fitted.labels[row]), "eps": str(ball.eps)}
            entries.append(entry | {"tighten": proof.tighten, "sha256": hashlib.sha256(content).hexdigest()})
        yield Progress("proofs", done + 1, len(rows))
    if len(entries) < len(rows):
        yield _lacking(len(rows) - len(entries), "none was found a second time")
    put(folder, {MANIFEST: _manifest(subject, fitted, strategy, entries)})
    faults: dict[int, str] = {}
    for done, checked in enumerate(check(subject.file.content, folder)):
        if work.should_stop():
            raise Preempted(STOPPED)
        if checked.fault:
            faults[checked.index] = checked.fault
        yield Progress("proofs checked", done + 1, len(entries))
    if faults:
        put(folder, {f"{index}.npz": None for index in faults})
        entries = [entry for entry in entries if entry["index"] not in faults]
        index, fault = next(iter(faults.items()))
        yield _lacking(len(faults), f"check-proof does not accept what was found (of sample {index}: {fault})")
    yield Note(f"{len(entries)} proofs in {folder}: `pipeline check-proof {subject.file.path} {folder}` replays them")
    manifest = _manifest(subject, fitted, strategy, entries)
    put(folder, {MANIFEST: manifest})
    return Proofs(sha256=hashlib.sha256(manifest).hexdigest(), samples=len(entries))


def _lacking(count: int, why: str) -> Note:
    return Note(
        f"{count} certified samples have no proof: {why}; `pipeline check-proof --report` says which, and exits 4 without "
        "--partial",
        True,
    )


def _manifest(subject: Subject, fitted: Fitted, strategy: Strategy, entries: Sequence[dict[str, Any]]) -> bytes:
    contents = {
        "format": 1,
        "model_sha256": subject.file.digests.sha256,
        "arithmetic": strategy.arithmetic,
        "range": list(fitted.value_range),
        "normalise": [part.tolist() for part in _normalisation(subject)],
        "samples": list(entries),
    }
    return json.dumps(contents, indent=1).encode()


def _normalisation(subject: Subject) -> tuple[np.ndarray, ...]:
    """Mean and std, where the deployment applies them before the file."""
    return () if subject.normalise is None else subject.normalise.arrays(subject.sample_shape)
