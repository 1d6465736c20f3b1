"""Train, certify and measure on a GPU machine, in stages that each fit into one command (see README.md in this folder).

    python3 .gpu/kit/go.py start              install, keep code and the first half of the data, start the probe
    python3 .gpu/kit/go.py train SECONDS      the other half; decode; choose by the probe what fits; train, certify; wait
    python3 /tmp/gpu/go.py wait SECONDS       wait on
    python3 /tmp/gpu/go.py ladder JOB SECONDS certify a job's file by every rung, for so long
    python3 /tmp/gpu/go.py pack JOB           its report, all logs and the ONNX file, in parts, into $OUT
    python3 .gpu/kit/go.py unpack FOLDER JOB  on the ordinary machine: the ONNX file again, to the byte

One file, without imports of the project where it starts, since it is what travels.

Environment: GPU_JOBS="shi2021 fast:alpha=0.6" (recipes, with options of retrain behind a colon), GPU_TABLE, GPU_SEED,
GPU_PRECISION, GPU_STEP (milliseconds of a compiled step in that precision, where they are known: nothing is measured then),
GPU_ROOM (seconds that trainings may take), GPU_TESTS (seconds after which the GPU tests begin), GPU_TINY=1 (a rehearsal
on a CPU).
"""

from __future__ import annotations

import concurrent.futures as cf
import hashlib
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

HOME = Path(os.environ.get("GPU_HOME", "/tmp/gpu"))
KIT = Path(__file__).resolve().parent
SITE, CODE, DATA, LOGS = HOME / "site", HOME / "code", HOME / "data", HOME / "logs"
TINY = bool(os.environ.get("GPU_TINY"))
TABLE = os.environ.get("GPU_TABLE", "cifar10")
CIFAR = ("--mean", "0.4914,0.4822,0.4465", "--std", "0.2470,0.2435,0.2616")
SETTINGS = {  # eps, network, further options, steps of shi2021 and of fast
    "cifar10": ("8/255", ("cnn7", "--input", "3,32,32"), CIFAR, 62_400, 31_200),
    "cifar10-2-cnn5": ("2/255", ("cnn5", "--input", "3,32,32"), CIFAR, 62_400, 31_200),
    "cifar10-2": ("2/255", ("cnn7", "--input", "3,32,32"), CIFAR, 62_400, 31_200),
    "mnist-0.4": ("0.4", ("cnn7", "--input", "1,28,28"), (), 16_380, 16_380),
}
EPOCHS = 70 if TABLE.startswith("mnist") else 160
FAST = 2 * 1.57
"""A step of `fast` in steps of `shi2021`: twice the batch, and an attack."""
CERTIFY = 60
"""Seconds that the delivered file takes to certify."""
ENV = os.environ | {
    "PYTHONPATH": f"{SITE}:{CODE}",
    "PYTHONUNBUFFERED": "1",
    "MPLCONFIGDIR": str(HOME / "mpl"),
    "TORCHINDUCTOR_CACHE_DIR": str(HOME / "inductor"),
    "TRITON_CACHE_DIR": str(HOME / "triton"),
    "ORT_DISABLE_TELEMETRY": "1",
}


def say(*words: object) -> None:
    began = float((HOME / "began").read_text()) if (HOME / "began").exists() else time.time()
    print(f"[{time.time() - began:6.1f} s]", *words, flush=True)


def daemon(name: str, command: list[object], after: float = 0) -> None:
    """A process that outlives this command; its exit status lies in ``logs/NAME.rc``."""
    with open(LOGS / f"{name}.log", "w") as log:
        script = 'echo $$ > "$0.pid"; sleep "$1"; shift; "$@"; echo $? > "$0.rc"'
        words = ["sh", "-c", script, str(LOGS / name), str(after), *map(str, command)]
        subprocess.Popen(
            words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=CODE, env=ENV, start_new_session=True
        )


def status(name: str) -> str | None:
    path = LOGS / f"{name}.rc"
    return path.read_text().strip() if path.exists() else None


