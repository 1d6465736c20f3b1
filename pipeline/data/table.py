"""Tables, ``csv:FILE`` and ``parquet:FILE``: one column has the labels, every other one a feature named after it.

Read by pyarrow (extra ``[tabular]``). Only labels may be text: a table does not say how training encoded a text feature.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import parse_qs

import numpy as np

from pipeline.data.dataset import EXACT_IN_FLOAT32, Dataset, make
from pipeline.errors import EnvironmentFailure, InputRejected, UsageError
from pipeline.limits import limits, raised
from pipeline.system.regular_file import open_regular

Format = Literal["csv", "parquet"]
OPTIONS = ("label", "drop")
LABELS = ("label", "target", "class", "y")
"""Names of columns that are taken for labels where the URI names none."""


def parse(rest: str) -> tuple[Path, dict[str, str]]:
    """File and options of ``FILE[?label=COLUMN&drop=COLUMN,...]``. Raises UsageError."""
    name, _, query = rest.partition("?")
    options = {key: values[-1] for key, values in parse_qs(query, keep_blank_values=True).items()}
    if unknown := sorted(options.keys() - set(OPTIONS)):
        raise UsageError(f"a table has no option {unknown[0][:40]!r}; its options are {', '.join(OPTIONS)}.")
    return Path(name), options


def read(kind: Format, rest: str, *, uri: str) -> Dataset:
    """The whole table. Raises UsageError for a missing file or column, InputRejected for a file that is no table of numbers,
    EnvironmentFailure (74) without pyarrow.
    """
    path, options = parse(rest)
    table = _table(kind, path, uri)
    names = [str(name) for name in table.column_names]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputRejected(
            f"{uri!r}: two columns are called {repeated[0][:40]!r}. Give each feature a name of its own."
        )
    label = _label(names, options.get("label"), uri)
    drop = [name for name in options.get("drop", "").split(",") if name]
    if missing := [name for name in drop if name not in names or name == label]:
        raise UsageError(f"{uri!r}: drop names columns of features, {_some(names)}; received {missing[0][:40]!r}.")
    features = [name for name in names if name != label and name not in drop]
    if not features:
        raise InputRejected(f"{uri!r} has no column beside the labels {label!r}: a sample has no features.")
    x = np.stack([_numbers(table.column(names.index(name)), name, uri) for name in features], axis=1)
    y, classes = _classes(table.column(names.index(label)), label, uri)
    notes = (f"labels are column {label!r}, features the other {len(features)}",)
    return make(x, y, uri=uri, class_names=classes, notes=notes, feature_names=tuple(features))


def _table(kind: Format, path: Path, uri: str) -> Any:
    try:
        import pyarrow
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError as error:
        raise EnvironmentFailure(
            f"{uri!r} needs pyarrow, which is not installed: `pip install 'pipeline[tabular]'`, or store an npz."
        ) from error
    try:
        with open_regular(path) as file:
            return _bounded(pyarrow, kind, file, uri)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"No file {str(path)!r}. Name an existing table: {kind}:PATH.") from None
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputRejected(f"{uri!r} is no readable {kind} table: {str(error)[:300]}.") from error


def _bounded(pyarrow: Any, kind: Format, file: IO[bytes], uri: str) -> Any:
    """The table, read only if the size that the file states is within the limit."""
    most = limits().data_bytes
    if kind == "csv":
        size = file.seek(0, 2)
        file.seek(0)
    else:
        metadata = pyarrow.parquet.ParquetFile(file).metadata
        stored = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
        size = max(8 * metadata.num_rows * metadata.num_columns, stored)
    if size > most:
        raise InputRejected(f"{uri!r}: {size} bytes of table, more than the {most} allowed. {raised('data_bytes')}")
    return pyarrow.csv.read_csv(file) if kind == "csv" else pyarrow.parquet.read_table(file)


def _label(names: list[str], wanted: str | None, uri: str) -> str:
    """The name of the column of labels."""
    matches = [name for name in names if (name == wanted if wanted is not None else name.lower() in LABELS)]
    if len(matches) == 1:
        return matches[0]
    raise UsageError(f"{uri!r}: which column holds the labels? There are {_some(names)}. Say `?label=COLUMN`.")


def _numbers(column: Any, name: str, uri: str) -> np.ndarray:
    """A feature as float32. Raises InputRejected for text, dates and missing values."""
    if column.null_count:
        raise InputRejected(
            f"{uri!r}: column {name[:60]!r} lacks {column.null_count} of {len(column)} values. Fill them in as in training."
        )
    values = np.asarray(column.to_numpy())
    if values.dtype.kind not in "biuf":
        raise InputRejected(
            f"{uri!r}: column {name[:60]!r} holds {column.type}, no numbers. Encode it as in training (one-hot, a code), or "
            "leave it out by &drop=COLUMN."
        )
    if values.dtype.kind in "iu" and values.size and max(-int(values.min()), int(values.max())) > EXACT_IN_FLOAT32:
        raise InputRejected(
            f"{uri!r}: column {name[:60]!r} holds whole numbers beyond 2^24, which float32 cannot represent (an identifier?). "
            "Leave it out by &drop=COLUMN, or store it as the model takes it."
        )
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _classes(column: Any, name: str, uri: str) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Labels, and the names of classes in sorted order where labels are texts, else None."""
    if column.null_count:
        raise InputRejected(f"{uri!r}: {column.null_count} samples have no label in column {name[:60]!r}. Remove them.")
    values = np.asarray(column.to_numpy())
    if values.dtype.kind in "biuf":
        return values, None
    if not all(isinstance(value, str) for value in values):
        raise InputRejected(f"{uri!r}: column {name[:60]!r} holds {column.type}, and labels are numbers or texts.")
    classes, codes = np.unique(values.astype(str), return_inverse=True)
    return codes, tuple(map(str, classes))


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:12])
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown
