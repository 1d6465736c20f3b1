"""A model is opened once: the bytes that are hashed are those that are imported and run, whatever the path becomes."""

from __future__ import annotations

import ast
import os
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from pipeline.commands.certification import certify
from pipeline.commands.events import Done
from pipeline.commands.examination import examine
from pipeline.commands.run_data import test_part as part_for_testing
from pipeline.commands.subject import open_model, opened
from pipeline.errors import InputRejected
from pipeline.onnx import guard, model_file, runtime
from pipeline.settings import Settings
from tests.onnx.files import model, node, saved, weights

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2] / "pipeline"


def classifier(sign: float, *, constant: bool = False) -> onnx.ModelProto:
    """Three classes; the same graph with another sign has other labels."""
    w = sign * weights(4, 3, seed=1)
    if constant:
        nodes = [node("Constant", [], ["w"], value=numpy_helper.from_array(w, "w")), node("MatMul", ["x", "w"], ["y"])]
        return model(nodes, [1, 4])
    return model([node("MatMul", ["x", "w"], ["y"])], [1, 4], {"w": w})


def beside(folder: Path, proto: onnx.ModelProto, location: str = "w.data") -> Path:
    """The model with every tensor in one file beside it."""
    data = bytearray()
    for tensor in (*proto.graph.initializer, *(a.t for n in proto.graph.node for a in n.attribute if a.HasField("t"))):
        entries = {"location": location, "offset": str(len(data)), "length": str(len(tensor.raw_data))}
        data += tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / location).parent.mkdir(exist_ok=True)
    (folder / location).write_bytes(data)
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    return folder / "m.onnx"


FORMS: dict[str, Callable[[Path, float], Path]] = {
    "inside": lambda folder, sign: saved(folder, classifier(sign), "m.onnx"),
    "external": lambda folder, sign: beside(folder, classifier(sign)),
    "external, in a folder": lambda folder, sign: beside(folder, classifier(sign), "deep/w.data"),
    "external, of a Constant": lambda folder, sign: beside(folder, classifier(sign, constant=True), "./w.data"),
}


def data(folder: Path) -> str:
    x = np.random.default_rng(0).random((20, 4), np.float32)
    np.savez(folder / "d.npz", x=x, y=(x @ weights(4, 3, seed=1)).argmax(1))
    return f"npz:{folder / 'd.npz'}"


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != "d.npz"]


def ended(events: Generator[object, None, T]) -> T:
    """What a generator returns."""
    while True:
        try:
            next(events)
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize("form", FORMS)
def test_what_becomes_of_the_path_changes_nothing(form: str, tmp_path: Path) -> None:
    here, other = tmp_path / "here", tmp_path / "other"
    for folder, sign in ((here, 1.0), (other, -1.0)):
        folder.mkdir()
        FORMS[form](folder, sign)
    settings = Settings(eps="1/1000", arithmetic="real")
    file, expected = opened(here / "m.onnx"), model_file.read(here / "m.onnx").digests
    for path in files(here):
        os.replace(other / path.relative_to(here), path)
    assert model_file.read(here / "m.onnx").digests != expected
    subject = open_model(file, settings)
    for path in files(here):
        path.unlink()
    fields = ended(examine(subject, part_for_testing(data(tmp_path), settings, None), settings, {})).fields
    assert fields["model"].sha256 == expected.sha256
    assert fields["model"].weights_sha256 == expected.weights_sha256
    assert fields["levels"][0].natural.k == 20  # of the other file: few
    assert fields["levels"][0].certified.k > 10


