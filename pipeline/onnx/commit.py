"""A file into its place: written beside, checked, imported again and compared with the network before it replaces anything."""

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


def deliver(source: ModelFile, out: Path, patch: ModelEdit, network: Network) -> tuple[ModelFile, Parity]:
    """Writes into a folder beside ``out``, judges what lies there, and only then moves it into place: the file, as judged.

    Data have names that say what is in them, so the file that ``out`` was before keeps its own until it is replaced. Raises
    Contradiction if what was written does not compute ``network``, EnvironmentFailure if it cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name[:32]}.") as folder:
            written = Path(folder) / out.name
            _sidecar(source, written, patch)
            _write(written, patch.model.SerializeToString())
            judged, measured = _judged(written, network)
            stale = _outlived(out, source, judged)
            for part in reversed(judged.paths):
                os.replace(part, out.with_name(part.name))
            _sync_folder(out.parent)
            for path in stale:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise EnvironmentFailure(
            f"The folder of '{shown(str(out))}' must be writable and have room: {error.strerror}."
        ) from None
    return judged.at(out), measured


def _outlived(out: Path, *kept: ModelFile) -> list[Path]:
    """The data of the file that ``out`` has been, as far as this module named them and nobody at hand still reads them."""
    try:
        before = model_file.read(out)
    except PipelineError:
        return []  # no file yet, or none of ours
    ours = re.compile(re.escape(out.name) + r"\.[0-9a-f]{16}\.data")
    names = before.beside.keys() - {name for file in kept for name in file.beside}
    return [out.with_name(name) for name in names if ours.fullmatch(name)]


def _sidecar(source: ModelFile, written: Path, patch: ModelEdit) -> None:
    """External tensors stay external: in one file, at the offsets they had where that file was one before."""
    tensors = [t for t in external.tensors(patch.model) if external.is_external(t)]
    if not tensors:
        return
    entries = {t.name: {e.key: e.value for e in t.external_data} for t in tensors}
    one_file = len({e["location"] for e in entries.values()}) == 1
    data, places = bytearray(), {}

    def grown(tensor: onnx.TensorProto) -> bool:
        length = entries[tensor.name].get("length")
        return length is not None and int(length) < len(patch.external.get(tensor.name, b""))

    # What grew no longer fits where it was, and goes to the end.
    for tensor in sorted(tensors, key=grown):
        content = patch.external.get(tensor.name)
        if content is None:
            content = external.of(tensor, source.beside)
        kept = one_file and not grown(tensor)
        offset = int(entries[tensor.name].get("offset", 0)) if kept else -(-len(data) // 64) * 64
        data.extend(b"\0" * max(0, offset + len(content) - len(data)))
        data[offset : offset + len(content)] = content
        places[tensor.name] = {"offset": str(offset), "length": str(len(content))}
    name = f"{written.name}.{hashlib.sha256(data).hexdigest()[:16]}.data"
    for tensor in tensors:
        del tensor.external_data[:]
        for key, value in {"location": name, **places[tensor.name]}.items():
            tensor.external_data.add(key=key, value=value)
    patch.changes.append(f"external data moved to '{shown(name)}'")
    _write(written.with_name(name), bytes(data))


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


def _judged(written: Path, network: Network) -> tuple[ModelFile, Parity]:
    """Imports the written file and compares what it computes with the network. Raises Contradiction."""
    try:
        file = model_file.read(written)
        single = len(network.outputs) == 1
        imported = importer.load(file, output=network.outputs[0].name if single else None)
        measured = parity.compare(imported.session, file.model, network, parity.points(network))
    except InputRejected as error:
        raise Contradiction(f"A written file must import again; it does not: {shown(str(error), 500)}") from None
    if not measured.holds:
        raise Contradiction(
            f"A written file must compute what the trained network computes; {measured.difference}. Nothing was written."
        )
    return file, measured
