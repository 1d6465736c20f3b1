"""``pipeline init``: the text of a job that certifies a model, and of the settings that it reads."""

from __future__ import annotations

import json
import re
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.errors import UsageError
from pipeline.gates import check_gates, parse_gate
from pipeline.settings import TOML, settle

PLACES = {
    "github": Path(".github/workflows/robustness.yml"),
    "gitlab": Path(".gitlab-ci.yml"),
    "slurm": Path("robustness.sbatch"),
    "kubernetes": Path("robustness.yml"),
}
TEMPLATES = {"github": "github.yml", "gitlab": "gitlab.yml", "slurm": "slurm.sh", "kubernetes": "kubernetes.yml"}
ALWAYS_SHARED = ("slurm", "kubernetes")
"""Where a job is many machines': its samples are shared out."""
SHARDS, MOST_SHARDS = 4, 256
"""Shares unless said otherwise, and what GitHub starts at most."""
SETTINGS = Path(TOML)
# What YAML, a shell's double quotes and both servers' expressions leave as it is.
PLAIN = re.compile(r"[\w@%+=:,./ \-\[\]<>~#&;()!*?']+")


def job(server: str, model: Path, install: str | None, shards: int | None = None) -> str:
    """The job's text, of several machines where ``shards`` says of how many.

    Raises UsageError for names that would have to be escaped, and where nothing says what to install.
    """
    if server == "kubernetes" and install is None:
        raise UsageError("a job of Kubernetes starts an image: say --install IMAGE, one that holds this program.")
    shared = shards is not None or server in ALWAYS_SHARED
    many, (stem, _, kind) = shards or SHARDS, TEMPLATES[server].partition(".")
    if not 1 <= many <= MOST_SHARDS:
        raise UsageError(f"--shards is a number of machines from 1 to {MOST_SHARDS}; received {many}.")
    return _template(
        f"{stem}-shards.{kind}" if shared and server not in ALWAYS_SHARED else f"{stem}.{kind}",
        MODEL=_plain(model.as_posix(), "MODEL"),
        INSTALL=_plain(install or came_from(), "--install"),
        SHARDS=str(many),
        NUMBERS=", ".join(map(str, range(1, many + 1))),
    )


def only_model() -> Path:
    """The one ONNX file of this folder and those in it. Raises UsageError where there is not exactly one."""
    found = sorted(
        path for pattern in ("*.onnx", "*/*.onnx") for path in Path().glob(pattern) if path.parts[0][0] != "."
    )
    if len(found) != 1:
        some = ", ".join(str(path) for path in found[:5]) or "none"
        raise UsageError(
            f"MODEL is the file to certify, where there is not exactly one .onnx file; found {some}. Name it."
        )
    return found[0]


def settled(model: Path) -> bool:
    """Whether settings are there already, in this folder or beside the model."""
    return SETTINGS.exists() or (model.parent / SETTINGS).exists()


def settings(data: str | None, eps: str, gates: tuple[str, ...]) -> str:
    """The text of pipeline.toml. Raises UsageError for data that nothing says, and for what certify would refuse."""
    if data is None:
        raise UsageError(f"--data is missing, and there is no {SETTINGS} that says it: `--data npz:test.npz`?")
    radii = settle(SETTINGS, {"data": data, "eps": eps}, {})[0].radii
    asked = [parse_gate(gate) for gate in gates]
    check_gates([gate for gate in asked if gate.label is None], eps=list(map(str, radii)), labels=(), attacked=True)
    gate_line = f"fail_under = {json.dumps(gates)}" if gates else '# fail_under = ["certified=0.30"]'
    return _template("pipeline.toml", DATA=_quoted(data), EPS=_quoted(eps), GATES=gate_line)


def _template(name: str, **values: str) -> str:
    text = (files("pipeline.commands") / "jobs" / name).read_text("utf-8")
    return re.sub(r"@([A-Z]+)@", lambda match: values[match[1]], text)


def _plain(text: str, what: str) -> str:
    """`text` where it cannot end a quotation or begin an expression. Raises UsageError."""
    if not PLAIN.fullmatch(text):
        raise UsageError(
            f"{what} is quoted in the job and must need no escape there; received {text[:80]!r}. Rename it."
        )
    return text


def _quoted(text: str) -> str:
    # A JSON string is a TOML string, but for one character.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def came_from() -> str:
    """What pip should install to get this program again (PEP 610): never a bare name, which may be a stranger's.

    Raises UsageError where this copy came from nowhere that a runner can reach.
    """
    try:
        told = json.loads(distribution("pipeline").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        told = {}
    url, vcs = str(told.get("url", "")), told.get("vcs_info", {})
    if vcs:
        return f"pipeline @ {vcs['vcs']}+{_without_secret(url)}@{vcs['commit_id']}"
    if url.startswith("https://"):
        return f"pipeline @ {_without_secret(url)}"
    folder = unquote(urlsplit(url).path) if url.startswith("file:") else ""
    remote, commit = (_git(folder, *words) for words in (("remote", "get-url", "origin"), ("rev-parse", "HEAD")))
    if remote.startswith("https://") and commit:
        return f"pipeline @ git+{_without_secret(remote)}@{commit}"
    raise UsageError(
        "the job must install this program, and this copy came from no address that a runner can reach: say "
        "--install 'pipeline @ git+https://HOST/OWNER/REPOSITORY@COMMIT', or the path of a wheel in your repository."
    )


def _git(folder: str, *words: str) -> str:
    if not folder:
        return ""
    try:
        done = subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _without_secret(url: str) -> str:
    """The address without a user or token, which has no place in a file that is committed."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
