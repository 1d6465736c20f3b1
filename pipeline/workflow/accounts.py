"""What a retraining says of itself: beforehand, of what it delivers, in the file, and against the file that was given."""

from __future__ import annotations

import json

from pipeline import report as reports
from pipeline import train
from pipeline.settings import Settings, metadata_of
from pipeline.train import Recipe
from pipeline.workflow import facts
from pipeline.workflow.certification import Evidence
from pipeline.workflow.runs import Finished
from pipeline.workflow.subject import Subject


def announced(subject: Subject, recipe: Recipe) -> list[str]:
    """What training is about to do to the model, said before it starts and kept in the report."""
    told = [f"recipe {recipe.name}: {recipe.epochs} epochs, batch {recipe.batch_size}, seed {recipe.seed}"]
    if recipe.init == "reinit":
        told.append("weights are drawn anew, as the paper does; --init keep starts from the given ones")
    if recipe.keep_sparsity:
        zeros = train.masks(subject.network)
        count = sum(int((mask == 0).sum()) for mask in zeros.values())
        told.append(f"{count} weights in {len(zeros)} layers are exactly zero, and stay so")
    if recipe.full_bn:
        placed = train.placements(subject.network, keep=recipe.bn == "keep")
        count = sum(p.status == "inserted" for p in placed)
        how = "folded into their layers in the end" if recipe.bn == "fold" else "kept as nodes"
        told.append(
            f"{count} BatchNorms are inserted, {how}; {sum(p.status == 'covered' for p in placed)} are there already"
        )
        told += [f"no BatchNorm after {subject.network.origin(p.node)}: {p.why}" for p in placed if p.status == "left"]
    return told


def delivered(finished: Finished, recipe: Recipe) -> str:
    """Which weights the file holds, in words."""
    if recipe.select == "final":
        return "the weights are those of the final epoch; nothing was selected"
    held = next(r["held_certified"] for r in finished.curves if r["epoch"] == finished.epoch)
    return (
        f"the weights are those of epoch {finished.epoch} of {recipe.epochs}, which certifies most of the held-out part of the "
        f"training data ({100 * held:.2f} %)"
    )


def left_in_file(subject: Subject, recipe: Recipe, settings: Settings, aside: str | None) -> dict[str, str]:
    """What the written file's metadata say of how it came about."""
    left = metadata_of(settings)
    if aside:
        # Certifying on the whole of it later would mostly count samples that were trained on.
        left.pop("pipeline.data", None)
    return left | {
        "pipeline.version": facts.tool().version,
        "pipeline.parent_sha256": subject.file.digests.sha256,
        "pipeline.recipe": json.dumps(recipe.model_dump(mode="json"), sort_keys=True),
    }


def compared(
    before: Evidence, after: Evidence, settings: Settings
) -> tuple[tuple[reports.Accuracies, reports.Accuracies], list[str]]:
    """Before and after at the eps that was trained for, and a plain sentence for each way in which the new file is worse."""
    old, new = before.fields["levels"][-1], after.fields["levels"][-1]
    sides = tuple(
        reports.Accuracies(eps=x.eps, natural=x.natural, attacked=x.attacked, certified=x.certified) for x in (old, new)
    )
    worse = []
    for name in ("attacked", "certified"):
        was, now = getattr(old, name), getattr(new, name)
        if was is not None and now is not None and now.k * was.n < was.k * now.n:
            once = f"{was.k} of {was.n}" if was.n != now.n else f"{was.k}"
            worse.append(
                f"the new file's {name} accuracy at eps {new.eps} is lower than the given one's: {now.k} of {now.n}, was {once}"
            )
    if new.certified.k == 0:
        worse.append(f"nothing is certified at eps {new.eps} after training: train longer, or at a smaller eps")
    return (sides[0], sides[1]), worse
