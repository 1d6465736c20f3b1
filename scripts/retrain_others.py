"""Models that are not ours, retrained on MNIST and written back: what changed in the file, and what it was worth.

    python scripts/retrain_others.py CORPUS mnist.npz --work runs/others [--epochs 5]

CORPUS is the folder of real models that the corpus tests read (PIPELINE_CORPUS). One model has its layers as MatMul and Add,
one has a batch of 1 baked into a Reshape, and one of them is saved again with external data. What it printed: docs/results.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import click
import onnx

MODELS = {
    "cora__mnist-point": "MatMul form, seven hidden layers",
    "eran_mnist__convSmallRELU__PGDK": "convolutions, a batch of 1 baked into a Reshape",
    "eran_mnist__mnist_relu_3_50": "the layers of a small MLP, saved with external data",
}
EXTERNAL = "eran_mnist__mnist_relu_3_50"


@click.command()
@click.argument("corpus", type=click.Path(exists=True, path_type=Path))
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/others"), show_default=True)
@click.option("--epochs", default=5, show_default=True)
@click.option("--eps", default="0.1", show_default=True)
def main(corpus: Path, data: Path, work: Path, epochs: int, eps: str) -> None:
    work.mkdir(parents=True, exist_ok=True)
    for name, what in MODELS.items():
        given, out = work / f"{name}.onnx", work / f"{name}.retrained.onnx"
        model = onnx.load(corpus / "onnx" / f"{name}.onnx")
        external = {"save_as_external_data": True, "location": f"{name}.data", "size_threshold": 1024}
        onnx.save(model, given, **(external if name == EXTERNAL else {}))
        run = ["retrain", str(given), "--data", f"npz:{data}", "--eps", eps, "--epochs", str(epochs), "--out", str(out)]
        run += ["--recipe", "shi2021"]
        subprocess.run([sys.executable, "-m", "pipeline", *run, "--force"], check=True, stdout=subprocess.DEVNULL)
        click.echo(f"\n## {name}: {what}\n\n{told(out)}\n\n{difference(given, out)}")


def told(out: Path) -> str:
    """Natural, attacked and certified before and after, from the report."""
    training = json.loads((out.with_name(f"{out.stem}.report") / "report.json").read_text())["result"]["training"]
    sides = {
        side: ", ".join(f"{m} {100 * training[side][m]['k'] / training[side][m]['n']:.2f} %" for m in MEASURES)
        for side in ("before", "after")
    }
    return "\n".join(f"{side:>6}: {figures}" for side, figures in sides.items())


MEASURES = ("natural", "attacked", "certified")


def difference(before: Path, after: Path) -> str:
    """The two files compared with nothing but the onnx package: nodes by their bytes, initialisers by their values."""
    a, b = (onnx.load(path) for path in (before, after))
    lines = []
    same = [x.SerializeToString() == y.SerializeToString() for x, y in zip(a.graph.node, b.graph.node, strict=False)]
    lines.append(
        f"nodes: {len(a.graph.node)} before, {len(b.graph.node)} after, {sum(same)} the same bytes in the same place"
    )
    lines += [
        f"  {_words(x)}\n  -> {_words(y)}" for x, y, ok in zip(a.graph.node, b.graph.node, same, strict=False) if not ok
    ]
    for field in ("input", "output"):
        left, right = ([v.SerializeToString() for v in getattr(m.graph, field)] for m in (a, b))
        lines.append(f"{field}s: {'the same' if left == right else 'DIFFERENT'}")
    versions = [(m.ir_version, [(o.domain, o.version) for o in m.opset_import]) for m in (a, b)]
    lines.append(f"opset and IR: {'the same' if versions[0] == versions[1] else 'DIFFERENT'}")
    old, new = ({t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer} for m in (a, b))
    state = Counter("added" if k not in old else "same" if (old[k] == new[k]).all() else "trained" for k in new)
    lines.append(f"initialisers: {dict(state)}, {len(old.keys() - new.keys())} removed")
    lines.append(f"metadata: {', '.join(p.key for p in b.metadata_props)}")
    beside = sorted(p.name for p in after.parent.glob(f"{after.name}.data*"))
    lines.append(f"external data: {', '.join(beside) if beside else 'none'}")
    return "\n".join(lines)


def _words(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name!r} ({', '.join(node.input)}) -> ({', '.join(node.output)})"


if __name__ == "__main__":
    main()
