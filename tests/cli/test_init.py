"""``pipeline init`` and the composite action: what they write parses, and their very commands run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import numpy_helper

from pipeline.commands import job
from pipeline.data import load
from pipeline.results import read

ROOT = Path(__file__).resolve().parents[2]
INSTALL = ("--install", "pipeline @ git+https://example.org/a/b@c0ffee")
GATE = ("--eps", "1/255", "--fail-under", "certified=0.5")


@pytest.fixture
def repository(here):
    """A repository of a user: a model, 40 samples, and ``pipeline`` on the path as an installation would put it there."""
    digits = load("digits", part="test")
    np.savez(here / "test.npz", x=digits.images[:40], y=digits.labels[:40])
    programs = here / ".programs"
    programs.mkdir()
    (programs / "pipeline").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pipeline "$@"\n')
    (programs / "python").symlink_to(sys.executable)
    (programs / "pipeline").chmod(0o755)
    return here


def steps_of(written: str) -> list[str]:
    """The shell commands of a job, in order, without its installation."""
    told = yaml.safe_load(written)
    if "jobs" in told:
        steps = told["jobs"]["certify"]["steps"]
        commands = [step["run"] for step in steps if "run" in step]
    else:
        commands = [*told["certify"]["before_script"], *told["certify"]["script"], *told["certify"]["after_script"]]
    install, *others = commands
    assert install == 'python -m pip install --quiet "$PIPELINE"'
    return others


def variables_of(written: str) -> dict[str, str]:
    told = yaml.safe_load(written)
    return told["jobs"]["certify"]["env"] if "jobs" in told else told["certify"]["variables"]


def shell(folder: Path, commands: list[str], **environment: str) -> list[int]:
    """Run commands as a server would, the later ones also after a failure, and return their exit codes."""
    path = f"{folder / '.programs'}{os.pathsep}{os.environ['PATH']}"
    told = {**os.environ, "PATH": path, "GITHUB_STEP_SUMMARY": str(folder / "summary.md"), **environment}
    return [subprocess.run(["bash", "-eo", "pipefail", "-c", c], cwd=folder, env=told).returncode for c in commands]


def worse(path: Path) -> None:
    """A model that is no longer robust: every weight of its last layer a thousandth, with noise as large as they were."""
    model = onnx.load(path)
    last = [t for t in model.graph.initializer if len(t.dims) == 2][-1]
    values = numpy_helper.to_array(last)
    noise = np.random.default_rng(0).normal(0, values.std(), values.shape)
    last.CopyFrom(numpy_helper.from_array((values / 1000 + noise).astype(values.dtype), last.name))
    onnx.save(model, path)


@pytest.mark.slow
def test_the_jobs_commands_pass_then_fail_a_gate_then_find_nothing_to_check(pipeline, repository):
    code, _, err = pipeline("init", "github", "--data", "npz:test.npz", *GATE, *INSTALL)
    assert code == 0, err
    assert "wrote .github/workflows/robustness.yml" in err.replace("\\", "/")
    assert "wrote pipeline.toml" in err
    written = (repository / ".github/workflows/robustness.yml").read_text()
    commands, page = steps_of(written), repository / "summary.md"
    environment = {**variables_of(written), "MODEL": "model.onnx"}
    assert variables_of(written)["MODEL"] == "model.onnx"
    assert shell(repository, commands, **environment) == [0, 0]
    assert "All 1 gates passed" in page.read_text()
    assert (repository / "robustness" / "gates.xml").exists()

    worse(repository / "model.onnx")
    page.write_text("")
    assert shell(repository, commands[:1], **environment) == [1]
    assert "1 of 1 gates failed" in page.read_text()

    np.savez(repository / "test.npz", x=np.zeros((0, 8, 8), np.uint8), y=np.zeros(0, np.int64))
    page.write_text("")
    assert shell(repository, commands[:1], **environment) == [4]
    assert not (repository / "robustness" / "report.json").exists(), "nobody takes the one before for this run's"
    assert "exit code 4" in page.read_text()


def test_gitlab_gets_the_same(pipeline, repository):
    code, _, err = pipeline("init", "gitlab", "model.onnx", "--data", "npz:test.npz", *GATE, *INSTALL)
    assert code == 0, err
    written = (repository / ".gitlab-ci.yml").read_text()
    told = yaml.safe_load(written)["certify"]
    assert told["artifacts"]["reports"]["junit"] == "robustness/gates.xml"
    assert told["variables"]["PIPELINE"] == INSTALL[1]
    assert pipeline(*steps_of(written)[1].replace('"$MODEL"', "model.onnx").split()[1:])[0] == 0
    assert tomllib.loads((repository / "pipeline.toml").read_text()) == {
        "data": "npz:test.npz",
        "eps": "1/255",
        "fail_under": ["certified=0.5"],
    }


def test_nothing_is_overwritten(pipeline, repository):
    assert pipeline("init", "gitlab", "--data", "npz:test.npz", *INSTALL)[0] == 0
    (repository / "pipeline.toml").write_text('data = "digits"\n')
    (repository / ".gitlab-ci.yml").write_text("mine: {}\n")
    code, _, err = pipeline("init", "gitlab", *INSTALL)
    assert code == 2
    assert "--force" in err
    assert (repository / ".gitlab-ci.yml").read_text() == "mine: {}\n"
    code, out, _ = pipeline("init", "gitlab", "--out", "-", *INSTALL)
    assert code == 0
    code, _, err = pipeline("init", "gitlab", "--force", *INSTALL)
    assert code == 0
    assert (repository / ".gitlab-ci.yml").read_text() == out
    assert (repository / "pipeline.toml").read_text() == 'data = "digits"\n'
    assert "left pipeline.toml as it is" in err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("init", "github", *INSTALL), "--data"),
        (("init", "github", "--data", "digits", "--eps", "8", *INSTALL), "8/255"),
        (("init", "github", "--data", "digits", "--fail-under", "certified=30", *INSTALL), "0.3"),
        (("init", "github", "--data", "digits", "--fail-under", "certified@0.1=0.3", *INSTALL), "not run"),
        (("init", "github", 'a"; rm -rf "$HOME.onnx', "--data", "digits", *INSTALL), "Rename"),
        (("init", "github", "${{ secrets.A }}.onnx", "--data", "digits", *INSTALL), "Rename"),
        (("init", "github", "--install", "a\nb", "--data", "digits"), "--install"),
        (("init", "jenkins",), "github"),
    ],
)  # fmt: skip
def test_what_is_refused_writes_nothing(pipeline, here, argv, says):
    before = sorted(here.rglob("*"))
    code, _, err = pipeline(*argv)
    assert code == 2
    assert says in err
    assert sorted(here.rglob("*")) == before


def test_without_one_model_the_file_must_be_named(pipeline, here):
    (here / "other.onnx").write_bytes(b"")
    code, _, err = pipeline("init", "github", "--data", "digits", *INSTALL)
    assert code == 2
    assert "model.onnx, other.onnx" in err


def install_source(monkeypatch, told) -> str:
    class Here:
        def read_text(self, name):
            return None if told is None else json.dumps(told)

    monkeypatch.setattr(job.package, "found", Here)
    return job.install_source()


def test_the_job_installs_what_is_installed_here_and_never_a_bare_name(monkeypatch, tmp_path):
    told = {"url": "https://me:token@example.org/a/b.git", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}}
    assert install_source(monkeypatch, told) == "onnx-certify @ git+https://example.org/a/b.git@c0ffee"
    assert (
        install_source(monkeypatch, {"url": "https://example.org/p.whl"}) == "onnx-certify @ https://example.org/p.whl"
    )
    for nowhere in (None, {}, {"url": tmp_path.as_uri(), "dir_info": {"editable": True}}):
        with pytest.raises(Exception, match="--install"):
            install_source(monkeypatch, nowhere)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (
        ["init", "-q"],
        ["commit", "-q", "--allow-empty", "-m", "a"],
        ["remote", "add", "origin", told["url"]],
    ):
        subprocess.run([*git, *words], check=True)
    found = install_source(monkeypatch, {"url": tmp_path.as_uri(), "dir_info": {"editable": True}})
    assert found.startswith("onnx-certify @ git+https://example.org/a/b.git@")


def action():
    """The composite action, its step that certifies, and what this repository gives it."""
    told = yaml.safe_load((ROOT / ".github/actions/certify/action.yml").read_text())
    (certify,) = [step for step in told["runs"]["steps"] if step.get("id") == "certify"]
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    (ours,) = [s for s in workflow["jobs"]["certify"]["steps"] if s.get("uses") == "./.github/actions/certify"]
    return told, certify, ours


def test_the_action_is_whole_and_this_repository_uses_it():
    told, certify, ours = action()
    used = {"${{ inputs." + name + " }}" for name in told["inputs"]}
    given = [value for step in told["runs"]["steps"] for value in (step.get("env", {}) | step.get("with", {})).values()]
    assert used <= {*given}, "every input is used, and none within a script"
    assert "${{" not in certify["run"]
    assert set(ours["with"]) <= set(told["inputs"])


@pytest.mark.slow
def test_the_action_runs_its_command_and_states_the_exit_code(repository):
    told, certify, ours = action()
    inputs = {**{name: i.get("default", "") for name, i in told["inputs"].items()}, **ours["with"]}
    inputs |= {"model": "model.onnx", "args": "--method crown-ibp --no-attack"}
    environment = {k: inputs[v.removeprefix("${{ inputs.").removesuffix(" }}")] for k, v in certify["env"].items()}
    (repository / "robustness").mkdir()
    (repository / "robustness" / "status.json").write_text('{"exit_code": 1}')  # of another run
    output = repository / "output"
    assert shell(repository, [certify["run"]], GITHUB_OUTPUT=str(output), **environment) == [0]
    assert output.read_text() == "exit-code=0\n"
    assert {"gates.xml", "statement.json"} <= {path.name for path in (repository / "robustness").iterdir()}
    environment["DATA"] = "npz:absent.npz"
    assert shell(repository, [certify["run"]], GITHUB_OUTPUT=str(output), **environment) == [2]
    assert output.read_text().endswith("exit-code=2\n")


@pytest.mark.parametrize("server", ["github", "gitlab"])
def test_a_job_is_what_its_server_reads(pipeline, repository, server):
    """By the schemas that are published of both; our own workflows and action too."""
    files = {"github-workflows" if server == "github" else "gitlab-ci": [f"{server}1.yml", f"{server}4.yml"]}
    for path, shards in zip(*files.values(), ((), ("--shards", "4")), strict=True):
        argv = ("init", server, "model.onnx", "--data", "npz:test.npz", *INSTALL, *shards, "--out", path)
        assert pipeline(*argv)[0] == 0
    if server == "github":
        files["github-workflows"] += map(str, (ROOT / ".github" / "workflows").glob("*.yml"))
        files["github-actions"] = [str(ROOT / ".github" / "actions" / "certify" / "action.yml")]
    for schema, paths in files.items():
        check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *paths]
        done = subprocess.run(check, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def shards_of(server: str, written: str) -> tuple[int, str, list[dict[str, str]], str]:
    """Of a job over several machines: how many, the command of each, what each is told, and the command that merges."""
    if server == "slurm":
        (array,) = re.findall(r"^#SBATCH --array=1-(\d+)$", written, re.MULTILINE)
        (merge,) = re.findall(r"--wrap '(.*)'", written)
        return int(array), written, [{"SLURM_ARRAY_TASK_ID": str(i + 1)} for i in range(int(array))], merge
    told = yaml.safe_load(written)
    if server == "github":
        (run,) = [s for s in told["jobs"]["shard"]["steps"] if "--shard" in s.get("run", "")]
        numbers = told["jobs"]["shard"]["strategy"]["matrix"]["shard"]
        (merge,) = [s["run"] for s in told["jobs"]["certify"]["steps"] if "pipeline merge" in s.get("run", "")]
        assert told["jobs"]["certify"]["needs"] == "shard"
        assert run["env"]["SHARD"] == "${{ matrix.shard }}"
        return len(numbers), run["run"], [{"SHARD": str(i)} for i in numbers], merge
    if server == "gitlab":
        many, (command,) = told["shard"]["parallel"], told["shard"]["script"]
        merge = "\n".join(told["certify"]["script"])
        return many, command, [{"CI_NODE_INDEX": str(i + 1), "CI_NODE_TOTAL": str(many)} for i in range(many)], merge
    spec = told["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert (told["apiVersion"], told["kind"], spec["completionMode"]) == ("batch/v1", "Job", "Indexed")
    assert container["command"] == ["/bin/sh", "-euc"]
    assert container["volumeMounts"][0]["name"] == spec["template"]["spec"]["volumes"][0]["name"]
    (merge,) = re.findall(r"^# and then.*: (pipeline merge .*)$", written, re.MULTILINE)
    return spec["completions"], container["args"][0], [{"JOB_COMPLETION_INDEX": str(i)} for i in range(2)], merge


@pytest.mark.parametrize("server", ["github", "gitlab", "slurm", "kubernetes"])
def test_the_commands_of_a_job_over_two_machines_make_one_report(pipeline, repository, server):
    install = ("--install", "registry.example.org/pipeline:1")
    gate = ("--eps", "1/20", "--fail-under", "certified=0.5")
    argv = ("init", server, "model.onnx", "--data", "npz:test.npz", *gate, "--shards", "2", *install, "--out", "job")
    code, _, err = pipeline(*argv)
    assert code == 0, err
    with (repository / "pipeline.toml").open("a") as settings:
        settings.write('max_samples = 32\nmethod = "ibp"\nattack = false\n')
    many, command, machines, merge = shards_of(server, (repository / "job").read_text())
    assert many == len(machines) == 2
    # A shell expands the job's commands; what it would start runs here.
    (repository / ".programs" / "pipeline").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\" > argv\n")
    for shell_command, told, ends in (*((command, told, 0) for told in machines), (merge, {}, 1)):
        assert shell(repository, [shell_command], MODEL="model.onnx", **told) == [0]
        code, _, err = pipeline(*(repository / "argv").read_text().splitlines())
        assert code == ends, err
    result = read(repository / "robustness").result
    assert (result.data.n_evaluated, result.shard, [gate.passed for gate in result.gates]) == (32, None, [False])


def test_a_job_is_shared_out_among_so_many_and_kubernetes_needs_an_image(pipeline, here):
    for argv, says in (
        (("init", "github", "model.onnx", "--shards", "257", *INSTALL), "256"),
        (("init", "kubernetes", "model.onnx"), "--install IMAGE"),
    ):
        code, _, err = pipeline(*argv, "--data", "digits")
        assert code == 2
        assert says in err
