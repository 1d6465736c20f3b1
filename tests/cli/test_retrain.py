"""``pipeline retrain``: the file is the user's, trained; nothing is overwritten, nothing is trained twice, nothing is lost."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest

from pipeline.commands.training_report import collapse
from pipeline.data import load
from pipeline.results import read
from pipeline.train import recipe
from tests.cli.conftest import ROOT
from tests.onnx.files import digests, model, node

SHORT = ("--data", "digits", "--eps", "0.05", "--epochs", "4")


def test_the_written_file_is_the_same_graph_and_certifies_by_its_own_metadata(pipeline, here):
    code, out, err = pipeline("retrain", "model.onnx", *SHORT)
    assert code == 0, err
    assert "drawn anew" in err
    assert "before" in out
    before, after = here / "model.onnx", here / "model.certified.onnx"
    assert digests(before).structure_sha256 == digests(after).structure_sha256
    assert digests(before).weights_sha256 != digests(after).weights_sha256
    report = read(here / "model.certified.report").result
    assert report.model.sha256 == digests(after).sha256
    assert report.training.parent_sha256 == digests(before).sha256
    assert len(report.training.curves) == 4
    code, out, err = pipeline("certify", "model.certified.onnx", "--method", "ibp", "--format", "json")
    assert code == 0, err
    level = json.loads(out)["result"]["levels"]
    assert [one["eps"] for one in level] == ["1/20"]
    assert level[0]["certified"]["k"] == report.levels[0].certified.k

    stamp = after.stat().st_mtime_ns
    code, _, err = pipeline("retrain", "model.onnx", *SHORT)
    assert code == 0
    assert "nothing is trained" in err
    assert after.stat().st_mtime_ns == stamp

    (here / "model.certified.onnx.run" / "finished.json").unlink()  # as if killed after the file was written
    code, _, err = pipeline("retrain", "model.onnx", *SHORT)
    assert code == 0
    assert digests(after).sha256 == report.model.sha256

    stamp = after.stat().st_mtime_ns
    code, _, err = pipeline("retrain", "model.onnx", *SHORT, "--seed", "1")
    assert code == 2
    assert "--force" in err
    assert after.stat().st_mtime_ns == stamp


def test_onnx_runtime_agrees_with_the_report_on_natural_accuracy(pipeline, here):
    pipeline("retrain", "model.onnx", *SHORT, "--no-attack")
    data = load("digits", part="test")
    session = onnxruntime.InferenceSession(str(here / "model.certified.onnx"), providers=["CPUExecutionProvider"])
    x = data.images.reshape(-1, 1, 8, 8).astype(np.float32)
    (logits,) = session.run(None, {session.get_inputs()[0].name: x})
    natural = read(here / "model.certified.report").result.levels[0].natural
    assert natural.k == int((logits.argmax(1) == data.labels).sum())


def test_a_teacher_is_the_given_network_or_another_files(pipeline, here):
    code, _, err = pipeline("retrain", "model.onnx", *SHORT, "--recipe", "distil", "--no-attack", "--out", "a.onnx")
    assert code == 0, err
    assert "a teacher gives them unperturbed: the network as given" in " ".join(err.split())
    shutil.copyfile("model.onnx", "teacher.onnx")
    other = ("--recipe", "distil", "--teacher", "teacher.onnx", "--no-attack", "--out", "b.onnx")
    assert pipeline("retrain", "model.onnx", *SHORT, *other)[0] == 0
    assert digests(here / "a.onnx").weights_sha256 == digests(here / "b.onnx").weights_sha256
    told = read(here / "b.report").result.training.recipe["teacher"]
    assert told == f"SHA-256 {digests(here / 'teacher.onnx').sha256}", "no path of this machine is left in a report"
    shutil.copyfile(here / "a.onnx", here / "teacher.onnx")
    code, _, err = pipeline("retrain", "model.onnx", *SHORT, *other)
    assert code == 2, "another teacher makes another file"
    assert "--force" in err


def test_a_teacher_of_other_classes_is_refused(pipeline, here):
    nodes = [node("Flatten", ["x"], ["f"]), node("MatMul", ["f", "w"], ["y"])]
    onnx.save(model(nodes, ("N", 1, 8, 8), {"w": np.eye(64, 7, dtype=np.float32)}), here / "teacher.onnx")
    code, _, err = pipeline("retrain", "model.onnx", *SHORT, "--recipe", "distil", "--teacher", "teacher.onnx")
    assert code == 3
    assert "same samples and classes" in " ".join(err.split())


def test_bn_keep_writes_nodes(pipeline, here):
    assert pipeline("retrain", "model.onnx", *SHORT, "--bn", "keep", "--no-attack")[0] == 0
    nodes = [n.op_type for n in onnx.load(here / "model.certified.onnx").graph.node]
    assert nodes.count("BatchNormalization") == 3


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--data", "digits"], "--eps"),
        ([*SHORT, "--out", "model.onnx"], "--out"),
        ([*SHORT, "--out", "taken.onnx"], "--force"),
        ([*SHORT, "--out", "nowhere/x.onnx"], "folder"),
        ([*SHORT, "--recipe", "magic"], "shi2021"),
        ([*SHORT, "--device", "cpu", "--precision", "tf32"], "bf16"),
        ([*SHORT, "--fail-under", "certified@0.3=0.1"], "0.3"),
        ([*SHORT, "--budget", "10m"], "--epochs"),
        ([*SHORT, "--compare", "fast"], "two recipes"),
        ([*SHORT, "--compare", "fast,magic"], "shi2021"),
        ([*SHORT, "--compare", "fast,pgd", "--recipe", "fast"], "--recipe"),
        ([*SHORT, "--compare", "fast,pgd", "--held-out", "0"], "held-out"),
        ([*SHORT[:-2], "--budget", "10m", "--write-config", "c.toml"], "--write-config"),
    ],
)
def test_what_cannot_end_well_is_refused_before_training(pipeline, here, argv, says):
    (here / "taken.onnx").write_bytes(b"someone's")
    code, _, err = pipeline("retrain", "model.onnx", *argv)
    assert code == 2, err
    assert says in err
    assert (here / "taken.onnx").read_bytes() == b"someone's"
    assert not list(here.glob("*.run"))


def test_normalisation_outside_the_graph_is_trained_with_and_stays_outside(pipeline, here):
    flags = ("--mean", "0.5", "--std", "0.25")
    code, _, err = pipeline("retrain", "model.onnx", *SHORT, *flags, "--no-attack")
    assert code == 0, err
    assert digests(here / "model.onnx").structure_sha256 == digests(here / "model.certified.onnx").structure_sha256
    code, out, err = pipeline("certify", "model.certified.onnx", "--no-attack", "--method", "ibp", "--format", "json")
    assert code == 0, err
    result = json.loads(out)["result"]
    assert result["preprocessing"]["std"] == [0.25]
    assert result["levels"][0]["certified"]["k"] == read(here / "model.certified.report").result.levels[0].certified.k


def test_the_precision_of_training_is_said_kept_in_the_report_and_no_part_of_the_certificate(pipeline, here):
    asked = ("--recipe", "crown-ibp", "--precision", "bf16", "--compile")
    code, _, err = pipeline("retrain", "model.onnx", *SHORT, "--no-attack", *asked)
    assert code == 0, err
    said = "products of training in bfloat16"
    assert f"{said}, steps not compiled, channels last (the loss of this recipe is not one graph)" in " ".join(
        err.split()
    )
    report = read(here / "model.certified.report").result
    assert said in report.training.notes
    assert report.method.arithmetic == "float32-any-order"
    code, out, err = pipeline("certify", "model.certified.onnx", "--no-attack", "--method", "ibp", "--format", "json")
    assert code == 0, err
    assert json.loads(out)["result"]["levels"][0]["certified"]["k"] == report.levels[0].certified.k


def test_the_given_file_is_certified_on_fewer_samples_where_it_is_asked_to_be(pipeline, here):
    code, out, err = pipeline("retrain", "model.onnx", *SHORT, "--before-samples", "50", "--fail-under", "natural=0.1")
    assert code == 0, err
    training = read(here / "model.certified.report").result.training
    assert training.before.natural.n == 50
    assert training.after.natural.n == 360
    assert "50" in out


def test_an_improvement_is_judged_on_the_same_samples(pipeline, here):
    code, _, err = pipeline("retrain", "model.onnx", *SHORT, "--before-samples", "50", "--require-improvement")
    assert code == 2
    assert "on the same samples" in err
    assert not (here / "model.certified.onnx").exists()


def test_a_gate_that_fails_still_leaves_file_and_report(pipeline, here):
    code, _, _ = pipeline("retrain", "model.onnx", *SHORT, "--no-attack", "--fail-under", "natural=1")
    assert code == 1
    assert (here / "model.certified.onnx").exists()
    assert read(here / "model.certified.report").result.verdict == "fail"


def test_data_without_a_test_part_is_split_and_said(pipeline, here):
    data = load("digits", part="train")
    np.savez(here / "all.npz", x=data.images, y=data.labels)
    code, _, err = pipeline(
        "retrain", "model.onnx", "--data", "npz:all.npz", "--eps", "0.05", "--epochs", "2", "--no-attack"
    )
    assert code == 0, err
    assert "set aside" in err
    assert read(here / "model.certified.report").result.data.n_evaluated == round(len(data) / 10)


STOPPED = ["retrain", "model.onnx", "--data", "digits", "--eps", "0.05", "--epochs", "8", "--no-attack"]


@pytest.fixture(scope="module")
def unstopped(nursery, tmp_path_factory):
    """The digest of the weights of a run that nothing stops."""
    folder = tmp_path_factory.mktemp("unstopped")
    shutil.copyfile(ROOT / "models" / "digits.onnx", folder / "model.onnx")
    ended = nursery.run(folder, *STOPPED)
    assert ended.code == 0, ended.err
    return digests(folder / "model.certified.onnx").weights_sha256


def test_a_stopped_run_goes_on_to_the_result_of_an_unstopped_one(pipeline, here, stopped, unstopped):
    stopped("model.certified.onnx.run/checkpoint.pt", *STOPPED)
    assert not (here / "model.certified.onnx").exists()
    assert (here / "model.certified.onnx.run" / "checkpoint.pt").exists()
    again, _, err = pipeline(*STOPPED)
    assert again == 0, err
    assert "going on from the checkpoint" in err
    assert digests(here / "model.certified.onnx").weights_sha256 == unstopped


def test_the_demo_runs_and_its_second_run_trains_nothing(pipeline, here, monkeypatch):
    from pipeline import train

    whole = train.recipe
    monkeypatch.setattr(train, "recipe", lambda name, **given: whole(name, **given, epochs=2))
    assert pipeline("demo", "--out", "shown")[0] == 0
    assert (here / "shown" / "report" / "report.html").exists()
    code, _, err = pipeline("demo", "--out", "shown")
    assert code == 0
    assert "nothing is trained" in err


def test_a_configuration_written_down_is_followed_and_named_recipes_start_from_their_own(pipeline, here):
    code, out, err = pipeline("retrain", "model.onnx", *SHORT, "--recipe", "mtl-ibp", "--write-config", "pipeline.toml")
    assert (code, out) == (0, ""), err
    assert "nothing was trained" in err
    assert not list(here.glob("*.run"))
    code, _, err = pipeline("retrain", "model.onnx", *SHORT, "--write-config", "pipeline.toml")
    assert code == 2
    assert "--force" in err
    text = (here / "pipeline.toml").read_text()
    (here / "pipeline.toml").write_text(text.replace("alpha = 0.5", "alpha = 0.75"))
    code, _, err = pipeline("--verbose", "retrain", "model.onnx", "--data", "digits", "--eps", "0.05", "--no-attack")
    assert code == 0, err
    assert "alpha 0.75" in err
    training = read(here / "model.certified.report").result.training
    assert (training.recipe["name"], training.recipe["alpha"], len(training.curves)) == ("mtl-ibp", 0.75, 4)
    assert any("final epoch" in note for note in training.notes)
    code, _, err = pipeline(
        "--verbose", "retrain", "model.onnx", *SHORT, "--no-attack", "--recipe", "shi2021", "--out", "other.onnx"
    )
    assert code == 0, err
    assert 'loss "ibp"' in err


def test_a_time_budget_leaves_a_checkpoint_and_slices_end_where_a_whole_run_does(pipeline, here):
    argv = ("retrain", "model.onnx", *SHORT, "--no-attack")
    code, _, err = pipeline(*argv, "--time-budget", "0s")
    assert code == 75, err
    assert "goes on" in err
    assert not (here / "model.certified.onnx").exists()
    code, _, err = pipeline(*argv, "--time-budget", "10m")
    assert code == 0, err
    assert "going on from the checkpoint, 1 of" in err
    assert pipeline(*argv, "--out", "whole.onnx")[0] == 0
    sliced, whole = (digests(here / name).weights_sha256 for name in ("model.certified.onnx", "whole.onnx"))
    assert sliced == whole


FEW = ("retrain", "model.onnx", "--data", "npz:few.npz", "--no-attack")


@pytest.fixture
def few(here):
    data = load("digits", part="train")
    arrays = {"x_train": data.images[:256], "y_train": data.labels[:256]}
    np.savez(here / "few.npz", **arrays, x_test=data.images[256:400], y_test=data.labels[256:400])
    return here


def test_a_budget_chooses_the_epochs_once_and_what_it_chose_is_a_run_of_so_many(pipeline, few):
    argv = (*FEW, "--eps", "0.05")
    code, _, err = pipeline(*argv, "--budget", "3s", "--time-budget", "0s")
    assert code == 75, err
    assert "milliseconds of a step" in err
    code, _, err = pipeline(*argv, "--budget", "3s")
    assert code == 0, err
    told = read(few / "model.certified.report").result.training
    assert f"{told.recipe['epochs']} epochs, as chosen for --budget" in err
    assert "going on from the checkpoint" in err
    assert 3 <= told.recipe["epochs"] <= 60
    assert any("chosen for 3 s" in note for note in told.notes)
    code, _, err = pipeline(*argv, "--epochs", str(told.recipe["epochs"]), "--out", "whole.onnx")
    assert code == 0, err
    chosen, whole = (digests(few / name).weights_sha256 for name in ("model.certified.onnx", "whole.onnx"))
    assert chosen == whole


def test_recipes_are_compared_on_training_data_held_out_and_the_best_is_trained(pipeline, few):
    names = "pgd,shi2021:reg-weight=0"
    argv = (*FEW, "--eps", "0.01", "--epochs", "8", "--batch-size", "64", "--compare", names)
    code, _, err = pipeline(*argv, "--time-budget", "0s")
    assert code == 75, err
    assert "comparison was stopped" in " ".join(err.split())
    code, _, err = pipeline(*argv)
    assert code == 0, err
    told = read(few / "model.certified.report").result.training
    assert (told.recipe["name"], told.recipe["reg_weight"], told.recipe["epochs"]) == ("shi2021", 0, 8)
    (lead,) = [note for note in told.notes if "trained in full" in note]
    assert lead.startswith("shi2021:reg-weight=0 is ahead of each other with every seed")
    # Of 256, 26 are held out: no accuracy has another denominator.
    certified = [float(note.split(": ")[-1].split()[0]) for note in told.notes if "certified by IBP" in note]
    assert certified[0] < certified[1]
    assert [c * 26 * 3 / 100 for c in certified] == pytest.approx(
        [round(c * 26 * 3 / 100) for c in certified], abs=0.01
    )


def test_a_pruned_file_stays_pruned(pipeline, here):
    given = onnx.load(here / "model.onnx")
    zeros = {}
    for tensor in given.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor).copy()
        if value.ndim > 1:
            value[np.abs(value) < np.quantile(np.abs(value), 0.7)] = 0
            zeros[tensor.name] = value == 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    onnx.save(given, here / "pruned.onnx")
    code, _, err = pipeline("retrain", "pruned.onnx", *SHORT, "--keep-sparsity", "--no-attack", "--select", "held-out")
    assert code == 0, err
    count = sum(int(z.sum()) for z in zeros.values())
    assert f"{count} weights in {len(zeros)} layers are exactly zero, and stay so" in err
    trained = {
        t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(here / "pruned.certified.onnx").graph.initializer
    }
    for name, zero in zeros.items():
        assert not trained[name][zero].any()
        assert trained[name][~zero].all()
    result = read(here / "pruned.certified.report").result
    assert result.levels[0].certified.k > 0
    assert any("held-out part" in note and "epoch" in note for note in result.training.notes)


def test_a_run_that_collapses_is_told_once_while_it_trains(pipeline, here):
    """Steps so long that nothing is learnt, though every loss is finite."""
    long = (
        "--learning-rate",
        "3",
        "--clip-norm",
        "1e6",
        "--no-attack",
        "--recipe",
        "vanilla-ibp",
        "--max-samples",
        "16",
    )
    code, _, err = pipeline("retrain", "model.onnx", "--data", "digits", "--eps", "0.3", "--epochs", "5", *long)
    assert code == 0, err
    assert " ".join(err.split()).count("no better than guessing; it seldom recovers") == 1


def test_a_network_that_learns_is_not_said_to_collapse():
    made = recipe("shi2021", input_shape=(1, 8, 8), n_train=100, warmup_start=2)
    labels = np.arange(200) % 10
    told = {
        (epoch, natural): collapse({"epoch": epoch, "held_natural": natural}, labels, made) is not None
        for epoch in (2, 3)
        for natural in (0.09, 0.13, 0.25)
    }
    assert told == {
        (2, 0.09): False,
        (2, 0.13): False,
        (2, 0.25): False,
        (3, 0.09): True,
        (3, 0.13): True,
        (3, 0.25): False,
    }
    assert collapse({"epoch": 3}, labels[:0], made) is None, "nothing is held out"
