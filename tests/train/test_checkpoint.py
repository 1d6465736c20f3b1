"""Checkpoints: replaced whole, loadable without running code, refused by another run."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.errors import EnvironmentFailure, UsageError
from pipeline.system.seal import Seal
from pipeline.train import checkpoint

SEAL = Seal(bytes(range(32)))


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "run" / "checkpoint.pt"
    assert checkpoint.Checkpoint(path, SEAL).load({}) is None
    for epoch in (1, 2):
        checkpoint.Checkpoint(path, SEAL).save(
            {"epoch": epoch, "w": torch.ones(3), "history": [{"loss": 0.5}], "configuration": {"eps": "8/255"}}
        )
    state = checkpoint.Checkpoint(path, SEAL).load({"eps": "8/255"})
    assert state is not None
    assert (state["epoch"], state["history"], state["w"].tolist()) == (2, [{"loss": 0.5}], [1, 1, 1])
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint.pt"]


def test_an_interrupted_write_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.Checkpoint(path, SEAL).save({"epoch": 1, "configuration": {}})
    with pytest.raises(AttributeError):
        checkpoint.Checkpoint(path, SEAL).save({"epoch": 2, "configuration": {}, "unsavable": lambda: None})
    state = checkpoint.Checkpoint(path, SEAL).load({})
    assert state is not None
    assert state["epoch"] == 1


def test_another_configuration_is_refused_naming_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.Checkpoint(path, SEAL).save({"configuration": {"eps": "8/255", "recipe.epochs": 10, "data": "ab"}})
    with pytest.raises(UsageError, match=r"eps was 8/255 and is 1/255, recipe\.epochs was 10 and is None") as refusal:
        checkpoint.Checkpoint(path, SEAL).load({"eps": "1/255", "data": "ab"})
    assert "data was" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half an archive"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="move it away"):
        checkpoint.Checkpoint(path, SEAL).load({})


def test_a_checkpoint_of_another_key_or_name_or_with_one_bit_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.Checkpoint(path, SEAL).save({"configuration": {}, "w": torch.ones(3)})
    whole = path.read_bytes()
    for other in (Seal(bytes(32)), Seal(SEAL.secret, "run")):
        with pytest.raises(UsageError, match="authentication code"):
            checkpoint.Checkpoint(path, other).load({})
    (tmp_path / "other.pt").write_bytes(whole)
    with pytest.raises(UsageError, match="authentication code"):
        checkpoint.Checkpoint(tmp_path / "other.pt", SEAL).load({})
    for place in (0, len(whole) // 2, len(whole) - 2):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(UsageError, match="authentication code"):
            checkpoint.Checkpoint(path, SEAL).load({})
    path.write_bytes(whole)
    assert checkpoint.Checkpoint(path, SEAL).load({}) is not None


def test_code_in_a_checkpoint_is_not_run_even_where_it_is_authenticated(tmp_path: Path) -> None:
    """A key may be shared by machines, of which one may have been broken into."""
    path, content = tmp_path / "checkpoint.pt", io.BytesIO()
    torch.save({"version": 1, "configuration": {}, "model": torch.nn.Linear(1, 1)}, content)
    SEAL.write(path, content.getvalue())
    with pytest.raises(pickle.UnpicklingError):
        checkpoint.Checkpoint(path, SEAL).load({})


def test_a_disk_that_refuses_is_the_environments_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentFailure):
        checkpoint.Checkpoint(tmp_path / "file" / "checkpoint.pt", SEAL).save({})


def test_random_numbers_go_on_where_they_were() -> None:
    model = nn.Linear(2, 2)
    optimiser = torch.optim.Adam(model.parameters())
    state = checkpoint.snapshot(model, optimiser)
    drawn = torch.rand(4)
    checkpoint.restore(state, model, optimiser)
    assert torch.equal(torch.rand(4), drawn)
