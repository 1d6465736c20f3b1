"""``python -m tests.fuzz.coverage TARGET [-max_total_time=N ...]``: files that reach new code are changed further.

Needs atheris (``pip install atheris``), which has wheels for Linux and some Pythons; `make fuzz` goes without it elsewhere.
Changes of a file's structure take turns with libFuzzer's changes of its bytes. Stops at the first finding, which it keeps.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["pipeline"]):
    from tests.fuzz.targets import TARGETS, execute


def main() -> None:
    name, *flags = sys.argv[1:]
    target = TARGETS[name]

    def mutated(data: bytes, most: int, seed: int) -> bytes:
        rng = Random(seed)
        if rng.random() < 0.5:
            return atheris.Mutate(data, most)
        try:
            return rng.choice(target.mutators)(data, rng)[:most]
        except Exception:  # no longer a file of that kind
            return atheris.Mutate(data, most)

    def run(data: bytes) -> None:
        execute(name, data)

    with tempfile.TemporaryDirectory() as corpus:
        for i, seed in enumerate(target.seeds()):
            (Path(corpus) / str(i)).write_bytes(seed)
        # Seeds may be longer than what libFuzzer would grow a file to by itself.
        longest = 2 * max(map(len, target.seeds()))
        atheris.Setup(
            [sys.argv[0], corpus, f"-max_len={longest}", "-rss_limit_mb=4096", "-timeout=120", *flags],
            run,
            custom_mutator=mutated,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
