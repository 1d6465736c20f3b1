"""What is said of a training: before it starts, while it goes on, in the report, and in the file that it writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline import results as reports
from pipeline import train
from pipeline.commands import facts
from pipeline.commands.examination import Evidence
from pipeline.commands.subject import Subject
from pipeline.results.chance import guessing, near_chance
from pipeline.settings import Settings, metadata_of
from pipeline.system.run_folder import WrittenModel
from pipeline.train import Recipe


def announcement(subject: Subject, recipe: Recipe, settings: Settings) -> list[str]:
    """What training is about to do to the model, in sentences: printed before it starts, and kept in the report."""
    lines = [f"recipe {recipe.name}: {recipe.epochs} epochs, batch {recipe.batch_size}, seed {recipe.seed}"]
    if settings.budget is not None:
        lines.append(
            f"the number of epochs was chosen for {settings.budget:.0f} s of training on the machine that began it"
        )
    if recipe.init == "reinit":
        lines.append("weights are drawn anew, as the paper does; --init keep starts from the given ones")
    if recipe.teacher != "none":
        teacher = "the network as given" if recipe.teacher == train.GIVEN else f"the file of {recipe.teacher}"
        lines.append(f"attacked samples are to get the classes that a teacher gives them unperturbed: {teacher}")
    if recipe.keep_sparsity:
        zeros = train.masks(subject.network)
        count = sum(int((mask == 0).sum()) for mask in zeros.values())
        lines.append(f"{count} weights in {len(zeros)} layers are exactly zero, and stay so")
    if recipe.full_bn:
        placed = train.placements(subject.network, keep=recipe.bn == "keep")
        count = sum(p.status == "inserted" for p in placed)
        how = "folded into their layers in the end" if recipe.bn == "fold" else "kept as nodes"
        lines.append(
            f"{count} BatchNorms are inserted, {how}; {sum(p.status == 'covered' for p in placed)} are there already"
        )
        lines += [
            f"no BatchNorm after {subject.network.origin(p.node)}: {p.reason}" for p in placed if p.status == "left"
        ]
    return lines


def collapse(record: Mapping[str, float | int], labels: np.ndarray, recipe: Recipe) -> str | None:
    """A warning after an epoch behind the start of the ramp in which the held-out part is classified by guessing at best."""
    if "held_natural" not in record or record["epoch"] <= recipe.warmup_start:
        return None
    counts = np.unique(labels, return_counts=True)[1].tolist()
    n, attained = len(labels), record["held_natural"]
    if not near_chance(round(attained * n), n, guessing(len(counts), counts)):
        return None
    return (
        f"after epoch {record['epoch']} of {recipe.epochs} the network is right on {100 * attained:.1f} % of the held-out part, "
        "no better than guessing; it seldom recovers. Stop it (a checkpoint is kept), and train with a lower --learning-rate, a "
        "longer --warmup-length or --precision fp32, or at a smaller eps."
    )


def comparison(before: Evidence, after: Evidence) -> tuple[tuple[reports.Accuracies, reports.Accuracies], list[str]]:
    """Both files' accuracies at the eps of training, and a sentence for each way in which the new file is worse."""
    old, new = before.fields["levels"][-1], after.fields["levels"][-1]
    sides = tuple(
        reports.Accuracies(
            eps=x.eps, natural=x.natural, attacked=x.attacked, certified=x.certified, undecided=x.undecided
        )
        for x in (old, new)
    )
    worse = []
    for name in ("attacked", "certified"):
        was, now = getattr(old, name), getattr(new, name)
        if was is not None and now is not None and now.k * was.n < was.k * now.n:
            past = f"{was.k} of {was.n}" if was.n != now.n else f"{was.k}"
            worse.append(
                f"the new file's {name} accuracy at eps {new.eps} is lower than the given one's: {now.k} of {now.n}, was {past}"
            )
    if new.certified.k == 0:
        worse.append(f"nothing is certified at eps {new.eps} after training: train longer, or at a smaller eps")
    return (sides[0], sides[1]), worse


def _weights_in_file(finished: WrittenModel, recipe: Recipe) -> str:
    """Which epoch's weights the file holds, in a sentence."""
    if recipe.select == "final":
        return "the weights are those of the final epoch; nothing was selected"
    share = next(r["held_certified"] for r in finished.curves if r["epoch"] == finished.epoch)
    return (
        f"the weights are those of epoch {finished.epoch} of {recipe.epochs}, which certifies most of the held-out part of the "
        f"training data ({100 * share:.2f} %)"
    )


def file_metadata(subject: Subject, recipe: Recipe, settings: Settings, aside: str | None) -> dict[str, str]:
    """Metadata of the written file: its settings, recipe, and the digest of the file that was retrained."""
    entries = metadata_of(settings)
    if aside:
        # Certifying on the whole of it later would mostly count samples that were trained on.
        entries.pop("pipeline.data", None)
    return entries | {
        "pipeline.version": facts.tool().version,
        "pipeline.parent_sha256": subject.file.digests.sha256,
        "pipeline.recipe": json.dumps(recipe.model_dump(mode="json"), sort_keys=True),
    }


def _curves(history: Sequence[Mapping[str, float | int]]) -> tuple[dict[str, float | int | str | None], ...]:
    """Epochs as a result keeps them: ``natural`` and ``certified`` are accuracies, held out where samples were held out.

    How long they took is no part of a result: see ``epoch_times``.
    """
    rows: list[dict[str, float | int | str | None]] = []
    for record in history:
        row: dict[str, float | int | str | None] = {name: v for name, v in record.items() if name != "seconds"}
        row["natural_loss"], row["robust_loss"] = row.pop("natural", None), row.pop("robust", None)
        for name in ("natural", "certified"):
            row[name] = record.get(f"held_{name}", record.get(f"train_{name}"))
        rows.append(row)
    return tuple(rows)


def epoch_times(history: Sequence[Mapping[str, float | int]]) -> dict[str, float]:
    """The seconds of each epoch."""
    return {f"epoch {record['epoch']}": record["seconds"] for record in history}


def training_section(
    subject: Subject,
    recipe: Recipe,
    settings: Settings,
    execution: train.Execution,
    finished: WrittenModel,
    sides: tuple[reports.Accuracies, reports.Accuracies],
    comparison_lines: Sequence[str],
) -> reports.Training:
    """The part of a report that says how the file was trained; ``sides`` are its accuracies before and after."""
    return reports.Training(
        recipe=recipe.model_dump(mode="json"),
        curves=_curves(finished.curves),
        before=sides[0],
        after=sides[1],
        parent_sha256=subject.file.digests.sha256,
        notes=(
            *announcement(subject, recipe, settings),
            *comparison_lines,
            execution.describe_products(),
            _weights_in_file(finished, recipe),
            *finished.changes,
        ),
    )
