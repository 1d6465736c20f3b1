"""Whatever happens to a run, its end is a documented exit code, nothing half written is taken for whole, and work is kept."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.results import read

if os.name != "posix":
    pytest.skip("signals and limits of processes", allow_module_level=True)

from tests.cli.nursery import Nursery
from tests.onnx.files import digests

ROOT = Path(__file__).resolve().parents[2]
RETRAIN = [
    "retrain",
    "model.onnx",
    "--data",
    "digits",
    "--eps",
    "0.05",
    "--epochs",
    "2",
    "--no-attack",
    "--max-samples",
    "40",
]
CERTIFY = [
    "certify",
    "model.onnx",
    "--data",
    "digits",
    "--eps",
    "1/20",
    "--max-samples",
    "60",
    "--method",
    "crown-ibp",
]
COMMANDS = {"retrain": (RETRAIN, "model.certified.report"), "certify": (CERTIFY, "model.report")}
KILLS = [pytest.param(3, id="3 kills"), pytest.param(100, id="100 kills", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def undisturbed(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str | None, float]]:
    """Of each command: the digest of its result, that of the file it writes, and the seconds it takes."""
    found = {}
    for name, (argv, report) in COMMANDS.items():
        folder = model_in(tmp_path_factory.mktemp(name))
        began = time.monotonic()
        ended = nursery.run(folder, *argv)
        assert ended.code == 0, ended.err
        found[name] = (*outcome(folder, report), time.monotonic() - began)
    return found


def model_in(folder: Path) -> Path:
    shutil.copyfile(ROOT / "models" / "digits.onnx", folder / "model.onnx")
    return folder


def outcome(folder: Path, report: str) -> tuple[str, str | None]:
    written = folder / "model.certified.onnx"
    return read(folder / report).result_sha256, digests(written).sha256 if written.exists() else None


@pytest.mark.parametrize("kills", KILLS)
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_any_moment_a_run_goes_on_to_the_same_result(
    name: str, kills: int, nursery: Nursery, undisturbed: dict[str, tuple[str, str | None, float]], tmp_path: Path
) -> None:
    """At first soon, then at random moments of what an undisturbed run takes; after one that finished first all starts anew."""
    (argv, report), (digest, written, seconds) = COMMANDS[name], undisturbed[name]
    moments, folder, finished, ends = random.Random(kills), None, 0, set()
    for number in range(kills):
        if folder is None:
            folder = model_in(make(tmp_path / f"run{number}"))
        ended = nursery.run(folder, *argv, kill_after=moments.uniform(0, seconds) if number else 0.1)
        ends.add(ended.code)
        assert ended.code in (-9, 0), ended.err
        if (folder / "model.certified.onnx").exists():
            assert digests(folder / "model.certified.onnx").sha256 == written
        if (folder / report / "report.json").exists():
            assert read(folder / report).result_sha256 == digest
        if ended.code == 0:
            assert outcome(folder, report) == (digest, written)
            folder, finished = None, finished + 1
    assert -9 in ends
    if folder is not None:
        last = nursery.run(folder, *argv)
        assert last.code == 0, last.err
        assert outcome(folder, report) == (digest, written)
    print(f"{kills} kills of {name}, {finished} runs finished meanwhile")


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_said_and_what_was_there_stays(name: str, nursery: Nursery, undisturbed, tmp_path: Path) -> None:
    """No file may grow beyond a size, from one that nothing fits into to one that is almost enough."""
    argv, report = COMMANDS[name]
    folder = model_in(tmp_path)
    for size in (100, 20_000):
        ended = nursery.run(folder, *argv, FSIZE=size)
        assert ended.code == 74, ended.err
        assert "File too large" in ended.err
        assert "Traceback" not in ended.err
        assert not (folder / report / "report.json").exists()
        assert not list(folder.glob(f"{report}/.*")), "no part of a file is left"
        if (folder / "model.certified.onnx").exists():
            assert digests(folder / "model.certified.onnx").sha256 == undisturbed[name][1]
    assert nursery.run(folder, *argv).code == 0
    assert outcome(folder, report) == undisturbed[name][:2]
    before = (folder / report / "report.json").read_bytes()
    assert nursery.run(folder, *argv, *(["--force"] if name == "retrain" else []), FSIZE=3_000).code == 74
    assert (folder / report / "report.json").read_bytes() == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 3 MB."""
    place = make(tmp_path / "disk")
    if (
        shutil.which("mount") is None
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)], capture_output=True
        ).returncode
    ):
        pytest.skip("file systems cannot be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_without_room_or_without_leave_to_write(
    name: str, nursery: Nursery, undisturbed, small_disk: Path
) -> None:
    argv, report = COMMANDS[name]
    model_in(small_disk)
    stuffing = small_disk / "stuffing"
    stuffing.write_bytes(bytes(max(0, os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize - 40_000)))
    ended = nursery.run(small_disk, *argv)
    assert ended.code == 74, ended.err
    assert "No space left" in ended.err
    stuffing.unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    try:
        read_only = nursery.run(small_disk, *argv)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert read_only.code == 74, read_only.err
    assert "Read-only" in read_only.err
    assert nursery.run(small_disk, *argv).code == 0
    assert outcome(small_disk, report) == undisturbed[name][:2]


