"""What importing a file costs, and of that what comparing it with its runtime costs, measured side by side.

    python scripts/bench_import.py [FILE ...] [--rounds N]

Without files: the digits, and a network of the size of ResNet-18 (11.7 M parameters, 3 x 64 x 64 pixels) written for the purpose.
Each round runs, one after the other, in a random order: the import without any comparison; the comparison of outputs alone, at
batch 1 and together; the comparison of every node. Medians of CPU seconds, their ratio to the import, and the least and most of
all rounds; run it on one core (OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.onnx import importer, model_file, parity, runtime
from pipeline.onnx.node_by_node import Agreement
from pipeline.onnx.passes.normalise import normalise
from pipeline.onnx.probe import check_bombs

ROOT = Path(__file__).resolve().parents[1]


def resnet18(path: Path, size: int = 64) -> Path:
    """He et al., arXiv 1512.03385, table 1, with random weights."""
    rng, nodes, held = np.random.default_rng(0), [], {}

    def value(*shape: int) -> str:
        name = f"w{len(held)}"
        fan_in = max(1, int(np.prod(shape[1:])))
        held[name] = (rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)
        return name

    def emit(op: str, inputs: list[str], **attributes: object) -> str:
        out = f"v{len(nodes)}"
        nodes.append(helper.make_node(op, inputs, [out], **attributes))
        return out

    def conv(x: str, before: int, after: int, kernel: int, stride: int) -> str:
        pads = [kernel // 2] * 4
        y = emit("Conv", [x, value(after, before, kernel, kernel)], strides=[stride] * 2, pads=pads)
        statistics_ = [value(after) for _ in range(3)]
        held[variance := value(after)] = rng.random(after, np.float32) + 0.5
        return emit("BatchNormalization", [y, *statistics_, variance])

    x = emit("Relu", [conv("x", 3, 64, 7, 2)])
    x, before = emit("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), 64
    for after, first in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        y = conv(emit("Relu", [conv(x, before, after, 3, first)]), after, after, 3, 1)
        skip = conv(x, before, after, 1, first) if before != after else x
        x, before = emit("Relu", [emit("Add", [y, skip])]), after
    x = emit("Flatten", [emit("GlobalAveragePool", [x])])
    emit("Gemm", [x, value(1000, 512), value(1000)], transB=1)
    graph = helper.make_graph(
        nodes,
        "resnet18",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, size, size])],
        [helper.make_tensor_value_info(nodes[-1].output[0], onnx.TensorProto.FLOAT, ["n", 1000])],
        [numpy_helper.from_array(array, name) for name, array in held.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def phases(path: Path) -> dict[str, Callable[[], object]]:
    """What is timed of one file, each by itself."""
    file = model_file.read(path)

    def imported() -> torch.nn.Module:
        check_bombs(file.model)
        return importer.convert(normalise(file.model), file.model)

    network, session = importer.convert(normalise(file.model), file.model), runtime.session(file)
    xs = parity.points(network)
    return {
        "import": imported,
        "outputs": lambda: parity.measure_outputs(session, network, xs, Agreement(), None),
        "nodes": lambda: parity.by_node(session, file.model, network, xs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, seed 0"
    )
    order = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        files = asked.files or [ROOT / "models" / "digits.onnx", resnet18(Path(folder) / "resnet18.onnx")]
        print("| file | what | median CPU s | x import | least | most |\n|---|---|---|---|---|---|")
        for path in files:
            work = phases(path)
            times: dict[str, list[float]] = {name: [] for name in work}
            for _ in range(asked.rounds):
                for name in order.sample(list(work), len(work)):
                    began = time.process_time()
                    work[name]()
                    times[name].append(time.process_time() - began)
            base = statistics.median(times["import"])
            for name, seconds in times.items():
                middle = statistics.median(seconds)
                row = (
                    path.name,
                    name,
                    f"{middle:.3f}",
                    f"{middle / base:.2f}",
                    f"{min(seconds):.3f}",
                    f"{max(seconds):.3f}",
                )
                print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
