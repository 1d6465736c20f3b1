"""Writes the ONNX files of models/: the digits network, trained in the ordinary way, and any architecture on request.

python scripts/export_models.py                      # models/digits.onnx and pipeline/data/digits.onnx
python scripts/export_models.py cnn7 --width 16 --input 1,28,28 --out cnn7.onnx
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models.cnn5 import CNN5  # noqa: E402
from models.cnn7 import CNN7  # noqa: E402
from models.digits_cnn import DigitsCNN  # noqa: E402
from models.resnext import ResNeXt  # noqa: E402
from models.small_cnn import SmallCNN  # noqa: E402
from models.wide_resnet8 import WideResNet8  # noqa: E402
from pipeline import data  # noqa: E402

ARCHITECTURES = {"cnn5": CNN5, "cnn7": CNN7, "wide_resnet8": WideResNet8, "resnext": ResNeXt, "small_cnn": SmallCNN}
WIDTH = {"cnn5": "width", "cnn7": "width", "wide_resnet8": "widen", "resnext": "width", "small_cnn": "width"}


def train_digits(epochs: int = 30, seed: int = 0) -> tuple[nn.Module, float]:
    """Cross-entropy and Adam, nothing else; the network and its accuracy on the test part."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # the order of sums, and with it the file, must not depend on the machine's cores
    train, test = data.load("digits", part="train"), data.load("digits", part="test")
    x, y = torch.from_numpy(train.images), torch.from_numpy(train.labels)
    model = DigitsCNN()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        correct = model(torch.from_numpy(test.images)).argmax(1) == torch.from_numpy(test.labels)
    return model, correct.double().mean().item()


def export(model: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """One self-contained file with a free batch, opset 17, BatchNorm kept as nodes."""
    torch.onnx.export(
        model.eval(),
        (torch.zeros(1, *shape),),
        str(path),
        opset_version=17,
        dynamo=False,
        do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architecture", nargs="?", choices=ARCHITECTURES)
    parser.add_argument("--input", default="3,32,32", help="channels,height,width")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--width", type=int, help="the architecture's width (widening, for wide_resnet8)")
    parser.add_argument("--no-bn", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.architecture is None:
        model, accuracy = train_digits()
        export(model, (1, 8, 8), ROOT / "models" / "digits.onnx")
        shutil.copyfile(ROOT / "models" / "digits.onnx", ROOT / "pipeline" / "data" / "digits.onnx")
        print(f"models/digits.onnx: {100 * accuracy:.1f} % of the test part")
        return
    torch.manual_seed(given.seed)
    shape = tuple(int(d) for d in given.input.split(","))
    width = {} if given.width is None else {WIDTH[given.architecture]: given.width}
    model = ARCHITECTURES[given.architecture](shape, given.classes, bn=not given.no_bn, **width)
    export(model, shape, given.out or ROOT / "models" / f"{given.architecture}.onnx")


if __name__ == "__main__":
    main()
