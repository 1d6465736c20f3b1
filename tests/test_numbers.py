"""Numbers are read as everybody sees them: ASCII, finite, exact, and never at a cost beyond their length."""

from __future__ import annotations

from fractions import Fraction

import pytest

from pipeline.errors import UsageError
from pipeline.gates import parse_gate
from pipeline.gates.demands import share
from pipeline.numbers import exact, real, whole
from pipeline.settings import settle
from pipeline.train.recipes import recipe

STRANGE = (
    *("０.３", "٠.٣", "0.३", "１", "½", "²", "−1", "𝟎.𝟑", "0.3\u3000", "\u00a00.3"),
    *("1_0", "0_1.5", "nan", "NaN", "inf", "-inf", "infinity", "0x1p-2", "0b1"),
    *("1e999999999", "1e400", "9" * 300, "1/0", "", " ", ".", "1 0", "--1", "1e"),
)
"""None of them is a number: other scripts' digits, words, what Python alone reads, what would take for ever."""


@pytest.mark.parametrize("text", STRANGE)
def test_what_is_no_number_is_none(text):
    assert (whole(text), real(text), exact(text)) == (None, None, None)


@pytest.mark.parametrize("text", STRANGE)
def test_no_gate_and_no_setting_reads_it(text, tmp_path):
    for made in (f"certified={text}", f"certified@{text}=0.3", f"class:{text}:certified=0.3"):
        with pytest.raises(UsageError):
            parse_gate(made)
    with pytest.raises(UsageError):
        share(text, "significance")
    numbers = ("seed", "max_samples", "label_offset", "restarts", "attack_steps", "time_budget", "memory_budget")
    flags = {
        "eps": text or "x",
        "range": f"{text},1",
        "mean": text or "x",
        "std": [text],
        **dict.fromkeys(numbers, text),
    }
    for name, value in flags.items():
        with pytest.raises(UsageError):
            settle(tmp_path / "m.onnx", {name: value}, {})
    for name in ("epochs", "learning_rate", "micro_batch"):
        with pytest.raises(UsageError):
            recipe("fast", input_shape=(1, 8, 8), n_train=100, **{name: text})


def test_what_is_one_is_read_exactly():
    assert exact(" 8/255 ") == Fraction(8, 255)
    assert exact("1e-3") == exact(".001") == Fraction(1, 1000)
    assert (whole("-12"), whole(" 7\n"), real("1e-3"), real("-.5")) == (-12, 7, 1e-3, -0.5)
    assert whole("1.5") is None


@pytest.mark.parametrize("value", [True, float("nan"), float("inf"), 10**19, 10**400])
def test_settings_of_other_types_are_held_to_the_same(tmp_path, value):
    for name in ("seed", "max_samples", "label_offset"):
        with pytest.raises(UsageError):
            settle(tmp_path / "m.onnx", {name: value}, {})
    if not isinstance(value, int) or value is True:
        for name in ("mean", "std"):
            with pytest.raises(UsageError):
                settle(tmp_path / "m.onnx", {name: [value]}, {})
    with pytest.raises(UsageError):
        settle(tmp_path / "m.onnx", {}, {"pipeline.preprocessing": '{"range": [NaN, 1]}'})
