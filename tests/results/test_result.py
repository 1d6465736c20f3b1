"""The result type: laws that no result can break, digests that no edit survives, rates that never claim more."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import binomtest

from pipeline.errors import Contradiction, Incomplete, InputRejected, UsageError
from pipeline.results import Rate, Samples, Training, levels, per_class, read, read_samples, schema, write
from pipeline.results.canonical import canonical
from pipeline.results.rate import clopper_pearson

CURVE = ("1/255", "4/255", "8/255")


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 50), (50, 50), (3, 7), (4321, 10000), (9999, 10000)])
def test_the_interval_is_clopper_pearson_rounded_outwards(k: int, n: int) -> None:
    interval = binomtest(k, n).proportion_ci(0.95, method="exact")
    assert clopper_pearson(k, n) == pytest.approx((interval.low, interval.high), abs=1e-12)
    rate = Rate.of(k, n)
    low, high = (Fraction(end) for end in rate.ci95)
    assert low - 10**-9 <= interval.low < low + Fraction(2, 10**4)
    assert high - Fraction(2, 10**4) < interval.high <= high + 10**-9
    assert 0 <= rate.exact - Fraction(rate.value) < Fraction(1, 10**4), "rounded down"


def test_a_rate_over_nothing_is_incomplete_and_a_false_one_a_contradiction() -> None:
    with pytest.raises(Incomplete):
        Rate.of(0, 0)
    with pytest.raises(Contradiction):
        Rate(k=3, n=4, value="0.8000", ci95=("0.1", "0.9"))


def test_levels_and_classes_are_sums_of_the_samples(make_samples: Callable) -> None:
    samples = make_samples(CURVE)
    for row, level in enumerate(levels(samples)):
        codes = samples.verdict[row]
        assert level.certified.k == (codes == 0).sum()
        assert level.natural.k == (samples.predicted == samples.label).sum()
        assert level.attacked is not None
        assert level.certified.k <= level.attacked.k <= level.natural.k
        assert level.margin is not None
        assert sum(level.margin.histogram.counts) == len(samples)
        rows = [c for c in per_class(samples) if c.eps == level.eps]
        assert sum(c.certified for c in rows) == level.certified.k


LAWS = [
    ("certified above attacked", lambda d: d["levels"][0]["verdicts"].update(certified=999)),
    ("natural against verdicts", lambda d: d["levels"][0]["verdicts"].update(misclassified=0)),
    ("levels out of order", lambda d: d["levels"].reverse()),
    ("eps and its float", lambda d: d["levels"][0].update(eps_float=0.5)),
    ("classes against level", lambda d: d["per_class"].pop()),
    ("class order", lambda d: d["per_class"][0].update(certified=9999)),
    ("samples evaluated", lambda d: d["data"].update(n_evaluated=7)),
    ("no proof, no certificate", lambda d: d["method"].update(arithmetic="none")),
    ("verdict without gate", lambda d: d.update(verdict="fail")),
    ("interval of words", lambda d: d["levels"][0]["natural"].update(ci95=["../../etc/passwd", "1.0000"])),
    ("interval beside its rate", lambda d: d["levels"][0]["natural"].update(ci95=["0.0000", "0.0001"])),
    ("histogram without a bin", lambda d: d["levels"][0]["margin"]["histogram"]["counts"].pop()),
    ("undecided above unknown", lambda d: d["levels"][0].update(undecided=9999)),
    (
        "certified rising with eps",
        lambda d: d["levels"].__setitem__(2, {**d["levels"][0], "eps": "8/255", "eps_float": 8 / 255}),
    ),
]


@pytest.mark.parametrize(("law", "break_it"), LAWS, ids=[name for name, _ in LAWS])
def test_a_result_that_breaks_a_law_cannot_be_built(
    make_samples: Callable, make_result: Callable, law: str, break_it: Callable
) -> None:
    result = make_result(make_samples(CURVE))
    raw = result.model_dump(mode="json")
    type(result).model_validate(raw)
    break_it(raw)
    with pytest.raises(Contradiction):
        type(result).model_validate(raw)


def changed(samples: Samples, **columns: np.ndarray) -> Samples:
    return Samples(**{**{name: getattr(samples, name) for name in samples.__dataclass_fields__}, **columns})


@pytest.mark.parametrize(
    "margins",
    [
        [1.0, 1.0 + 2**-52],
        [1e20, 1e20 * (1 + 1e-12)],
        [-1e308, 1e308],
        [5e-324, 0.0],
        [7.0, 7.0],
    ],
    ids=str,
)
def test_margins_that_differ_by_rounding_alone_or_by_more_than_numbers_hold_have_a_histogram(margins: list) -> None:
    samples = Samples(
        ("0.1",),
        np.arange(2),
        np.zeros(2, np.int64),
        np.ones(2, np.int64),
        np.full((1, 2), 2, np.uint8),
        np.array([margins]),
    )
    (level,) = levels(samples)
    assert level.margin is not None
    assert sum(level.margin.histogram.counts) == 2


def test_verdicts_that_contradict_the_attack_or_the_margin_are_an_alarm(make_samples: Callable) -> None:
    samples = make_samples(("1/255", "8/255"))
    first = int(np.flatnonzero(samples.verdict[1] == 0)[0])
    survived, margin, predicted = samples.survived.copy(), samples.margin_lower.copy(), samples.predicted.copy()
    survived[1, first], margin[1, first], predicted[first] = False, np.nan, (samples.label[first] + 1) % 10
    for columns, words in (
        ({"survived": survived}, "attack succeeded"),
        ({"margin_lower": margin}, "without a positive margin"),
        ({"predicted": predicted}, "predicted class"),
    ):
        with pytest.raises(Contradiction, match=words):
            changed(samples, **columns)
    weak = int(np.flatnonzero((samples.verdict[0] == 0) & (samples.verdict[1] == 0))[0])
    verdict, survived = samples.verdict.copy(), samples.survived.copy()
    verdict[0, weak], survived[0, weak] = 1, False
    with pytest.raises(Contradiction, match="above that of a counterexample"):
        changed(samples, verdict=verdict, survived=survived)


def test_the_samples_file_is_the_same_bytes_and_reads_back(make_samples: Callable, tmp_path: Path) -> None:
    samples = make_samples(CURVE)
    assert samples.content == make_samples(CURVE).content
    (tmp_path / "samples.npz").write_bytes(samples.content)
    again = read_samples(tmp_path / "samples.npz", samples.described)
    assert again.eps == CURVE
    assert again.content == samples.content
    (tmp_path / "samples.npz").write_bytes(samples.content[:-60])
    with pytest.raises(Contradiction):
        read_samples(tmp_path / "samples.npz", samples.described)
    with pytest.raises(InputRejected):
        read_samples(tmp_path / "samples.npz", None)


def test_a_report_reads_back_and_any_edit_of_its_result_is_tampering(make_report: Callable, tmp_path: Path) -> None:
    report = make_report(CURVE, gates=("certified@8/255=0.1",), retrained=True)
    write(report, None, tmp_path, page="")
    assert read(tmp_path) == report
    text = (tmp_path / "report.json").read_text()
    for old, new in (
        ('"parameters": 36874', '"parameters": 36875'),
        ('"digits"', '"digits2"'),
        (report.result_sha256, "0" * 64),
    ):
        assert old in text
        (tmp_path / "report.json").write_text(text.replace(old, new, 1))
        with pytest.raises(Contradiction, match="tampered"):
            read(tmp_path)
    (tmp_path / "report.json").write_text(text.replace('"seconds": 12.3', '"seconds": 99.0'))
    assert read(tmp_path).result == report.result, "the run is not covered by the digest"


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"schema_version": "3"}', '{"a": NaN}', '{"a": 1, "a": 1}', "[" * 10**5]
)
def test_what_is_no_report_is_rejected(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(InputRejected):
        read(tmp_path)
    with pytest.raises(UsageError):
        read(tmp_path / "elsewhere")


def test_nan_and_infinity_never_reach_json(make_report: Callable, make_samples: Callable) -> None:
    curve = Training(recipe={}, curves=({"epoch": 0, "loss": float("nan"), "certified": float("-inf")},)).curves[0]
    assert curve == {"epoch": 0, "loss": None, "certified": None}
    with pytest.raises(ValidationError):
        make_report(training=None, parity={**make_report().result.parity.model_dump(), "scale": float("inf")})
    with pytest.raises(ValueError, match="not representable"):
        canonical({"a": float("nan")})
    samples = make_samples()
    unknown = samples.verdict == 3
    samples = changed(samples, margin_lower=np.where(unknown, -np.inf, samples.margin_lower))
    (level,) = levels(samples)
    assert level.margin is not None
    assert level.margin.not_finite == unknown.sum()


def test_the_digest_is_deterministic_and_blind_to_the_run(make_report: Callable) -> None:
    first, second = make_report(CURVE), make_report(CURVE)
    assert first.result_sha256 == second.result_sha256
    assert make_report(("8/255",)).result_sha256 != first.result_sha256


def test_the_schema_describes_the_report(make_report: Callable) -> None:
    described = schema()
    assert set(described["properties"]) == set(json.loads(make_report().model_dump_json()))
    assert described["properties"]["schema_version"]["enum"] == ["1", "2"]
