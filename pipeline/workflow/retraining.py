"""``pipeline retrain``: train the network of a file, write the weights back into the same graph, certify what was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from pipeline import report as reports
from pipeline import train
from pipeline.data import Augment, Dataset, Fitted, Loader, has_part, hold_out, load
from pipeline.errors import InputRejected, UsageError
from pipeline.graph.digest import digests
from pipeline.graph.write_back import write_back
from pipeline.network import Network
from pipeline.preprocess import without_normalisation
from pipeline.settings import Settings, metadata_of, settle
from pipeline.train import Recipe
from pipeline.workflow import facts
from pipeline.workflow.certification import Evidence, conclude, examine
from pipeline.workflow.events import Done, Event, Note
from pipeline.workflow.runs import Finished, RunFolder
from pipeline.workflow.subject import Subject, device_of, metadata, need_data, open_model, test_part, to_inputs

ASIDE = 0.1
"""The share of a data set without a test part that is set aside for certification, never trained on."""


def retrain(
    model: Path,
    flags: Mapping[str, Any],
    *,
    out: Path | None = None,
    force: bool = False,
    report: Path | None = None,
    argv: Sequence[str] = (),
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Retrain a file to be certifiable at the largest ``eps`` given, and certify the file written; the last event is ``Done``.

    Training goes on from the checkpoint in ``<out>.run`` where the same command left one, and is skipped where the same
    command has finished. Raises what the exit codes stand for: see ``pipeline.errors``.
    """
    started = datetime.now(UTC)
    settings, source = settle(model, flags, metadata(model))
    if settings.eps is None:
        raise UsageError(
            "--eps is missing, and neither pipeline.toml nor the file says it: which radius, such as --eps 8/255?"
        )
    radii = settings.eps
    if settings.norm != "linf":
        raise UsageError(f"retrain trains against boxes, norm linf; {source['norm']} says norm {settings.norm!r}.")
    if "method" not in source:
        # What training minimises, and fast on the given file too, of which nothing may be provable; `certify` proves more.
        settings = settings.model_copy(update={"method": "ibp"})
    out = out or model.with_name(f"{model.stem}.certified.onnx")
    run = RunFolder(out)
    _check_target(model, run, force)
    gates = [reports.parse_gate(text) for text in settings.fail_under]
    whole = [gate for gate in gates if gate.label is None]
    reports.check_gates(whole, eps=[str(e) for e in radii], labels=(), attacked=settings.attack)

    subject = open_model(model, settings)
    uri = need_data(subject, settings)
    training, testing, aside = _parts(uri, settings)
    if aside:
        yield Note(aside)
    images = to_inputs(training, subject, settings)
    recipe = _recipe(subject, images, settings)
    key = _key(subject, training, recipe, settings)
    finished = run.finished(key)
    if out.exists() and finished is None and not force and not run.begun_by(key):
        raise UsageError(
            f"{out} exists and this command did not finish it; name another --out, or overwrite it with --force."
        )
    if force and finished is None:
        run.forget_others(key)
    for note in (*subject.imported.notes, *_announced(subject, recipe)):
        yield Note(note)

    yield Note("certifying the given file, to compare with")
    before = yield from examine(subject, testing, settings, source, gates)
    if finished is None:
        network, curves = yield from _train(subject, images, recipe, settings, run, key, should_stop)
        written = write_back(
            model, without_normalisation(network), out, metadata=_metadata(subject, recipe, settings, aside)
        )
        finished = Finished(key, digests(out).sha256, written.changes, curves)
        run.remember(finished)
    else:
        yield Note(
            f"{out.name} is what this command wrote when it finished: nothing is trained, and it is certified again"
        )

    delivered = open_model(out, settings)
    yield Note(f"certifying {out.name}")
    after = yield from examine(delivered, testing, settings, source, gates)
    told, warnings = _compared(before, after, settings)
    for warning in warnings:
        yield Note(warning, warning=True)
    after.fields["warnings"] = (*after.fields["warnings"], *(reports.Caution(message=w) for w in warnings))
    training_facts = reports.Training(
        recipe=recipe.model_dump(mode="json"),
        curves=facts.curves(finished.curves),
        before=told[0],
        after=told[1],
        parent_sha256=before.fields["model"].sha256,
        notes=(*_announced(subject, recipe), *finished.changes),
    )
    result = conclude(after, gates, training_facts)
    settled = argv if "--out" in argv else (*argv, "--out", str(out))
    described = reports.Report.of(
        "retraining",
        result,
        facts.run(started, settled, device_of(settings), after.timings, "time budget" if after.cut else None),
    )
    folder = report or out.with_name(f"{out.stem}.report")
    reports.write(described, after.samples, folder)
    yield Done(described, folder, out, finished.changes)


def _check_target(model: Path, run: RunFolder, force: bool) -> None:
    """Before any work: the file may be written where it was asked for. Raises UsageError."""
    out = run.out
    if out.resolve() == model.resolve():
        raise UsageError(f"--out is the file that is retrained, {model}; name another.")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out} lies in a folder that does not exist; make {out.parent} first.")
    if out.exists() and not force and not run.path.is_dir():
        raise UsageError(f"{out} exists; name another --out, or overwrite it with --force.")


