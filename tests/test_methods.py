"""The registry of methods: an order by cost that nobody can upset, and reports that outlive a new rung."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest

from pipeline.errors import InputRejected
from pipeline.methods import ATTACKS, DECIDERS, IBP, LONG_ATTACK, METHODS, BoundingMethod, choices, register, up_to
from pipeline.results import Samples, read_samples
from pipeline.results.result import SamplesFile
from tests.climbing import climb, lively, without_new_methods

NEW = BoundingMethod("new", 20, "boxes")


def test_the_ladder_is_the_one_that_reports_are_written_by() -> None:
    assert [*METHODS] == ["ibp", "crown-ibp", "crown", "alpha-crown", "complete"]
    assert DECIDERS == [
        "nothing",
        "prediction",
        "pgd",
        "ibp",
        "crown-ibp",
        "long pgd",
        "crown",
        "alpha-crown",
        "complete",
    ]
    assert choices() == ("auto", *METHODS)
    assert (up_to("auto"), up_to("crown")) == ((*METHODS,), ("ibp", "crown-ibp", "crown"))


@pytest.mark.parametrize("cost", [5, 10, 20, 30, 40, 2000])
def test_a_method_stands_where_its_cost_puts_it(cost: int) -> None:
    with without_new_methods():
        register(BoundingMethod("new", cost, "boxes"))
        costs = ATTACKS | {method.name: method.cost for method in METHODS.values()}
        assert [costs[name] for name in METHODS] == sorted(costs[name] for name in METHODS)
        assert [costs[name] for name in DECIDERS[2:]] == sorted(costs.values())
    assert "new" not in DECIDERS


@pytest.mark.parametrize(
    "method",
    [
        BoundingMethod("auto", 20, "boxes"),
        BoundingMethod("crown", 20, "boxes"),
        BoundingMethod(LONG_ATTACK, 20, "boxes"),
        BoundingMethod("nothing", 20, "boxes"),
        BoundingMethod("new", METHODS[IBP].cost, "boxes"),
        BoundingMethod("new", 20, "tail"),
    ],
)
def test_what_cannot_be_a_rung_is_refused(method: BoundingMethod) -> None:
    with without_new_methods(), pytest.raises(ValueError, match="its own name"):
        register(method)


@pytest.mark.parametrize(("cost", "before"), [(20, False), (30, True), (40, True)])
def test_the_long_attack_comes_before_what_costs_no_less(cost: int, before: bool) -> None:
    with without_new_methods():
        register(BoundingMethod("new", cost, "boxes"))
        details = climb(lively(), ("1/20",), method="new").details[0]
    names = [name for name, _ in details.rungs]
    assert (LONG_ATTACK in names[: names.index("new")]) == before
    assert LONG_ATTACK not in names[names.index("new") :]


def kept(samples: Samples, path) -> SamplesFile:
    path.write_bytes(samples.content)
    return SamplesFile(file=path.name, sha256=hashlib.sha256(samples.content).hexdigest(), columns=())


def test_a_report_from_before_a_rung_was_added_says_the_same_behind(tmp_path) -> None:
    path, samples = tmp_path / "samples.npz", climb(lively(), ("1/60", "1/20"), method="crown").samples
    described, assigned = kept(samples, path), samples.decided_by
    assert assigned is not None
    names = np.array(DECIDERS)[assigned]
    assert "crown" in names
    with without_new_methods():
        register(NEW)
        later = read_samples(path, described).decided_by
        assert later is not None
        assert (later != assigned).any()
        assert (np.array(DECIDERS)[later] == names).all()


def test_a_rung_that_is_not_known_is_refused_by_name(tmp_path) -> None:
    path = tmp_path / "samples.npz"
    with without_new_methods():
        register(BoundingMethod("new", 20, "tightened"))
        samples = climb(lively(), ("1/60",), method="new").samples
        described = kept(samples, path)
    with pytest.raises(InputRejected, match="decided by 'new'"):
        read_samples(path, described)


@pytest.mark.parametrize(
    "names",
    [
        np.array("pgd"),
        np.array(7.0),
        np.array([["ibp"]]),
        np.array(["ibp"]),
        np.arange(9),
        np.array(["ibp"] * 257),
        np.zeros(0),
    ],
    ids=lambda names: f"{names.dtype} {names.shape}",
)
def test_names_that_are_no_list_of_rungs_are_refused(tmp_path, names) -> None:
    path, samples = tmp_path / "samples.npz", climb(lively(), ("1/60",), n=8, method="ibp").samples
    with np.load(io.BytesIO(samples.content)) as archive:
        np.savez(path, **{**archive, "decided_by_names": names})
    with pytest.raises(InputRejected, match="decided"):
        read_samples(path, None)
