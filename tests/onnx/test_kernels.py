"""Kernels are measured at every input there is; here at fewer, by the same code, and beside kernels that are worse."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import mpmath
import numpy as np
import pytest
import torch

from pipeline.commands.guarantee import INSIDE
from pipeline.core.outward import Outward
from pipeline.errors import EnvironmentFailure
from pipeline.onnx import kernel_runs, kernel_table
from pipeline.onnx.kernel_runs import full, in_pieces, rest
from pipeline.onnx.kernel_sweep import EVERY, LARGEST, PATTERNS, Measured, Sweep, contradiction, measure
from pipeline.onnx.kernels import OPERATORS
from pipeline.rules import rules
from tests import laws

FEW = 1 << 13
EXACT = {
    "Sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "Tanh": mpmath.tanh,
    "Exp": mpmath.exp,
    "Erf": mpmath.erf,
    "Softmax": mpmath.exp,
    "QuickGelu": lambda x: 1 / (1 + mpmath.exp(-x)),
    "ErfInGelu": lambda x: mpmath.erf(x / mpmath.sqrt(2)),
    "ErfInBiasGelu": lambda x: mpmath.erf(x / mpmath.sqrt(2)),
    "BiasGelu": lambda x: x / 2 * mpmath.erfc(-x / mpmath.sqrt(2)),
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
    held = {name for pairs in INSIDE.values() for name, _ in pairs}
    assert set(OPERATORS) <= {*asked, *held}


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
    x = x[np.isfinite(x) & (x >= kernel.least) & (x <= kernel.most) & (np.abs(x) < 1e36)]
    values = kernel.reference(torch.from_numpy(x).double()).numpy()
    with mpmath.workdps(60):
        for at, value in zip(x.tolist(), values.tolist(), strict=True):
            exact = EXACT[operator](mpmath.mpf(at))
            if abs(exact) > LARGEST:
                continue
            charged = 16 * 2.0**-53 * (abs(exact) + (1 if kernel.pivot >= 1 else 0)) + mpmath.mpf(2) ** -1000
            assert abs(mpmath.mpf(value) - exact) <= charged, at


@pytest.mark.parametrize("operator", ["QuickGelu", "ErfInGelu"])
def test_a_kernel_seen_by_its_product_errs_as_the_product_does(operator, monkeypatch):
    """An error of a product by ``d |x|`` is one of the inner function by ``d``, or ``2 d`` where that is halved."""
    kernel = OPERATORS[operator]
    assert kernel.product is not None
    whole, halved, by = kernel.product, operator == "ErfInGelu", 1e-3
    monkeypatch.setattr(
        kernel_runs,
        "_session",
        lambda *a, **k: lambda x: (whole(torch.from_numpy(x).double()).numpy() + by * np.abs(x)).astype(np.float32),
    )
    x = np.linspace(-4, 4, 101, dtype=np.float32)
    seen = full(operator)(x) - kernel.reference(torch.from_numpy(x).double()).numpy()
    assert seen[x != 0] == pytest.approx((1 + halved) * by, rel=1e-3)


def test_the_sweep_says_how_far_it_has_come():
    events = list(measure("Erf", count=1 << 18))
    assert [e.done for e in events[:-1]] == [1 << 16, 2 << 16, 3 << 16, 4 << 16]
    assert all(isinstance(e, Sweep) and e.total == 1 << 18 and e.seconds > 0 for e in events[:-1])


def sigmoid(x):
    return torch.sigmoid(torch.from_numpy(x)).numpy()


def test_all_patterns_are_covered_by_the_full_stride():
    """At the full count every index is its own pattern; a sample spreads over all exponents."""
    seen: list[np.ndarray] = []

    def spy(x):
        seen.append(x)
        return sigmoid(x)

    sweep = measure("Sigmoid", forms=(spy, sigmoid, sigmoid))
    next(sweep)
    next(sweep)
    assert np.array_equal(np.concatenate(seen).view(np.uint32), np.arange(1 << 17, dtype=np.uint32))
    seen.clear()
    result("Sigmoid", forms=(spy, sigmoid, sigmoid))
    exponents = np.unique(np.concatenate(seen).view(np.uint32) >> 23 & 0xFF)
    assert len(exponents) == 255


def planted(run, where):
    """A kernel that is off by 1e-3 somewhere."""

    def apply(x):
        y = run(x).copy()
        y[where(x)] += np.float32(1e-3)
        return y

    return apply


def test_a_worse_kernel_is_seen_wherever_it_is_worse():
    """In one input, or in the rest of vectors alone: each shows in the measured error, so none hides in a table."""
    forms = full("Sigmoid"), rest("Sigmoid"), in_pieces("Sigmoid")
    honest = result("Sigmoid", forms=forms)
    for form in (0, 1):
        worse = list(forms)
        worse[form] = planted(forms[form], lambda x: np.arange(len(x)) == 4321 % len(x))
        found = result("Sigmoid", forms=tuple(worse))
        assert found.absolute > 9e-4 > honest.absolute
        assert found.rest_mismatches == 1
        assert len(found.worst) == 1


def test_short_tensors_of_another_kernel_are_tried_at_every_input():
    """One of every few inputs is tried in short tensors; the first that gives bits of its own has them all tried."""
    forms = full("Sigmoid"), rest("Sigmoid"), in_pieces("Sigmoid")
    honest = result("Sigmoid", forms=forms)
    assert honest.pieces <= honest.points // EVERY + 1
    found = result("Sigmoid", forms=(*forms[:2], planted(forms[2], lambda x: slice(None))))
    assert found.absolute > 9e-4
    assert found.pieces == found.points


@pytest.mark.parametrize("operator", ["Sin", "Softplus", "Sigmoid", "Elu"])
def test_what_lies_at_an_odd_byte_is_computed_as_the_rest_of_vectors(operator):
    """What short tensors give is what one of the two long forms gives, bit by bit."""
    x = np.linspace(-4, 4, 3000, dtype=np.float32)
    short, by_vectors, as_rest = (
        form(x).view(np.uint32) for form in (in_pieces(operator), full(operator), rest(operator))
    )
    assert ((short == by_vectors) | (short == as_rest)).all()


@pytest.mark.parametrize("operator", ["Sigmoid", "Exp", "Softmax"])
def test_a_kernel_is_compared_bit_by_bit_with_what_was_measured(operator):
    """Bits are the same again; an error that is stated too small shows at the inputs where it is attained."""
    kept = result(operator, count=1 << 15)
    spots = replace(kept, absolute=1.0, relative=1.0)
    assert contradiction(operator, spots) is None
    assert "other bits" in contradiction(operator, replace(spots, spots="0" * 64))
    assert "errs by" in contradiction(operator, replace(kept, absolute=kept.absolute / 2, relative=kept.relative / 2))


def test_a_kernel_that_is_not_finite_is_no_table():
    def broken(x):
        return np.where(x > 20, np.float32(np.nan), np.float32(1))

    with pytest.raises(EnvironmentFailure, match="not finite"):
        result("Sigmoid", forms=(broken, broken, broken))


def test_short_tensors_agree_with_the_order_of_long_ones():
    x = np.linspace(-9, 9, 9001).astype(np.float32)
    assert np.abs(in_pieces("Tanh")(x) - full("Tanh")(x)).max() < 1e-6


@pytest.fixture
def state(tmp_path, monkeypatch):
    """A user's folder for state and key of their own, and nothing shipped."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("PIPELINE_STATE_KEY", raising=False)
    monkeypatch.setattr(kernel_table, "shipped", tuple)
    return tmp_path


