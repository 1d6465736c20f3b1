"""Tables by name: which column is what, what is refused, and what it says without the package that reads them."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data import discrete, load, without_folders
from pipeline.errors import EnvironmentFailure, InputRejected, UsageError

TEXT = "a,flag,b,class\n0.5,0,3.25,yes\n1.5,1,-2,no\n2.5,0,1e3,yes\n"


@pytest.mark.parametrize("scheme", ["csv", "parquet"])
def test_a_table_is_its_features_in_order_and_its_labels(tmp_path, scheme):
    path = tmp_path / f"t.{scheme}"
    if scheme == "csv":
        path.write_text(TEXT)
    else:
        columns = {
            "a": [0.5, 1.5, 2.5],
            "flag": [False, True, False],
            "b": [3.25, -2, 1e3],
            "class": ["yes", "no", "yes"],
        }
        pq.write_table(pa.table(columns), path)
    for uri in (f"{scheme}:{path}", str(path)):
        found = load(uri, part=None)
        assert found.feature_names == ("a", "flag", "b")
        assert found.images.dtype == np.float32
        assert found.images.tolist() == [[0.5, 0, 3.25], [1.5, 1, -2], [2.5, 0, 1000]]
        assert (found.class_names, found.labels.tolist()) == (("no", "yes"), [1, 0, 1])
    some = load(f"{scheme}:{path}?label=flag&drop=class,b", part="test")
    assert (some.feature_names, some.labels.tolist()) == (("a",), [0, 1, 0])
    assert without_folders(f"{scheme}:{path}?label=flag") == f"{scheme}:t.{scheme}?label=flag"


@pytest.mark.parametrize(
    ("text", "query", "kind", "said"),
    [
        (TEXT, "?label=klass", UsageError, "which column holds the labels? There are 'a', 'flag', 'b', 'class'"),
        (TEXT, "?drop=c", UsageError, "drop names columns"),
        (TEXT, "?labels=a", UsageError, "its options are label, drop"),
        (TEXT.replace("1.5", "red"), "", InputRejected, "'a' holds string, no numbers"),
        (TEXT.replace("1.5", ""), "", InputRejected, "'a' lacks 1 of 3 values"),
        (TEXT.replace("1.5,", "40000001,").replace("0.5,", "1,").replace("2.5,", "2,"), "", InputRejected, "identifier"),
        (TEXT.replace("a,", "b,"), "", InputRejected, "two columns are called 'b'"),
        ("class\n1\n", "", InputRejected, "no features"),
        ("", "", InputRejected, "no readable csv table"),
        ("a,class\n1,2\n1,2,3\n", "", InputRejected, "no readable csv table"),
    ],
)  # fmt: skip
def test_what_is_no_table_of_numbers_is_refused_by_name(tmp_path, text, query, kind, said):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(kind) as refused:
        load(f"csv:{tmp_path / 't.csv'}{query}", part=None)
    assert said in str(refused.value)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_text(TEXT)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(EnvironmentFailure, match=r"pipeline\[tabular\]"):
        load(f"csv:{tmp_path / 't.csv'}", part=None)


def test_flags_groups_and_counts_are_told_from_measurements():
    rng = np.random.default_rng(0)
    group, kind = np.eye(4)[rng.integers(0, 4, 60)], rng.integers(0, 2, 60)
    columns = [rng.normal(size=60), kind, *group.T, rng.integers(0, 50, 60), np.full(60, 2.0), rng.random(60)]
    values = np.column_stack(columns)
    expected = {"one-hot groups": [2, 3, 4, 5], "two values alone": [1], "whole numbers alone": [6]}
    found = discrete(values)
    assert {why: [at for at in at_all if at != 7] for why, at_all in found.items()} == expected
    scaled = (values - values.mean(0)) / np.maximum(values.std(0), 1)
    standardised = discrete(scaled)
    assert (standardised["one-hot groups"], standardised["two values alone"]) == ([2, 3, 4, 5], [1])