@pytest.mark.slow  # by chance of where memory ends, compiled code of others ends the process in a way of its own
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="the size of a process is read there")
@pytest.mark.parametrize("name", COMMANDS)
def test_too_little_memory_is_said(name: str, nursery: Nursery, undisturbed, tmp_path: Path) -> None:
    """With next to none, with enough to begin, with about enough. Compiled code of others may crash where it is refused some."""
    (argv, report), ends = COMMANDS[name], set()
    folder = model_in(tmp_path)
    for room in (2**22, 2**24, 2**26):
        ended = nursery.run(folder, *argv, AS=nursery.bytes + room)
        ends.add(ended.code)
        if ended.code == 74:
            assert "memory" in ended.err
        assert (folder / report / "report.json").exists() == (ended.code == 0)
    # 127: the dynamic loader, which was refused memory for a symbol that it looks up late.
    assert 74 in ends <= {74, -signal.SIGSEGV, 127, 0}
    assert nursery.run(folder, *argv).code == 0
    assert outcome(folder, report) == undisturbed[name][:2]


@pytest.mark.parametrize("name", COMMANDS)
def test_two_runs_in_one_place(name: str, nursery: Nursery, pipeline, here: Path) -> None:
    """The second is refused at once and disturbs nothing."""
    argv = (*COMMANDS[name][0], *(("--epochs", "5000") if name == "retrain" else ("--restarts", "5000")))
    first = nursery.start(here, *argv)
    place = here / ("model.certified.onnx.run" if name == "retrain" else "model.report.run")
    while not (place / "key").exists():
        time.sleep(0.01)
    code, _, err = pipeline(*argv)
    assert code == 2
    assert "another process is working on" in err
    os.kill(first, signal.SIGTERM)
    ended = nursery.end()
    assert ended.code == 75, ended.err
    assert (place / "key").exists()
    assert not (place / "lock").exists()


def test_a_clock_that_jumps_changes_no_result(nursery: Nursery, undisturbed, pipeline, here: Path, monkeypatch) -> None:
    """The time of day goes back an hour, then on by a year, at every look at it."""
    looks = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: 1.7e9 + (3.2e7 if next(looks) % 2 else -3.6e3))
    assert pipeline(*CERTIFY, "--time-budget", "10m")[0] == 0
    assert outcome(here, "model.report") == undisturbed["certify"][:2]


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_others(here: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "pipeline"]
    argv = [*CERTIFY[:4], "--eps", "1/255", "--restarts", "200"]
    process = subprocess.Popen([*launch, *argv], stderr=subprocess.PIPE, text=True)
    while not (here / "model.report.run" / "key").exists() and process.poll() is None:
        time.sleep(0.05)
    victim = next(
        int(p) for p in workers(process.pid) if b"RANK=1" in Path(f"/proc/{p}/environ").read_bytes().split(b"\0")
    )
    os.kill(victim, signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert not (here / "model.report" / "report.json").exists()


def workers(parent: int) -> list[str]:
    return Path(f"/proc/{parent}/task/{parent}/children").read_text().split()


def test_what_is_said_of_an_end_is_the_last_runs(nursery: Nursery, tmp_path: Path) -> None:
    """A status from before never speaks for a run that was killed."""
    folder = model_in(tmp_path)
    assert nursery.run(folder, *CERTIFY).code == 0
    assert json.loads((folder / "model.report" / "status.json").read_text())["exit_code"] == 0
    assert nursery.run(folder, *CERTIFY, kill_after=0.3).code == -9
    assert not (folder / "model.report" / "status.json").exists()
