"""ONNX Runtime on the bytes of a file: the reference for what a delivered model computes."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.choices import LEVELS as LEVELS  # of this module too, for those who walk over them
from pipeline.choices import Optimization
from pipeline.errors import EnvironmentFailure, InputRejected, out_of_memory
from pipeline.limits import limits
from pipeline.onnx.model_file import ModelFile
from pipeline.onnx.names import shown
from pipeline.system.clock import check_time

OPTION: dict[Optimization, str] = {
    "off": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
"""ONNX Runtime's names of the levels; the last one is its default."""

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# TF32 is on by default on CUDA, and no certificate holds for it.
_OPTIONS: dict[str, dict[str, str]] = {"cpu": {}, "cuda": {"use_tf32": "0"}}
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(bool)": np.bool_,
}


class Session:
    """A loaded model: names of ``inputs`` and ``outputs``, and ``fixed_batch``, the batch size that the file fixes, or None."""

    def __init__(self, inference: Any, provider: str, level: Optimization = "all", options: Any = None):
        self._inference, self._options = inference, options
        self.provider, self.level = provider, level
        self.inputs = tuple(i.name for i in inference.get_inputs())
        self.outputs = tuple(o.name for o in inference.get_outputs())
        self.shapes = tuple(tuple(d if isinstance(d, int) else None for d in i.shape) for i in inference.get_inputs())
        self._dtypes = tuple(_DTYPES.get(i.type) for i in inference.get_inputs())
        first = self.shapes[0] if self.shapes else ()
        self.fixed_batch: int | None = first[0] if first else None

    def __call__(self, *xs: np.ndarray, outputs: Sequence[str] | None = None) -> list[np.ndarray]:
        """All outputs (or the named ones) for exactly these inputs, in one call.

        An input with one axis more than the file's is a batch of one for a file without a batch axis; outputs then get it too.
        Raises InputRejected if the model cannot be run on them, OutOfTime beyond a time budget, and ONNX Runtime's own error
        where memory runs out.
        """
        check_time()
        alone = bool(xs) and all(x.ndim == len(s) + 1 and len(x) == 1 for x, s in zip(xs, self.shapes, strict=True))
        if alone:
            return [y[None] for y in self(*(x[0] for x in xs), outputs=outputs)]
        feed = {
            name: np.ascontiguousarray(x, dtype=dtype)
            for name, x, dtype in zip(self.inputs, xs, self._dtypes, strict=True)
        }
        try:
            results = self._inference.run(list(outputs) if outputs is not None else None, feed, self._options)
        except Exception as error:  # ONNX Runtime raises its own kinds, without a common base
            if out_of_memory(error):
                raise
            raise InputRejected(
                f"ONNX Runtime must be able to run the model; it says: {shown(str(error), 500)}"
            ) from None
        return [_array(y) for y in results]

    def batched(self, *xs: np.ndarray, output: str | None = None, chunk: int = 256) -> np.ndarray:
        """One output for any number of samples: in chunks where the batch is free, else in the file's batch size.

        The last chunk of a fixed batch is filled up by repeating its last sample.
        """
        count, size = len(xs[0]), self.fixed_batch or chunk
        names = [output if output is not None else self.outputs[0]]
        parts = []
        for start in range(0, count, size):
            part = [x[start : start + size] for x in xs]
            size_of_part = len(part[0])
            if self.fixed_batch and size_of_part < size:
                part = [np.concatenate([p, np.repeat(p[-1:], size - size_of_part, axis=0)]) for p in part]
            parts.append(self(*part, outputs=names)[0][:size_of_part])
        return np.concatenate(parts)

    def flat(self, point: np.ndarray, outputs: Sequence[str] | None = None) -> np.ndarray:
        """All outputs in a row, or some, for one sample: all inputs in a row."""
        shapes = [tuple(d or 1 for d in shape) for shape in self.shapes]
        parts = np.split(point, np.cumsum([math.prod(shape) for shape in shapes])[:-1])
        ys = self(*(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)), outputs=outputs)
        return np.concatenate([y.reshape(-1) for y in ys])


