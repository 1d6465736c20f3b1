"""Pack a checkout, missing wheels and a data set for a GPU machine without network (see README.md in this folder).

    python scripts/gpu/pack.py DATA_FOLDER [--set cifar10|mnist] [--limit-mib 63] [--tiny]

Writes ``.gpu/kit`` (this folder's ``go.py``, wheels, the tracked files of the checkout) and ``.gpu/one``, ``.gpu/two``: the
data set in two halves, so that each of two transfers, the kit included, stays below the limit.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MIB = 1 << 20
THERE = {"torch", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy", "scipy", "matplotlib", "pillow"}
THERE |= {"click", "filelock", "jaxtyping", "jinja2", "packaging", "rich"}
"""What such a machine usually has; all else that the project depends on travels."""
BENEATH = ("pydantic-core", "annotated-types", "typing-inspection", "beartype")
"""What that depends on, and what the tests need besides."""
PLATFORMS = ("2_28", "2_27", "2_17")


def size(*paths: Path) -> int:
    """Bytes of files and of folders' files."""
    return sum(f.stat().st_size for p in paths for f in ([p] if p.is_file() else p.rglob("*")) if f.is_file())


def wheels(into: Path, python: str) -> None:
    """The locked versions of what the project depends on, for Linux on x86-64, and the decoder of the images."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[^\w-]", line)[0] for line in listed} - THERE
    locked = (ROOT / "requirements.lock").read_text()
    pinned = [f"{w}=={m[1]}" for w in (*sorted(names), *BENEATH) if (m := re.search(rf"^{w}==([^ ;]+)", locked, re.M))]
    platforms = [word for p in PLATFORMS for word in ("--platform", f"manylinux_{p}_x86_64")]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--only-binary=:all:",
        "--python-version",
        python,
    ]
    more = ["--platform", "manylinux2014_x86_64", "--implementation", "cp", "-d", str(into)]
    subprocess.run([*command, *platforms, *more, *pinned, "pillow-jxl-plugin"], check=True)


def code(into: Path) -> None:
    """The tracked files of the checkout as they lie there."""
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split(
        "\n"
    )
    for name in filter(None, listed):
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, into / name)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=ROOT).stdout
    (into / "COMMIT").write_text(commit)


def cifar(data: Path, one: Path, two: Path, room: int, tiny: bool) -> None:
    """Sheets of images, as many in the first half as there is room for."""
    source = data / "cifar10_jxl"
    index = json.loads((source / "index.json").read_text())
    if tiny:
        index["train"], index["test"] = index["train"][:2], index["test"][:1]
    for folder in (one, two):
        (folder / "index.json").write_text(json.dumps(index))
        shutil.copy(source / index["labels"], folder)
    for sheet in index["train"] + index["test"]:
        file = source / sheet["file"]
        shutil.copy(file, one if size(one) + file.stat().st_size <= room else two)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--set", default="cifar10", choices=["cifar10", "mnist"])
    parser.add_argument("--box", type=Path, default=ROOT / ".gpu")
    parser.add_argument("--python", default="3.12")
    parser.add_argument("--limit-mib", type=int, default=63)
    parser.add_argument("--besides-mib", type=float, default=4.0, help="what else a transfer carries")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal: a few sheets")
    given = parser.parse_args()
    shutil.rmtree(given.box, ignore_errors=True)
    kit, one, two = (given.box / name for name in ("kit", "one", "two"))
    for folder in (kit, one, two):
        folder.mkdir(parents=True)
    shutil.copy(HERE / "go.py", kit)
    shutil.copy(given.data / "decode.py", kit)
    wheels(kit / "wheels", given.python)
    code(kit / "code")
    room = int((given.limit_mib - given.besides_mib) * MIB) - size(kit)
    if given.set == "mnist":
        shutil.copy(given.data / "mnist.bin.xz", one)
    else:
        cifar(given.data, one, two, 5 * MIB if given.tiny else room, given.tiny)
    for half in (one, two):
        print(f"{half.name}: kit {size(kit) / MIB:.1f} + data {size(half) / MIB:.1f} MiB")
        if size(half) > room:
            raise SystemExit(f"{half} does not fit into {given.limit_mib} MiB")


if __name__ == "__main__":
    main()
