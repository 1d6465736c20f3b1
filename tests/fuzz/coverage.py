"""``python -m tests.fuzz.coverage TARGET [FILE ...] [-max_total_time=N ...]``: files that reach new code are changed further.

Needs atheris (the extra `[fuzz]`), which has wheels for Linux on x86-64. Flags are libFuzzer's. Changes of a file's structure
take turns with libFuzzer's changes of its bytes. What reached new code is kept in ``.fuzz/TARGET``, where the next run
goes on. Stops at the first finding, which it keeps in ``.fuzz``; named as FILE, it is read again.
"""

from __future__ import annotations

import hashlib
import sys
import warnings
from pathlib import Path
from random import Random

import atheris

# Ours, and what reads for us: libFuzzer sees nothing of compiled code.
with atheris.instrument_imports(include=["pipeline", "PIL", "tomllib", "zipfile"]):
    import torch
    from PIL import Image

    Image.init()  # loads the readers of pictures, each a module
    from tests.fuzz.targets import TARGETS, execute

KEPT = Path(".fuzz")
FLAGS = (f"-artifact_prefix={KEPT}/", "-rss_limit_mb=8192", "-timeout=120")
LONGEST = 1 << 13
"""Bytes of a file, where no seed is longer."""


def main() -> None:
    name, *given = sys.argv[1:]
    target, corpus = TARGETS[name], KEPT / name
    seeds = target.seeds()

    def mutated(data: bytes, most: int, seed: int) -> bytes:
        rng = Random(seed)
        change = rng.choice((None, *target.mutators))
        if change is not None:
            try:
                return change(data, rng)[:most]
            except Exception:  # no longer a file of that kind
                pass
        return atheris.Mutate(data, most)

    def run(data: bytes) -> None:
        execute(name, data)

    corpus.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        (corpus / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    files = [] if any(not flag.startswith("-") for flag in given) else [str(corpus)]
    longest = max(LONGEST, *(2 * len(seed) for seed in seeds))
    atheris.Setup([sys.argv[0], *files, f"-max_len={longest}", *FLAGS, *given], run, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
