"""A report on disk: files that are replaced atomically, and read back with their digest checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from pipeline.errors import Contradiction, EnvironmentFailure, InputRejected, UsageError
from pipeline.limits import limits
from pipeline.results.canonical import Version, digest
from pipeline.results.result import Report
from pipeline.results.samples import COUNTEREXAMPLES_NAME, FILE_NAME, Samples
from pipeline.results.text import clean, quoted
from pipeline.system.atomic import replace_atomically
from pipeline.system.regular_file import open_regular

JSON_NAME, HTML_NAME = "report.json", "report.html"


def write(report: Report, samples: Samples | None, folder: Path, *, page: str) -> Path:
    """Write `report.json`, `samples.npz`, any counterexamples and their `page` into `folder`; returns the path of the page.

    report.json is written last, so that it never describes missing files. Raises EnvironmentFailure (74) where writing fails; no
    file is then left half written.
    """
    described = report.result.samples
    if samples is not None and (described is None or described.sha256 != samples.described.sha256):
        raise Contradiction("The result does not describe the samples it is written with; build it from `described`.")
    counterexamples = None if samples is None else samples.counterexamples
    contents = {COUNTEREXAMPLES_NAME: None if counterexamples is None else counterexamples.content}
    if samples is not None:
        contents[FILE_NAME] = samples.content
    put(folder, {**contents, HTML_NAME: page.encode("utf-8"), JSON_NAME: dump(report).encode("utf-8")})
    return folder / HTML_NAME


def put(folder: Path, contents: Mapping[str, bytes | None]) -> None:
    """Write files into a folder, in order; None removes the file of an earlier run. Raises EnvironmentFailure (74)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            if content is None:
                (folder / name).unlink(missing_ok=True)
            else:
                replace_atomically(folder / name, content)
    except OSError as error:
        raise EnvironmentFailure(
            f"The report could not be written to {str(folder)!r}: {error.strerror or error}. "
            "Free the disk or name another folder with --report."
        ) from error


def dump(report: BaseModel) -> str:
    """The report as indented JSON, without NaN or infinity, and without commands of build servers."""
    return quoted(json.dumps(report.model_dump(mode="json"), indent=2, allow_nan=False)) + "\n"


def read(path: Path) -> Report:
    """The report at `path`, a report.json or its folder.

    Raises UsageError for a missing file, InputRejected for a file that is no report, Contradiction (5) where the result does not
    have the stated digest.
    """
    _, raw = parse(path)
    name = (path / JSON_NAME if path.is_dir() else path).name
    if not intact(raw):
        raise Contradiction(f"{name!r} was tampered with: its result is not the one of its digest. Certify again.")
    try:
        return Report.model_validate(raw)
    except ValidationError as error:
        raise InputRejected(f"{name!r} is no report: {error.errors()[0]['msg']}. Certify again.") from error


def intact(raw: Mapping[str, Any]) -> bool:
    """Whether the result of a report of any kind has the stated digest. Raises InputRejected for JSON without canonical form."""
    try:
        return bool(raw.get("result_sha256") == digest(raw.get("result"), raw["schema_version"]))
    except ValueError as error:
        raise InputRejected(f"The result of a report is JSON that has a digest; of this one {clean(error)}.") from error


def parse(path: Path) -> tuple[str, dict[str, Any]]:
    """The text of a report of any kind, and its parsed JSON, of which only the schema version is checked.

    Raises UsageError for a missing file, InputRejected for invalid JSON or another schema version.
    """
    file = path / JSON_NAME if path.is_dir() else path
    try:
        with open_regular(file) as stored:
            content = stored.read(limits().report_bytes + 1)
        if len(content) > limits().report_bytes:
            raise InputRejected(f"{file.name!r} has more than {limits().report_bytes} bytes, so it is no report.")
        text = content.decode("utf-8")
        raw = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_repeats)
    except OSError as error:
        raise UsageError(f"No report {str(file)!r}: {error.strerror}. Name a report.json or its folder.") from error
    except (ValueError, RecursionError) as error:
        raise InputRejected(f"{file.name!r} is no report: {error}. Certify again.") from error
    if not isinstance(raw, dict) or raw.get("schema_version") not in get_args(Version):
        raise InputRejected(
            f"{file.name!r} is no report of schema version {' or '.join(get_args(Version))}. Read it with the version of this "
            "program that wrote it."
        )
    return text, raw


def _no_constant(name: str) -> Any:
    raise ValueError(f"it holds {name}, which JSON lacks")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("it names a key twice")
    return dict(pairs)