def whole(operator: str, **said) -> Measured:
    """An entry that says it tried every input, and really is of this kernel."""
    few = result(operator)
    return replace(few, absolute=2 * few.absolute, relative=2 * few.relative, patterns=PATTERNS, **said)


def test_a_table_is_kept_by_operator_and_read_again(state):
    assert kernel_table.load() == (kernel_table.KernelTable(kernel_table.here()), None)
    sigmoid, exp = whole("Sigmoid"), whole("Exp")
    path = kernel_table.store("Sigmoid", sigmoid)
    assert kernel_table.store("Exp", exp) == path == kernel_table.file()
    table, ignored = kernel_table.load()
    assert ignored is None
    assert state in path.parents
    assert table.operators == {"Sigmoid": sigmoid, "Exp": exp}
    assert table.errors(["Exp"]) == {"Exp": (exp.absolute, exp.relative)}


def test_a_table_that_another_wrote_or_changed_is_ignored_and_said(state, monkeypatch):
    path = kernel_table.store("Sigmoid", whole("Sigmoid"))
    sealed = path.read_bytes()
    for other in (sealed.replace(b'"absolute": ', b'"absolute": 0', 1), sealed[:-1], b'{"schema": 2}', b""):
        path.write_bytes(other)
        table, ignored = kernel_table.load()
        assert table.operators == {}
        assert "authentication code" in ignored
    path.write_bytes(sealed)
    assert kernel_table.load()[0].operators
    monkeypatch.setenv("PIPELINE_STATE_KEY", "ab" * 32)
    assert kernel_table.load()[0].operators == {}