def _parts(uri: str, settings: Settings) -> tuple[Dataset, Dataset, str | None]:
    """(trained on, certified on, a sentence where a tenth had to be set aside)."""
    split = has_part(uri, "test")
    if settings.test_data is None and not split:
        rest, held = hold_out(load(uri, part=None, download=settings.download), ASIDE, settings.seed)
        count = f"{len(held)} of {len(held) + len(rest)}"
        told = f"the data has no test part: {count} samples are set aside by seed, never trained on, and certified on"
        return rest, held, told
    training = load(uri, part="train" if has_part(uri, "train") else None, download=settings.download)
    return training, test_part(settings.test_data or uri, settings), None


def _recipe(subject: Subject, images: Fitted, settings: Settings) -> Recipe:
    asked = {"seed": settings.seed, **settings.retrain}
    name = asked.pop("recipe", "shi2021")
    return train.recipe(str(name), input_shape=subject.sample_shape, n_train=len(images), **asked)


def _key(subject: Subject, training: Dataset, recipe: Recipe, settings: Settings) -> str:
    """The digest of everything that the trained weights depend on."""
    parts = {
        "model": digests(subject.path).sha256,
        "data": training.digest,
        "recipe": recipe.model_dump(mode="json"),
        **metadata_of(settings),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _announced(subject: Subject, recipe: Recipe) -> list[str]:
    """What training is about to do to the model, said before it starts and kept in the report."""
    told = [f"recipe {recipe.name}: {recipe.epochs} epochs, batch {recipe.batch_size}, seed {recipe.seed}"]
    if recipe.init == "reinit":
        told.append("weights are drawn anew, as the paper does; --init keep starts from the given ones")
    if recipe.full_bn:
        placed = train.placements(subject.network, keep=recipe.bn == "keep")
        count = sum(p.status == "inserted" for p in placed)
        how = "folded into their layers in the end" if recipe.bn == "fold" else "kept as nodes"
        told.append(
            f"{count} BatchNorms are inserted, {how}; {sum(p.status == 'covered' for p in placed)} are there already"
        )
        told += [f"no BatchNorm after {subject.network.origin(p.node)}: {p.why}" for p in placed if p.status == "left"]
    return told


def _train(
    subject: Subject,
    images: Fitted,
    recipe: Recipe,
    settings: Settings,
    run: RunFolder,
    key: str,
    should_stop: Callable[[], bool],
) -> Generator[Any, None, tuple[Network, tuple[dict[str, float | int], ...]]]:
    if not subject.network.trainable():
        raise InputRejected(
            "nothing in this file can be trained: it has no weights with a way back into it; see `pipeline inspect`."
        )
    if subject.network.inputs[0].shape[0] is not None:
        raise InputRejected(
            "training needs batches, and this file fixes its batch where it cannot be freed; export it with a free one."
        )
    device = device_of(settings)
    torch.manual_seed(recipe.seed)
    keep, held = _held_out(images, recipe)
    loader = Loader(
        images.images[keep],
        images.labels[keep],
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        augment=Augment(recipe.crop, recipe.flip),
        device=device,
        layout=images.layout,
    )
    aside = (torch.from_numpy(images.images[held]).to(device), torch.from_numpy(images.labels[held]).to(device))
    run.begin(key)
    assert settings.eps is not None
    events = train.train(
        subject.network,
        loader,
        aside if len(held) else None,
        recipe=recipe,
        eps=settings.eps[-1],
        low=images.value_range[0],
        high=images.value_range[1],
        device=device,
        checkpoint=run.checkpoint,
        identity={"run": key},
        should_stop=should_stop,
    )
    for event in events:
        if isinstance(event, train.Finished):
            return event.network, tuple(dict(record) for record in event.history)
        yield event
    raise AssertionError("training ends with Finished")


def _held_out(images: Fitted, recipe: Recipe) -> tuple[Any, Any]:
    """Indices trained on, and those on which progress is shown."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(recipe.seed)).numpy()
    count = round(len(images) * recipe.held_out)
    return order[count:], order[:count]


def _metadata(subject: Subject, recipe: Recipe, settings: Settings, aside: str | None) -> dict[str, str]:
    left = metadata_of(settings)
    if aside:
        # Certifying on the whole of it later would mostly count samples that were trained on.
        left.pop("pipeline.data", None)
    return left | {
        "pipeline.version": facts.tool().version,
        "pipeline.parent_sha256": digests(subject.path).sha256,
        "pipeline.recipe": json.dumps(recipe.model_dump(mode="json"), sort_keys=True),
    }


def _compared(
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
        if was is not None and now is not None and now.k < was.k:
            worse.append(
                f"the new file's {name} accuracy at eps {new.eps} is lower than the given one's: {now.k} of {now.n}, was {was.k}"
            )
    if new.certified.k == 0:
        worse.append(f"nothing is certified at eps {new.eps} after training: train longer, or at a smaller eps")
    return (sides[0], sides[1]), worse