def start() -> None:
    HOME.mkdir(exist_ok=True)
    (HOME / "began").write_text(str(time.time()))
    for folder in (LOGS, DATA):
        folder.mkdir(exist_ok=True)
    shutil.copytree(KIT / "code", CODE, dirs_exist_ok=True)
    for name in ("go.py", "decode.py"):
        shutil.copy(KIT / name, HOME)
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-index",
        "--no-deps",
        "--no-compile",
        "--no-cache-dir",
        "--upgrade",
    ]
    subprocess.run([*install, "--target", str(SITE), *map(str, (KIT / "wheels").glob("*.whl"))], check=True)
    # What is missing is said now, and not by the training.
    subprocess.run([sys.executable, "-c", "import pipeline.commands.retraining, pipeline.results"], check=True, env=ENV)
    say("installed")
    if "GPU_STEP" not in os.environ:
        daemon("probe", [sys.executable, HOME / "go.py", "probe"])
    keep("one")
    width = ("--width", "4") if TINY else ()
    _, net, *_ = SETTINGS[TABLE]
    export = [
        sys.executable,
        CODE / "scripts" / "export_models.py",
        *net,
        *width,
        "--no-bn",
        "--out",
        HOME / "start.onnx",
    ]
    daemon("export", export)
    if complete():
        daemon("decode", [sys.executable, HOME / "go.py", "decode"])
    say("data kept, probe started", (CODE / "COMMIT").read_text().strip())
    subprocess.run("nvidia-smi --query-gpu=name,driver_version,memory.used --format=csv,noheader; nproc", shell=True)
    waiting_for_probe(float(os.environ.get("GPU_FIRST", "0")))


def keep(half: str) -> None:
    folder = KIT.parent / half
    for file in folder.iterdir() if folder.exists() else ():
        shutil.copy(file, DATA)


def complete() -> bool:
    if (DATA / "mnist.bin.xz").exists():
        return True
    index = json.loads((DATA / "index.json").read_text())
    return all((DATA / sheet["file"]).exists() for sheet in index["train"] + index["test"])


def sheet(name: str):
    sys.path[:0] = [str(SITE), str(HOME)]
    import decode

    return decode.untile(decode._jxl((DATA / name).read_bytes())[1], 32, 2500)


def decoded() -> None:
    sys.path[:0] = [str(SITE), str(HOME)]
    import numpy as np

    if (DATA / "mnist.bin.xz").exists():
        import decode

        found = decode.load_xz("mnist.bin.xz", here=str(DATA))
    else:
        index = json.loads((DATA / "index.json").read_text())
        labels, found = np.load(DATA / index["labels"]), {}
        with cf.ProcessPoolExecutor(os.cpu_count()) as pool:
            for split in ("train", "test"):
                found["x_" + split] = np.concatenate(list(pool.map(sheet, [s["file"] for s in index[split]])))
                found["y_" + split] = labels["y_" + split][: len(found["x_" + split])]
    np.savez(HOME / "data.npz", **found)
    print({k: (v.shape, hashlib.sha256(v.tobytes()).hexdigest()[:16]) for k, v in found.items()}, flush=True)


def probe() -> None:
    """Milliseconds a step on the ramp, batch 128: eager, compiled with TF32, compiled with bfloat16."""
    sys.path[:0] = [str(SITE), str(CODE), str(CODE / "scripts")]
    import bench_train as bench

    found, ready = {}, HOME / "probe.json"
    batch, steps = (8, 1) if TINY else (128, 100)
    for told in bench.quickly(batch, steps, compiled=not TINY):
        found |= {told["name"]: told} if "name" in told else told
        ready.write_text(json.dumps(found))
        print(told, flush=True)
    (HOME / "probed").write_text("")


def tests() -> None:
    """Those that need a GPU."""
    command = [
        "nice",
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-q",
        "-ra",
        "--durations=8",
        "-p",
        "no:cacheprovider",
    ]
    some = ["-n", "1", "tests/data"] if TINY else ["-n", "6", "tests"]
    subprocess.run([*command, *some], cwd=CODE, env=ENV | {"OMP_NUM_THREADS": "1"})


def name_of(job: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in job)


def command_of(job: str, way: Way, budget: float, epochs: int | None) -> list[object]:
    eps, _, more, *_ = SETTINGS[TABLE]
    recipe, _, changed = job.partition(":")
    pairs = [pair.split("=") for pair in changed.split(",") if pair]
    flags = [word for key, value in pairs for word in (f"--{key}", value)]
    out, data = HOME / f"{name_of(job)}.onnx", f"npz:{HOME / 'data.npz'}"
    given = ["--out", out, "--data", data, "--eps", eps, "--recipe", recipe, "--held-out", "0", "--method", "crown-ibp"]
    given += [
        "--seed",
        os.environ.get("GPU_SEED", "0"),
        "--device",
        "cpu" if TINY else "cuda",
        "--precision",
        way.precision,
    ]
    given += [
        "--compile" if way.compiled else "--no-compile",
        "--time-budget",
        f"{int(budget)}s",
        "--before-samples",
        "100",
    ]
    tiny = (
        ("--epochs", "3", "--warmup-length", "1", "--max-samples", "40")
        if TINY
        else ("--epochs", epochs)
        if epochs
        else ()
    )
    return [sys.executable, "-m", "pipeline", "retrain", HOME / "start.onnx", *given, *more, *tiny, *flags]