def _array(output: Any) -> Any:
    """An output; of a ZipMap, a map from class to number for each sample, the numbers (n, C) in the order of the classes."""
    if isinstance(output, list) and output and all(isinstance(sample, dict) for sample in output):
        return np.array([[sample[label] for label in sorted(sample)] for sample in output], np.float32)
    return output


def version() -> str:
    """The version of the ONNX Runtime that is loaded."""
    import onnxruntime as ort

    return str(ort.__version__)


def session(
    source: ModelFile | bytes,
    *,
    provider: str = "cpu",
    limited: bool = False,
    level: Optimization = "all",
    written_to: Path | None = None,
) -> Session:
    """ONNX Runtime on the bytes of a file and of its external data, on as many threads as this process may use.

    ``level``: how far ONNX Runtime may rewrite the graph; its own default is all. ``limited``: on the CPU, in no more memory
    than ``Limits.runtime_bytes``; what needs more fails as a model that cannot run. ``written_to``: where the rewritten graph is
    written, with its large weights in a file beside it. Raises EnvironmentFailure if the provider is not there (ONNX Runtime
    itself would fall back in silence), OSError if the rewritten graph cannot be written, InputRejected if the model cannot be
    loaded.
    """
    import onnxruntime as ort

    provider_name = _PROVIDERS[provider]
    if provider_name not in ort.get_available_providers():
        raise EnvironmentFailure(
            f"Provider '{provider}' must be part of the installed ONNX Runtime, which has"
            f" {', '.join(ort.get_available_providers())}; install onnxruntime-gpu, or ask for provider 'cpu'."
        )
    options = _session_options(level)
    if written_to is not None:
        options.optimized_model_filepath = str(written_to)
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{written_to.stem}.weights"
        )
    if limited:
        _limit_memory()
        options.add_session_config_entry("session.use_env_allocators", "1")
    content = source if isinstance(source, bytes) else source.content
    if isinstance(source, ModelFile):
        _add_external_data(options, source)
    try:
        inference = ort.InferenceSession(content, options, providers=[(provider_name, _OPTIONS[provider])])
    except Exception as error:  # ONNX Runtime raises its own kinds, without a common base
        if out_of_memory(error):
            raise
        if written_to is not None and "Failed to write" in str(error):
            # ONNX Runtime does not say why; writing raises the OSError that does.
            written_to.write_bytes(bytes(content))
        raise InputRejected(f"ONNX Runtime must be able to load the model; it says: {shown(str(error), 500)}") from None
    if inference.get_providers()[0] != provider_name:
        raise EnvironmentFailure(
            f"Provider '{provider}' was asked for, but ONNX Runtime fell back to {inference.get_providers()[0]};"
            " check the CUDA and cuDNN libraries, or ask for provider 'cpu'."
        )
    return Session(inference, provider, level, _shrinking() if limited else None)


def _session_options(level: Optimization) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, OPTION[level])
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _add_external_data(options: Any, file: ModelFile) -> None:
    """Pass external data from memory: ONNX Runtime then opens no file, and refuses one that is not among them."""
    if file.beside:
        sizes = [len(data) for data in file.beside.values()]
        options.add_external_initializers_from_files_in_memory(list(file.beside), list(file.beside.values()), sizes)


def _shrinking() -> Any:
    """Options of a run after which a shared arena releases its memory."""
    import onnxruntime as ort

    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


@cache
def _limit_memory() -> None:
    """Registers, once a process, the arena that limited sessions share."""
    import onnxruntime as ort

    limit = limits().runtime_bytes
    info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(info, ort.OrtArenaCfg({"max_mem": limit, "arena_extend_strategy": 1}))


def threads() -> int:
    """The cores that this process may use, divided by the processes on this machine: ONNX Runtime would use all cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
