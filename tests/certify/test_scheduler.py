"""Budgets leave out and never invent; a run that was stopped goes on to the very bits of one that was not."""

from __future__ import annotations

import os
from itertools import count

import numpy as np
import pytest
import torch

from pipeline.bounds.linear import Bounds
from pipeline.certify import Journal, Work
from pipeline.certify.scheduler import in_parts
from pipeline.distributed.group import ProcessGroup
from pipeline.errors import EnvironmentFailure, Preempted
from pipeline.results import Verdict
from pipeline.system.clock import OutOfTime
from pipeline.system.seal import Seal
from tests.climbing import climb, lively, same

EPS = ("1/200", "1/40")
NETWORK = lively()
SEAL = Seal(bytes(32), "a run")


def test_a_budget_of_nothing_proves_nothing_and_says_so():
    result = climb(NETWORK, EPS, work=Work(budget=0.0))
    whole = climb(NETWORK, EPS)
    assert result.incomplete
    assert not whole.incomplete
    found, full = result.samples.verdict, whole.samples.verdict
    assert not (found == Verdict.CERTIFIED).any()
    assert (result.samples.undecided == (found == Verdict.UNKNOWN)).all()
    assert ((found == Verdict.MISCLASSIFIED) == (full == Verdict.MISCLASSIFIED)).all()


@pytest.mark.parametrize("units", [1, 3, 5, 8])
def test_a_budget_that_ends_anywhere_certifies_less_and_nothing_else(monkeypatch, units):
    whole, spent = climb(NETWORK, EPS), count()
    monkeypatch.setattr(Work, "over", property(lambda self: next(spent) >= units))
    cut = climb(NETWORK, EPS)
    assert cut.incomplete
    found, full = cut.samples.verdict, whole.samples.verdict
    assert ((found == Verdict.CERTIFIED) <= (full == Verdict.CERTIFIED)).all()
    assert (cut.samples.undecided <= (found == Verdict.UNKNOWN)).all()


@pytest.mark.parametrize(("looks", "norm"), [(0, "l2"), (5, "linf")])
def test_a_budget_that_ends_inside_a_walk_leaves_its_batch_out_and_nothing_else(monkeypatch, looks, norm):
    how = {"method": "crown", "largest_eps": True, "norm": norm, "n": 4}
    whole, spent = climb(NETWORK, EPS, **how), count()

    honest = Bounds.enter

    def enter(self, step, *xs):
        if next(spent) >= looks:
            raise OutOfTime
        return honest(self, step, *xs)

    monkeypatch.setattr(Bounds, "enter", enter)
    cut = climb(NETWORK, EPS, **how)
    assert next(spent) > looks
    assert cut.incomplete
    assert np.nanmax(cut.samples.largest_eps - whole.samples.largest_eps) <= 0
    found, full = cut.samples.verdict, whole.samples.verdict
    assert ((found == Verdict.CERTIFIED) <= (full == Verdict.CERTIFIED)).all()
    assert (found[0] == Verdict.CERTIFIED).any(), "IBP is not cut short"


class Hurried(Journal):
    """Counts what is put in, so that a run can be stopped after so much."""

    put_ = 0

    def put(self, key, rows, arrays):
        self.put_ += 1
        super().put(key, rows, arrays)


def test_a_run_stopped_again_and_again_ends_like_one_that_was_not(tmp_path):
    settings = {"n": 24, "method": "crown-ibp", "largest_eps": True, "batch": 10}
    whole = climb(NETWORK, EPS, **settings)
    for _ in range(60):
        journal = Hurried(tmp_path / "run", SEAL)
        try:
            again = climb(
                NETWORK, EPS, work=Work(journal=journal, should_stop=lambda j=journal: j.put_ >= 4), **settings
            )
            break
        except Preempted:
            assert len(Journal(tmp_path / "run", SEAL)) == len(journal) + 4, "every try gets further"
    assert len(journal) > 12, "it was stopped several times"
    assert same(whole, again)