def steps_of(job: str) -> float:
    """Of a whole run, in steps of `shi2021`."""
    *_, ours, others = SETTINGS[TABLE]
    return others * FAST if job.startswith("fast") else ours


@dataclass(frozen=True)
class Way:
    """How a step is computed, and what it takes."""

    precision: str
    compiled: bool
    step: float
    ready: float
    """Seconds until the first step."""


def ways_of(found: dict) -> list[Way]:
    """What the probe measured, the safest first. Raises SystemExit where compiled steps failed: that is mended first."""
    kinds = (("compiled", "tf32", True), ("compiled bf16", "bf16", True), ("eager", "tf32", False))
    measured = [(n, p, c, found[n]) for n, p, c in kinds if "ms" in found.get(n, {})]
    ways = [Way(p, c, told["ms"] / 1000, 2 * told["ready_s"] if c else 5.0) for n, p, c, told in measured]
    if only := os.environ.get("GPU_PRECISION"):
        ways = [way for way in ways if way.precision == only]
    if not any(way.compiled for way in ways) and not TINY:
        raise SystemExit(f"no compiled step could be measured: {json.dumps(found, indent=1)}")
    return ways


def plan(jobs: list[str], ways: list[Way], room: float) -> tuple[list[tuple[str, Way]], int | None]:
    """As many jobs as fit, each as safely as fits, the first before the others; else the first with fewer epochs."""

    def takes(chosen: list[tuple[str, Way]]) -> float:
        return sum(way.step * steps_of(job) for job, way in chosen) + max(way.ready for _, way in chosen)

    for count in range(len(jobs), 0, -1):
        for safe in range(count, -1, -1):
            chosen = [(job, ways[0] if i < safe else ways[min(1, len(ways) - 1)]) for i, job in enumerate(jobs[:count])]
            if takes(chosen) < room:
                return chosen, None
    way = min(ways, key=lambda way: way.step)
    return [(jobs[0], way)], int(EPOCHS * (room - way.ready) / (way.step * steps_of(jobs[0])))


def waiting_for_probe(seconds: float) -> dict:
    end = time.time() + seconds
    while not (HOME / "probed").exists() and status("probe") is None and time.time() < end:
        time.sleep(0.5)
    found = json.loads((HOME / "probe.json").read_text()) if (HOME / "probe.json").exists() else {}
    say("probe", json.dumps(found, indent=1))
    return found


def train(seconds: str) -> None:
    end = time.time() + float(seconds)
    keep("two")
    if status("decode") is None:
        subprocess.run([sys.executable, str(HOME / "go.py"), "decode"], check=True, env=ENV)
    say("decoded")
    if "GPU_STEP" in os.environ:
        precision = os.environ["GPU_PRECISION"]
        told = {"ms": float(os.environ["GPU_STEP"]), "ready_s": 30.0}
        found = {"compiled" if precision == "tf32" else f"compiled {precision}": told}
    else:
        found = waiting_for_probe(float(seconds) / 3)
    room = float(os.environ.get("GPU_ROOM", "480")) - CERTIFY
    chosen, epochs = plan(os.environ.get("GPU_JOBS", "shi2021 fast").split(), ways_of(found), room)
    if TINY:
        chosen, epochs = [(job, Way("fp32", False, 1.0, 0.0)) for job, _ in chosen], None
    say(f"room {room:.0f} s: epochs {epochs or 'all'}", *chosen)
    (HOME / "jobs.json").write_text(json.dumps([job for job, _ in chosen]))
    after = 0.0
    for job, way in chosen:
        command = command_of(job, way, room - after, epochs)
        (LOGS / f"{name_of(job)}.command").write_text(" ".join(map(str, command)))
        daemon(name_of(job), command, after)
        say("started", job, f"after {after:.0f} s")
        # The next one imports and compiles while this one ends: each has the GPU to itself for most of its time.
        after += 0 if TINY else max(0.0, steps_of(job) * way.step - 20)
    daemon("tests", [sys.executable, HOME / "go.py", "tests"], float(os.environ.get("GPU_TESTS", after)))
    waiting(end)


