"""Writes tests/onnx/fixtures/*.onnx: small networks as the exporters of PyTorch write them, the form that users bring.

    python scripts/export_fixtures.py

Named <network>_<exporter>_<opset>_<static|dynamic>.onnx. What an exporter cannot do at an opset is said and left out.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models.cnn7 import CNN7  # noqa: E402
from models.wide_resnet8 import WideResNet8  # noqa: E402

FOLDER = ROOT / "tests" / "onnx" / "fixtures"
VARIANTS = (
    ("legacy", 13, "static"),
    ("legacy", 17, "dynamic"),
    ("legacy", 20, "static"),
    ("dynamo", 18, "static"),
    ("dynamo", 20, "dynamic"),
    ("dynamo", 23, "dynamic"),
)
ALL = range(13, 24)
OPSETS = {"transformer": range(14, 23)}
"""At which a network can be exported and read: there is no attention before them, and one fused operator after."""


class Pools(nn.Module):
    """MaxPool 3x3 stride 2 with padding, AvgPool, LeakyReLU, Sigmoid, GlobalAveragePool."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.leaky_relu(self.conv1(x), 0.1), 3, stride=2, padding=1)
        x = torch.sigmoid(F.avg_pool2d(self.conv2(x), 2, stride=1))
        return self.fc(x.mean(dim=(2, 3)))


class Wiring(nn.Module):
    """A normalised input, products without bias, an output used twice, a concatenation, a tied weight, a Softmax at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 5, bias=False), nn.Linear(5, 5, bias=False)
        self.last = nn.Linear(10, 3)
        self.register_buffer("mean", torch.full((6,), 0.4))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first((x - self.mean) / 0.25))
        twice = F.relu(self.second(F.relu(self.second(h))))
        return torch.softmax(self.last(torch.cat([h, twice], dim=1)), dim=1)


class Attention(nn.Module):
    """Scaled dot-product attention, which the exporter fuses into one operator from opset 23 on."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.fc = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unsqueeze(1).chunk(3, dim=-1)
        return self.fc(F.scaled_dot_product_attention(q, k, v).squeeze(1).mean(dim=1))


class Transformer(nn.Module):
    """PyTorch's own encoder layer over three tokens: inside, tokens come first, and heads are folded into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = nn.Linear(4, 8), nn.Linear(8, 3)
        self.layer = nn.TransformerEncoderLayer(8, 2, 6, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer(self.embed(x)).mean(dim=1))


def networks() -> Iterator[tuple[str, nn.Module, tuple[int, ...]]]:
    """Name, network in eval mode with statistics of its own, and the shape of a sample."""
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
    yield "mlp", mlp.eval(), (1, 3, 4)
    for name, model, shape in (
        ("cnn7", CNN7((1, 6, 6), 3, width=2, hidden=6), (1, 6, 6)),
        ("resnet", WideResNet8((2, 8, 8), 3, base=2, widen=1, hidden=6), (2, 8, 8)),
    ):
        model(torch.randn(32, *shape))  # statistics and affine parameters that are not the initial ones
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.3)
                nn.init.normal_(module.bias, 0.0, 0.3)
        yield name, model.eval(), shape
    yield "pools", Pools().eval(), (1, 9, 9)
    yield "wiring", Wiring().eval(), (6,)
    transformer = Transformer()
    for name, parameter in transformer.named_parameters():
        if "norm" in name or "bias" in name:
            nn.init.normal_(parameter, float("weight" in name), 0.3)
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operator of PyTorch's, which is not exported
    yield "transformer", transformer.eval(), (3, 4)


def export(model: nn.Module, shape: tuple[int, ...], path: Path, exporter: str, opset: int, batch: str) -> None:
    """One file by one exporter; the legacy one keeps BatchNorm as nodes, the default one folds it."""
    x = torch.rand(1 if batch == "static" else 2, *shape)
    names = {"input_names": ["image"], "output_names": ["logits"]}
    if exporter == "legacy":
        axes = None if batch == "static" else {"image": {0: "batch"}, "logits": {0: "batch"}}
        keep = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
        torch.onnx.export(model, (x,), str(path), opset_version=opset, dynamo=False, dynamic_axes=axes, **names, **keep)
    else:
        free = None if batch == "static" else ({0: torch.export.Dim("batch")},)
        torch.onnx.export(
            model,
            (x,),
            str(path),
            opset_version=opset,
            dynamo=True,
            dynamic_shapes=free,
            external_data=False,
            verbose=False,
            **names,
        )
        strip(path)


def strip(path: Path) -> None:
    """Leaves out what the exporter notes about the Python code: it is larger than the network, and names its machine."""
    model = onnx.load(path)
    for part in (model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.value_info):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    onnx.save(model, path)


def main() -> None:
    warnings.simplefilter("ignore")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, model, shape in networks():
        for variant in VARIANTS:
            if variant[1] not in OPSETS.get(name, ALL):
                continue
            path = FOLDER / ("_".join(map(str, (name, *variant))) + ".onnx")
            try:
                export(model, shape, path, *variant)
                found = next(e.version for e in onnx.load(path).opset_import if not e.domain)
                if found != variant[1]:
                    path.unlink()
                    print(f"{path.name}: left out, the exporter wrote opset {found}")
            except Exception as error:
                path.unlink(missing_ok=True)
                print(f"{path.name}: left out, {type(error).__name__}")
    torch.manual_seed(0)
    export(Attention().eval(), (5, 4), FOLDER / "attention_dynamo_23_static.onnx", "dynamo", 23, "static")
    external = onnx.load(FOLDER / "mlp_dynamo_20_dynamic.onnx")
    settings = {"save_as_external_data": True, "location": "mlp_external.onnx.data", "size_threshold": 64}
    (FOLDER / "mlp_external.onnx.data").unlink(missing_ok=True)
    onnx.save(external, FOLDER / "mlp_external.onnx", **settings)


if __name__ == "__main__":
    main()