def test_a_table_of_another_build_is_never_used(state, monkeypatch):
    """Neither under its own name nor renamed, by the user's key or among those shipped; without libm only what calls none."""
    build = kernel_table.here()
    others = [
        replace(build, runtime_sha256="0" * 64),
        replace(build, instructions=f"{build.instructions} AVX512F"),
        replace(build, onnxruntime="0.0"),
        replace(build, libm="0" * 64),
    ]
    entry = whole("Sigmoid")
    for other in others:
        monkeypatch.setattr(kernel_table, "here", lambda other=other: other)
        path = kernel_table.store("Sigmoid", entry)
        monkeypatch.setattr(kernel_table, "here", lambda: build)
        assert kernel_table.load() == (kernel_table.KernelTable(build), None)
        content = kernel_table._seal().read(path)
        kernel_table._seal().write(kernel_table.file(), content)
        table, ignored = kernel_table.load()
        assert table.operators == {}
        assert "another build" in ignored
        kernel_table.file().unlink()
        monkeypatch.setattr(
            kernel_table, "shipped", lambda other=other: (kernel_table.KernelTable(other, {"Sigmoid": entry}),)
        )
        assert kernel_table.load()[0].operators == {}
    everywhere = kernel_table.KernelTable(replace(build, libm=""), {"Sigmoid": entry})
    monkeypatch.setattr(kernel_table, "shipped", lambda: (everywhere,))
    assert kernel_table.load()[0].shipped == {"Sigmoid"}


def test_a_sample_is_never_stored_and_an_entry_of_one_is_refused(state):
    few = replace(whole("Sigmoid"), patterns=FEW)
    with pytest.raises(ValueError, match="patterns"):
        kernel_table.store("Sigmoid", few)
    kernel_table.store("Sigmoid", replace(few, patterns=PATTERNS))
    content = json.loads(kernel_table._seal().read(kernel_table.file()))
    content["tables"][0]["operators"]["Sigmoid"]["patterns"] = FEW
    kernel_table._seal().write(kernel_table.file(), json.dumps(content).encode())
    table, ignored = kernel_table.load()
    assert table.operators == {}
    assert "exhaustive" in ignored


def test_a_table_that_promises_too_much_is_caught_by_running_the_kernel():
    entry = whole("Sigmoid")
    table = kernel_table.KernelTable(kernel_table.here(), {"Sigmoid": replace(entry, absolute=1e-9)})
    with pytest.raises(EnvironmentFailure, match="--measure-kernels Sigmoid"):
        kernel_table.spot_check(table, ["Sigmoid", "Tanh"])


def test_what_is_shipped_is_whole_and_holds_where_its_build_runs():
    """Each entry tried every float32; where this is one of the builds, its kernels are those, bit by bit."""
    for table in kernel_table.shipped():
        assert len(table.build.runtime_sha256) == 64
        for name, entry in table.operators.items():
            assert name in OPERATORS
            assert entry.patterns == PATTERNS
            assert 0 <= max(entry.absolute, entry.relative) < 1e-6
    table, _ = kernel_table.load()
    if not table.shipped:
        pytest.skip(f"no table is shipped for {kernel_table.here()}")
    for name in sorted(table.shipped):
        assert contradiction(name, table.operators[name]) is None
        seen = result(name)
        # A sample's own charge for the reference is that of its largest value.
        assert seen.absolute <= table.operators[name].absolute * (1 + 1e-6)
        assert seen.relative <= table.operators[name].relative * (1 + 1e-6)
