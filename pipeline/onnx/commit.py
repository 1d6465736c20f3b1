"""Puts a written file into place: written beside, imported again and compared with the network before it replaces anything."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path

import onnx

from pipeline.core.network import Network
from pipeline.errors import Contradiction, EnvironmentFailure, InputRejected, PipelineError
from pipeline.onnx import external, importer, model_file, parity
from pipeline.onnx.edit import ModelEdit
from pipeline.onnx.model_file import ModelFile
from pipeline.onnx.names import shown
from pipeline.results import Parity


def commit(source: ModelFile, out: Path, edit: ModelEdit, network: Network) -> tuple[ModelFile, Parity]:
    """Write into a folder beside ``out``, compare the result with ``network``, and only then move it into place.

    Returns the file and its parity with the network. The name of external data is derived from its content, so the old file at
    ``out`` keeps its data until it is replaced. Raises Contradiction if the written file does not compute ``network``,
    EnvironmentFailure if it cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name[:32]}.") as folder:
            new_path = Path(folder) / out.name
            _sidecar(source, new_path, edit)
            _write(new_path, edit.model.SerializeToString())
            file, measured_parity = _import_and_compare(new_path, network)
            stale_paths = _stale_data(out, source, file)
            for part in reversed(file.paths):
                os.replace(part, out.with_name(part.name))
            _sync_folder(out.parent)
            for path in stale_paths:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise EnvironmentFailure(
            f"The folder of '{shown(str(out))}' must be writable and have room: {error.strerror}."
        ) from None
    return file.at(out), measured_parity


def _stale_data(out: Path, *files: ModelFile) -> list[Path]:
    """External data of the old file at ``out``, as far as this module wrote it and none of ``files`` reads it."""
    try:
        old_file = model_file.read(out)
    except PipelineError:
        return []  # no file yet, or no model
    own_name = re.compile(re.escape(out.name) + r"\.[0-9a-f]{16}\.data")
    names = old_file.beside.keys() - {name for file in files for name in file.beside}
    return [out.with_name(name) for name in names if own_name.fullmatch(name)]


def _sidecar(source: ModelFile, new_path: Path, edit: ModelEdit) -> None:
    """Write external tensors into one file beside the model, at their old offsets where they were in one file before."""
    tensors = [t for t in external.tensors(edit.model) if external.is_external(t)]
    if not tensors:
        return
    entries = {t.name: {e.key: e.value for e in t.external_data} for t in tensors}
    one_file = len({e["location"] for e in entries.values()}) == 1
    data, locations = bytearray(), {}

    def grown(tensor: onnx.TensorProto) -> bool:
        length = entries[tensor.name].get("length")
        return length is not None and int(length) < len(edit.external.get(tensor.name, b""))

    # A tensor that grew no longer fits at its offset, and goes to the end.
    for tensor in sorted(tensors, key=grown):
        content = edit.external.get(tensor.name)
        if content is None:
            content = external.of(tensor, source.beside)
        fits = one_file and not grown(tensor)
        offset = int(entries[tensor.name].get("offset", 0)) if fits else -(-len(data) // 64) * 64
        data.extend(b"\0" * max(0, offset + len(content) - len(data)))
        data[offset : offset + len(content)] = content
        locations[tensor.name] = {"offset": str(offset), "length": str(len(content))}
    name = f"{new_path.name}.{hashlib.sha256(data).hexdigest()[:16]}.data"
    for tensor in tensors:
        del tensor.external_data[:]
        for key, value in {"location": name, **locations[tensor.name]}.items():
            tensor.external_data.add(key=key, value=value)
    edit.changes.append(f"external data moved to '{shown(name)}'")
    _write(new_path.with_name(name), bytes(data))


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _import_and_compare(new_path: Path, network: Network) -> tuple[ModelFile, Parity]:
    """Import the written file and compare it with the network. Raises Contradiction where they differ."""
    try:
        file = model_file.read(new_path)
        single = len(network.outputs) == 1
        imported = importer.load(file, output=network.outputs[0].name if single else None)
        measured_parity = parity.compare(imported.session, file.model, network, parity.points(network))
    except InputRejected as error:
        raise Contradiction(f"A written file must import again; it does not: {shown(str(error), 500)}") from None
    if not measured_parity.holds:
        raise Contradiction(
            f"A written file must compute what the trained network computes; {measured_parity.difference}. Nothing was written."
        )
    return file, measured_parity