def waiting(end: float) -> None:
    jobs, told = [name_of(j) for j in json.loads((HOME / "jobs.json").read_text())], 0.0
    while any(status(j) is None for j in jobs) and time.time() < end:
        time.sleep(1)
        if time.time() - told > 30:
            told = time.time()
            for j in jobs:
                say(j, status(j), *(LOGS / f"{j}.log").read_text()[-400:].replace("\r", "\n").strip().splitlines()[-2:])
    for j in [*jobs, "probe", "tests"]:
        text = (LOGS / f"{j}.log").read_text().replace("\r", "\n") if (LOGS / f"{j}.log").exists() else ""
        say(j, "exit", status(j), "\n" + "\n".join(text.strip().splitlines()[-14:])[-2500:])
        results(j)


def results(job: str) -> None:
    for path in HOME.glob(f"{job}*.report/report.json"):
        told = json.loads(path.read_text())
        level, timings = told["result"]["levels"][-1], told["run"]["timings"]
        counts = {k: level[k]["k"] for k in ("natural", "attacked", "certified") if k in level}
        rungs = [(r["name"], r["certified"]) for r in level["rungs"]]
        some = {
            k: round(v, 2)
            for k, v in timings.items()
            if k.removeprefix("epoch ") in (k, "1", "2", "3", "40", "100", "160")
        }
        say("RESULT", path.parent.name, counts, "of", level["natural"]["n"], rungs, some)


def ladder(job: str, seconds: str) -> None:
    """Every rung on a job's delivered file, until time is up."""
    eps, _, more, *_ = SETTINGS[TABLE]
    name = name_of(job)
    out = HOME / f"{name}.ladder.report"
    data = f"npz:{HOME / 'data.npz'}"
    command = [sys.executable, "-m", "pipeline", "certify", HOME / f"{name}.onnx", "--data", data, "--eps", eps]
    command += ["--device", "cpu" if TINY else "cuda", "--time-budget", f"{seconds}s", "--report", out, *more]
    done = subprocess.run(list(map(str, command)), env=ENV, cwd=CODE, capture_output=True, text=True)
    say("ladder", job, "exit", done.returncode, done.stdout[-3000:], done.stderr[-1000:])


def pack(job: str) -> None:
    out, name = Path(os.environ["OUT"]), name_of(job)
    with tarfile.open(out / f"{name}.tar.xz", "w:xz", preset=1) as tar:
        for path in [LOGS, *HOME.glob("probe.json"), *HOME.glob(f"{name}*.report")]:
            tar.add(path, path.name)
    model = HOME / f"{name}.onnx"
    if not model.exists():
        return say("no model yet")
    data = model.read_bytes()
    # The bytes of floats by place: of the four, two or three are noise, and the others compress.
    with cf.ThreadPoolExecutor(4) as pool:
        planes = list(pool.map(lambda k: lzma.compress(data[k::4], preset=0), range(4)))
    head = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "planes": list(map(len, planes))}
    blob = json.dumps(head).encode() + b"\n" + b"".join(planes)
    part = 16 * 2**20 - 4096
    for i in range(0, len(blob), part):
        (out / f"{name}.onnx.p{i // part}").write_bytes(blob[i : i + part])
    say(job, "model", len(data), "packed", len(blob), "in", -(-len(blob) // part), "parts")


def unpack(folder: str, job: str) -> None:
    parts = sorted(Path(folder).glob(f"{name_of(job)}.onnx.p*"))
    head, _, rest = b"".join(p.read_bytes() for p in parts).partition(b"\n")
    told, at = json.loads(head), 0
    data = bytearray(told["size"])
    for k, n in enumerate(told["planes"]):
        data[k::4] = lzma.decompress(rest[at : at + n])
        at += n
    if hashlib.sha256(data).hexdigest() != told["sha256"]:
        raise SystemExit("the file is not the one that was packed")
    Path(f"{name_of(job)}.onnx").write_bytes(data)
    print(f"{name_of(job)}.onnx", told["sha256"])


if __name__ == "__main__":
    stage, *rest = sys.argv[1:]
    stages = {
        "start": start,
        "train": train,
        "decode": decoded,
        "probe": probe,
        "tests": tests,
        "ladder": ladder,
        "pack": pack,
        "unpack": unpack,
    }
    (stages | {"wait": lambda seconds: waiting(time.time() + float(seconds))})[stage](*rest)
