"""``pipeline init``: the text of a CI or batch job that certifies a model, and of its ``pipeline.toml``."""

from __future__ import annotations

import json
import re
import subprocess
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline import package
from pipeline.errors import UsageError
from pipeline.gates import check_gates, parse_gate
from pipeline.settings import TOML, settle

PATHS = {
    "github": Path(".github/workflows/robustness.yml"),
    "gitlab": Path(".gitlab-ci.yml"),
    "slurm": Path("robustness.sbatch"),
    "kubernetes": Path("robustness.yml"),
}
TEMPLATES = {"github": "github.yml", "gitlab": "gitlab.yml", "slurm": "slurm.sh", "kubernetes": "kubernetes.yml"}
ALWAYS_SHARDED = ("slurm", "kubernetes")
"""Schedulers whose jobs are always divided into shards."""
SHARDS, MOST_SHARDS = 4, 256
"""The default number of shards, and the most machines that GitHub starts for one job."""
SETTINGS = Path(TOML)
# Characters that need no escape in YAML, in a shell's double quotes, and in the servers' expressions.
PLAIN = re.compile(r"[\w@%+=:,./ \-\[\]<>~#&;()!*?']+")


def job(server: str, model: Path, install: str | None, shards: int | None = None) -> str:
    """The text of a job, divided into ``shards`` if given.

    Raises UsageError for names that would have to be escaped, and where it is unknown what to install.
    """
    if server == "kubernetes" and install is None:
        raise UsageError("a Kubernetes job needs an image that holds this program: name it with --install IMAGE.")
    sharded = shards is not None or server in ALWAYS_SHARDED
    many, (stem, _, kind) = shards or SHARDS, TEMPLATES[server].partition(".")
    if not 1 <= many <= MOST_SHARDS:
        raise UsageError(f"--shards is a number of machines from 1 to {MOST_SHARDS}; received {many}.")
    return _template(
        f"{stem}-shards.{kind}" if sharded and server not in ALWAYS_SHARDED else f"{stem}.{kind}",
        MODEL=_plain(model.as_posix(), "MODEL"),
        INSTALL=_plain(install or install_source(), "--install"),
        SHARDS=str(many),
        NUMBERS=", ".join(map(str, range(1, many + 1))),
    )


def only_model() -> Path:
    """The only ONNX file in this folder and its subfolders. Raises UsageError where there is not exactly one."""
    files_here = sorted(
        path for pattern in ("*.onnx", "*/*.onnx") for path in Path().glob(pattern) if path.parts[0][0] != "."
    )
    if len(files_here) != 1:
        some = ", ".join(str(path) for path in files_here[:5]) or "none"
        raise UsageError(
            f"MODEL may be left out only where there is exactly one .onnx file; found {some}. Name the file to certify."
        )
    return files_here[0]


def has_settings(model: Path) -> bool:
    """Whether there is a ``pipeline.toml``, in this folder or beside the model."""
    return SETTINGS.exists() or (model.parent / SETTINGS).exists()


def settings(data: str | None, eps: str, gates: tuple[str, ...]) -> str:
    """The text of pipeline.toml. Raises UsageError where data are missing, and for settings that certify would refuse."""
    if data is None:
        raise UsageError(f"--data is missing, and there is no {SETTINGS} that says it: `--data npz:test.npz`?")
    radii = settle(SETTINGS, {"data": data, "eps": eps}, {})[0].radii
    without_class = [gate for gate in map(parse_gate, gates) if gate.label is None]
    check_gates(without_class, eps=list(map(str, radii)), labels=(), attacked=True)
    gate_line = f"fail_under = {json.dumps(gates)}" if gates else '# fail_under = ["certified=0.30"]'
    return _template("pipeline.toml", DATA=_quoted(data), EPS=_quoted(eps), GATES=gate_line)


def _template(name: str, **values: str) -> str:
    text = (files("pipeline.commands") / "jobs" / name).read_text("utf-8")
    return re.sub(r"@([A-Z]+)@", lambda match: values[match[1]], text)


def _plain(text: str, what: str) -> str:
    """``text``, if it cannot end a quotation or begin an expression. Raises UsageError else."""
    if not PLAIN.fullmatch(text):
        raise UsageError(
            f"{what} is quoted in the job and must need no escape there; received {text[:80]!r}. Rename it."
        )
    return text


def _quoted(text: str) -> str:
    # A JSON string is a TOML string, except for one character.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def install_source() -> str:
    """What pip should install to get this program (PEP 610): never a bare name, which may belong to another project.

    Raises UsageError where this copy was not installed from an address that a runner can reach.
    """
    try:
        found = package.found()
        origin = json.loads((found.read_text("direct_url.json") if found else None) or "{}")
    except ValueError:
        origin = {}
    url, vcs = str(origin.get("url", "")), origin.get("vcs_info", {})
    if vcs:
        return f"{package.NAME} @ {vcs['vcs']}+{_without_secret(url)}@{vcs['commit_id']}"
    if url.startswith("https://"):
        return f"{package.NAME} @ {_without_secret(url)}"
    folder = unquote(urlsplit(url).path) if url.startswith("file:") else ""
    remote, commit = (_git(folder, *words) for words in (("remote", "get-url", "origin"), ("rev-parse", "HEAD")))
    if remote.startswith("https://") and commit:
        return f"{package.NAME} @ git+{_without_secret(remote)}@{commit}"
    raise UsageError(
        "the job must install this program, and this copy came from no address that a runner can reach: say "
        "--install 'pipeline @ git+https://HOST/OWNER/REPOSITORY@COMMIT', or the path of a wheel in your repository."
    )


def _git(folder: str, *words: str) -> str:
    if not folder:
        return ""
    try:
        result = subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def _without_secret(url: str) -> str:
    """The address without user or token, since the job is committed."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