def test_what_cannot_be_read_back_is_computed_again(tmp_path):
    rows = np.arange(3)
    journal = Journal(tmp_path, SEAL)
    journal.put("ibp@1/8/0", rows, {"margins": np.ones(3)})
    journal.flush()
    assert Journal(tmp_path, SEAL).get("ibp@1/8/0", rows)["margins"].tolist() == [1, 1, 1]
    assert Journal(tmp_path, SEAL).get("ibp@1/8/0", rows[:2]) is None, "another cut of the data is other work"
    (part,) = tmp_path.glob("part-*.npz")
    content = bytearray(part.read_bytes())
    content[content.rindex(rows.tobytes())] ^= 1  # in the last array of the part: those before it are whole
    for damaged in (content, content[:40]):
        part.write_bytes(damaged)
        assert Journal(tmp_path, SEAL).get("ibp@1/8/0", rows) is None


def test_a_part_counts_for_the_run_and_under_the_name_that_it_was_written_for(tmp_path):
    rows = np.arange(3)
    journal = Journal(tmp_path, SEAL)
    for key in ("ibp@1/8/0", "ibp@1/4/0"):
        journal.put(key, rows, {"margins": np.ones(3)})
        journal.flush()
    first, second = sorted(tmp_path.glob("part-*.npz"))
    assert len(Journal(tmp_path, SEAL)) == 2
    for other in (Seal(bytes(32), "another run"), Seal(bytes([1] * 32), "a run")):
        assert (len(found := Journal(tmp_path, other)), found.foreign) == (0, [first, second])
    second.write_bytes(first.read_bytes())
    assert (len(found := Journal(tmp_path, SEAL)), found.foreign) == (1, [second])
    with second.open("wb") as file:
        np.savez(file, **{"ibp@1/4/0:rows": rows, "ibp@1/4/0:margins": np.ones(3)})
    assert Journal(tmp_path, SEAL).foreign == [second], "an archive without a code"
    second.unlink()
    second.symlink_to(first)
    os.mkfifo(tmp_path / "part-0-000002.npz")
    assert (len(found := Journal(tmp_path, SEAL)), len(found.foreign)) == (1, 2), (
        "no link is followed, no pipe waited for"
    )
    assert len(Journal(tmp_path)) == 0, "without a key nothing is read"


def test_every_unit_is_done_by_exactly_one_process_of_a_group():
    """Three processes' shares, without the wire: what each would do, and that together it is everything once."""
    cuts = [np.arange(3 * i, 3 * i + 3) for i in range(7)]
    done: list[int] = []
    for rank in range(3):
        work = Work(group=_Alone(rank, 3))
        list(_drain(work.units("k", cuts, lambda rows: {"first": done.append(int(rows[0])) or rows}, phase="p")))
    assert sorted(done) == [3 * i for i in range(7)]


class _Alone(ProcessGroup):
    def all_gather(self, mine):
        return [mine]


def _drain(events):
    yield from events


@pytest.mark.parametrize("fit", [1, 3, 100])
def test_where_memory_is_short_a_batch_is_done_in_parts(fit):
    """The allocator itself refuses what no machine has."""
    asked = []

    def compute(rows):
        asked.append(len(rows))
        torch.empty(len(rows), 2**46 if len(rows) > fit else 1, dtype=torch.uint8)
        return {"rows": rows, "even": rows[rows % 2 == 0], "classes": np.array(10)}

    found = in_parts(compute, np.arange(10))
    assert found["rows"].tolist() == list(range(10))
    assert found["even"].tolist() == [0, 2, 4, 6, 8]
    assert found["classes"] == 10
    assert max(n for n in asked if n <= fit) <= fit


def test_where_one_sample_is_too_many_the_end_is_a_sentence_and_other_faults_are_left_alone():
    with pytest.raises(EnvironmentFailure, match=r"one sample.*--memory-budget"):
        in_parts(lambda rows: {"x": torch.empty(2**47, dtype=torch.uint8).numpy()}, np.arange(4))
    with pytest.raises(ZeroDivisionError):
        in_parts(lambda rows: {"x": np.array(1 // 0)}, np.arange(4))
