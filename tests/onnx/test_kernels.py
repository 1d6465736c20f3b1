"""Kernels are measured at every input there is; here at fewer, by the same code, and beside kernels that are worse."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import mpmath
import numpy as np
import pytest
import torch

from pipeline.core.rounding import Outward
from pipeline.errors import EnvironmentFailure
from pipeline.onnx import kernel_table
from pipeline.onnx.kernels import LARGEST, OPERATORS, PATTERNS, Measured, Sweep, in_pieces, measure, on_runtime
from pipeline.rules import rules
from tests import laws

FEW = 1 << 13
EXACT = {
    "Sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "Tanh": mpmath.tanh,
    "Exp": mpmath.exp,
    "Erf": mpmath.erf,
    "Softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
    "Elu": lambda x: x if x > 0 else mpmath.expm1(x),
    "Gelu": lambda x: x / 2 * mpmath.erfc(-x / mpmath.sqrt(2)),
    "FastGelu": lambda x: x / (1 + mpmath.exp(-2 * mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3))),
    "Celu": lambda x: x if x > 0 else mpmath.expm1(x),
    "Selu": lambda x: (
        mpmath.mpf(1.05070102214813232421875)
        * (x if x > 0 else mpmath.mpf(1.67326319217681884765625) * mpmath.expm1(x))
    ),
    "Softsign": lambda x: x / (1 + abs(x)),
    "Mish": lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x))),
    "Atan": mpmath.atan,
    "Log": mpmath.log,
    "Sin": mpmath.sin,
    "Cos": mpmath.cos,
}


def result(operator: str, **how) -> Measured:
    *_, last = measure(operator, **{"count": FEW, **how})
    assert isinstance(last, Measured)
    return last


class Asked(dict):
    """A table that has every kernel, and remembers which were asked for."""

    def __contains__(self, name: object) -> bool:
        self.setdefault(name, (0.0, 0.0))
        return True


def test_what_doctor_measures_is_what_rules_ask_for():
    """Else the default mode would refuse a kernel that nothing measures, or ``doctor`` would name one that nothing needs."""
    asked = Asked()
    for rule in rules().values():
        for example in rule.examples():
            op = laws.randomise(copy.deepcopy(example.op), seed=1)
            rule.interval(op, *laws.boxes(example, "wide", 0), rounding=Outward(deployed=True, kernels=asked))
    assert set(OPERATORS) <= set(asked)


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_kernel_errs_by_a_few_units_in_the_last_place(operator):
    measured = result(operator)
    assert 0 < max(measured.absolute, measured.relative) < 2e-6
    assert measured.patterns == FEW
    assert FEW / 4 < measured.points < FEW


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_reference_errs_by_less_than_it_is_charged(operator):
    """Against 60 digits, where values are neither overflowing nor far below the pivot."""
    kernel = OPERATORS[operator]
    generator = np.random.default_rng(0)
    bits = generator.integers(0, PATTERNS, 4000, dtype=np.uint64).astype(np.uint32)
    x = np.concatenate([bits.view(np.float32), generator.standard_normal(1000).astype(np.float32) * 6])
    x = x[np.isfinite(x) & (x >= kernel.least) & (np.abs(x) < 1e6)]
    values = kernel.reference(torch.from_numpy(x).double()).numpy()
    with mpmath.workdps(60):
        for at, value in zip(x.tolist(), values.tolist(), strict=True):
            exact = EXACT[operator](mpmath.mpf(at))
            if abs(exact) > LARGEST:
                continue
            charged = 16 * 2.0**-53 * (abs(exact) + (1 if kernel.pivot >= 1 else 0)) + mpmath.mpf(2) ** -1000
            assert abs(mpmath.mpf(value) - exact) <= charged, at


def test_the_sweep_says_how_far_it_has_come():
    events = list(measure("Erf", count=1 << 18))
    assert [e.done for e in events[:-1]] == [1 << 16, 2 << 16, 3 << 16, 4 << 16]
    assert all(isinstance(e, Sweep) and e.total == 1 << 18 and e.seconds > 0 for e in events[:-1])


def test_all_patterns_are_covered_by_the_full_stride():
    """At the full count every index is its own pattern; a sample spreads over all exponents."""
    seen: list[np.ndarray] = []

    def spy(x):
        seen.append(x)
        return torch.sigmoid(torch.from_numpy(x)).numpy()

    sweep = measure("Sigmoid", full=spy, rest=spy)
    next(sweep)
    next(sweep)
    first = np.concatenate(seen[::2]).view(np.uint32)
    assert np.array_equal(first, np.arange(1 << 17, dtype=np.uint32))
    seen.clear()
    result("Sigmoid", full=spy, rest=spy)
    exponents = np.unique(np.concatenate(seen).view(np.uint32) >> 23 & 0xFF)
    assert len(exponents) == 255


def test_a_worse_kernel_is_seen_wherever_it_is_worse():
    """In one input, in the tail alone, by a shift: each shows in the measured error, so none hides in a table."""
    good, tail = on_runtime("Sigmoid"), in_pieces("Sigmoid", 7)
    honest = result("Sigmoid", full=good, rest=tail)

    def worse(run, where):
        def apply(x):
            y = run(x).copy()
            y[where(x)] += np.float32(1e-3)
            return y

        return apply

    single = worse(good, lambda x: np.arange(len(x)) == 4321 % len(x))
    for full, rest in ((single, tail), (good, worse(tail, lambda x: slice(6, None, 7)))):
        planted = result("Sigmoid", full=full, rest=rest)
        assert planted.absolute > 9e-4 > honest.absolute
        assert planted.tail_mismatches > 0


def test_a_kernel_that_is_not_finite_is_no_table():
    def broken(x):
        return np.where(x > 20, np.float32(np.nan), np.float32(1))

    with pytest.raises(EnvironmentFailure, match="not finite"):
        result("Sigmoid", full=broken, rest=broken)


def test_short_tensors_agree_with_the_order_of_long_ones():
    x = np.linspace(-9, 9, 9001).astype(np.float32)
    assert np.abs(in_pieces("Tanh", 7)(x) - on_runtime("Tanh")(x)).max() < 1e-6


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PIPELINE_CACHE", str(tmp_path))
    return tmp_path


WHOLE = Measured(2e-7, 0.0, PATTERNS, PATTERNS - 2**25, 0, 1.0, 600.0)


def test_a_table_is_kept_by_operator_and_read_again(cache):
    assert kernel_table.load() == (kernel_table.KernelTable(kernel_table.here()), None)
    path = kernel_table.store("Sigmoid", WHOLE)
    kernel_table.store("Exp", replace(WHOLE, absolute=1e-38, relative=1e-7))
    table, ignored = kernel_table.load()
    assert ignored is None
    assert path.parent == cache / "kernels"
    assert table.errors == {"Sigmoid": (2e-7, 0.0), "Exp": (1e-38, 1e-7)}
    assert json.loads(path.read_text())["sha256"] == table.digest
    assert not list(path.parent.glob("*.part"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t["operators"]["Sigmoid"].update(absolute=1e-9), "digest"),
        (lambda t: t["machine"].update(onnxruntime="0.0"), "another"),
        (lambda t: t.update(schema=0), "another"),
        (lambda t: t.pop("operators"), "another|digest|read"),
        (lambda t: t["operators"]["Sigmoid"].update(absolute="much"), "read"),
        (lambda t: t["operators"]["Sigmoid"].update(absolute=float("nan")), "digest|read|exhaustive"),
    ],
)
def test_a_table_that_was_changed_is_ignored_and_said(cache, change, said):
    path = kernel_table.store("Sigmoid", WHOLE)
    written = json.loads(path.read_text())
    change(written)
    path.write_text(json.dumps(written))
    table, ignored = kernel_table.load()
    assert table.operators == {}
    assert ignored is not None
    assert any(word in ignored for word in said.split("|"))


def test_a_torn_file_and_a_foreign_table_are_ignored(cache):
    path = kernel_table.store("Sigmoid", WHOLE)
    other = replace(kernel_table.here(), processor="another")
    (path.parent / f"{other.key}.json").write_bytes(path.read_bytes())
    table, ignored = kernel_table.load(other)
    assert table.operators == {}
    assert "another" in ignored
    path.write_text('{"schema": 1')
    assert "cannot be read" in kernel_table.load()[1]


def test_a_sample_is_never_stored_and_an_entry_of_one_is_refused(cache):
    with pytest.raises(ValueError, match="patterns"):
        kernel_table.store("Sigmoid", replace(WHOLE, patterns=FEW))
    partial = kernel_table.KernelTable(kernel_table.here(), {"Sigmoid": replace(WHOLE, patterns=FEW)})
    path = kernel_table.folder() / f"{partial.machine.key}.json"
    path.parent.mkdir(parents=True)
    from dataclasses import asdict

    path.write_text(json.dumps({"schema": 1, **asdict(partial), "sha256": partial.digest}))
    assert "exhaustive" in kernel_table.load()[1]


def test_a_table_that_promises_too_much_is_caught_by_running_the_kernel():
    table = kernel_table.KernelTable(kernel_table.here(), {"Sigmoid": replace(WHOLE, absolute=1e-9)})
    with pytest.raises(EnvironmentFailure, match="--measure-kernels Sigmoid"):
        kernel_table.spot_check(table, ["Sigmoid", "Tanh"])
    kernel_table.spot_check(replace(table, operators={"Sigmoid": WHOLE}), ["Sigmoid"])


def test_the_cache_lies_where_the_user_said(monkeypatch, tmp_path):
    monkeypatch.delenv("PIPELINE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kernel_table.folder() == tmp_path / "pipeline" / "kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert kernel_table.folder().parts[-3:] == (".cache", "pipeline", "kernels")