@pytest.mark.parametrize("form", FORMS)
def test_a_run_opens_each_file_once(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = FORMS[form](tmp_path, 1.0)
    monkeypatch.chdir(tmp_path)
    flags = {"data": data(tmp_path), "eps": "1/1000", "arithmetic": "real"}
    wanted = {p.name: 0 for p in files(tmp_path)}
    with Opened(wanted):
        *_, done = certify(path, flags)
    assert isinstance(done, Done)
    assert wanted == dict.fromkeys(wanted, 1)


class Opened:
    """Counts every opening of some names in this process; audit hooks cannot be removed, so it is told to stop."""

    def __init__(self, counts: dict[str, int]):
        self.counts, self.on = counts, True

    def __enter__(self) -> None:
        sys.addaudithook(self.seen)

    def __exit__(self, *_: object) -> None:
        self.on = False

    def seen(self, event: str, args: tuple[Any, ...]) -> None:
        if self.on and event == "open" and isinstance(args[0], str | os.PathLike):
            name = Path(args[0]).name
            if name in self.counts:
                self.counts[name] += 1


def test_nothing_but_one_module_opens_a_model() -> None:
    """Others get bytes: no function that opens a path is called where models are read."""
    known = {
        "model_file.py": {"open"},
        "commit.py": {"open"},  # to write, and a folder
        "kernel_table.py": {"read_text", "open"},  # what it ships, and libraries, whose digests it takes
        "optimised.py": {"load"},  # what the runtime wrote into a folder of its own
    }
    opening = {"open", "read_bytes", "read_text", "fdopen", "load_model", "load_external_data_for_model", "fromfile"}
    found: dict[str, set[str]] = {}
    for path in (ROOT / "onnx").rglob("*.py"):
        for call in (n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            onnx_load = ast.unparse(call.func) in ("onnx.load", "onnx.checker.check_model") and path.name != "guard.py"
            if name in opening | {"NamedTemporaryFile"} or onnx_load:
                found.setdefault(path.name, set()).add(name)
    assert found.pop("model_file.py") == {"open", "fdopen"}
    assert all(names <= known.get(file, set()) for file, names in found.items()), found


def test_a_session_gets_bytes_and_never_a_path() -> None:
    """The one call of ONNX Runtime that could open a file."""
    calls = [
        ast.unparse(n.args[0])
        for path in ROOT.rglob("*.py")
        for n in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(n, ast.Call) and ast.unparse(n.func).endswith("InferenceSession")
    ]
    assert sorted(calls) == ["content", "model.SerializeToString()"]


def in_time(work: Callable[[], T], seconds: float = 20) -> T:
    """What work gives, which must not wait."""
    found: list[T] = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it waits"
    return found[0]


def refusal(path: Path) -> str:
    """Why a model is refused."""
    with pytest.raises(InputRejected) as caught:
        opened(path)
    return str(caught.value)


def _fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def _loop(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


def _device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def _socket(path: Path) -> None:
    import socket

    path.unlink(missing_ok=True)
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket is short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    ("what", "as_model", "as_data"),
    [
        (_fifo, "a FIFO", "a FIFO"),
        (_folder, "a folder", "a folder"),
        (_loop, "there is none", "symbolic link"),
        (_device, "a device", "symbolic link"),
        (_socket, "there is none", "must be there"),
    ],
    ids=["fifo", "folder", "loop", "device", "socket"],
)
def test_what_is_no_regular_file_is_refused_at_once(what: Any, as_model: str, as_data: str, tmp_path: Path) -> None:
    path = beside(tmp_path, classifier(1.0))
    for broken, message in ((tmp_path / "w.data", as_data), (path, as_model)):
        what(broken)
        assert message in in_time(lambda: refusal(path))


def test_a_folder_on_the_way_to_data_is_no_link(tmp_path: Path) -> None:
    path = beside(tmp_path / "here", classifier(1.0), "deep/w.data")
    assert model_file.read(path).external_data[0].name == "w.data"
    (tmp_path / "here" / "deep").rename(tmp_path / "deep")
    (tmp_path / "here" / "deep").symlink_to(tmp_path / "deep")
    with pytest.raises(InputRejected, match="symbolic link"):
        model_file.read(path)


def test_data_that_are_larger_than_all_tensors_may_be(tmp_path: Path) -> None:
    """A sparse file of a terabyte costs nothing to make; it is refused before it is read."""
    path = beside(tmp_path, classifier(1.0))
    with (tmp_path / "w.data").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputRejected, match="weights_bytes"):
        model_file.read(path)


def test_sparse_constants_are_refused_by_name(tmp_path: Path) -> None:
    """Their values may lie beside the file, and nothing here would know."""
    values, indices = (
        numpy_helper.from_array(np.ones(1, np.float32), "v"),
        numpy_helper.from_array(np.zeros(1, np.int64)),
    )
    proto = classifier(1.0)
    sparse = onnx.SparseTensorProto(values=values, indices=indices, dims=[4, 3])
    proto.graph.node.insert(0, node("Constant", [], ["s"], sparse_value=sparse))
    with pytest.raises(
        InputRejected, match="Sparse tensors are not supported; 1 nodes hold one, the first is a Constant"
    ):
        guard.check_structure(proto)


def test_one_file_under_two_spellings_is_read_once(tmp_path: Path) -> None:
    proto = model([node("Gemm", ["x", "w", "b"], ["y"])], [1, 4], {"w": weights(4, 3, seed=1), "b": weights(3, seed=2)})
    path = beside(tmp_path, proto)
    entries = onnx.load(path, load_external_data=False)
    entries.graph.initializer[1].external_data[0].value = ".//w.data"
    path.write_bytes(entries.SerializeToString())
    file = model_file.read(path)
    assert list(file.beside) == ["w.data"]
    x = weights(1, 4)
    np.testing.assert_allclose(runtime.session(file)(x)[0], x @ weights(4, 3, seed=1) + weights(3, seed=2), rtol=1e-5)
