"""Checkpoints: replaced whole, loadable without running code, refused by another run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.errors import EnvironmentFailure, UsageError
from pipeline.train import checkpoint


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "run" / "checkpoint.pt"
    assert checkpoint.load(path, {}) is None
    for epoch in (1, 2):
        checkpoint.save(
            path, {"epoch": epoch, "w": torch.ones(3), "history": [{"loss": 0.5}], "configuration": {"eps": "8/255"}}
        )
    state = checkpoint.load(path, {"eps": "8/255"})
    assert state is not None
    assert (state["epoch"], state["history"], state["w"].tolist()) == (2, [{"loss": 0.5}], [1, 1, 1])
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint.pt"]


def test_an_interrupted_write_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"epoch": 1, "configuration": {}})
    with pytest.raises(AttributeError):
        checkpoint.save(path, {"epoch": 2, "configuration": {}, "unsavable": lambda: None})
    state = checkpoint.load(path, {})
    assert state is not None
    assert state["epoch"] == 1


def test_another_configuration_is_refused_naming_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"configuration": {"eps": "8/255", "recipe.epochs": 10, "data": "ab"}})
    with pytest.raises(UsageError, match=r"eps was 8/255 and is 1/255, recipe\.epochs was 10 and is None") as refusal:
        checkpoint.load(path, {"eps": "1/255", "data": "ab"})
    assert "data was" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half an archive"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="move it away"):
        checkpoint.load(path, {})


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"version": 1, "configuration": {}, "model": torch.nn.Linear(1, 1)}, path)
    with pytest.raises(UsageError):
        checkpoint.load(path, {})


def test_a_disk_that_refuses_is_the_environments_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentFailure):
        checkpoint.save(tmp_path / "file" / "checkpoint.pt", {})


def test_random_numbers_go_on_where_they_were() -> None:
    model = nn.Linear(2, 2)
    optimiser = torch.optim.Adam(model.parameters())
    state = checkpoint.snapshot(model, optimiser)
    drawn = torch.rand(4)
    checkpoint.restore(state, model, optimiser)
    assert torch.equal(torch.rand(4), drawn)
