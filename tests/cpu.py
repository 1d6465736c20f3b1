"""``--cpu-durations``: the seconds of CPU that tests take, with those of the processes they start.

Wall time depends on what else the machine does; CPU time says what a test costs. Works under pytest-xdist as well: each worker
attaches the figures to its reports, and the controller adds them up.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

ROWS = 40


def add_option(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cpu-durations",
        type=int,
        nargs="?",
        const=ROWS,
        metavar="N",
        help=f"show CPU seconds, those of child processes included: of every file and of the N slowest tests [{ROWS}]",
    )


def register(config: pytest.Config) -> None:
    if config.getoption("cpu_durations") is not None:
        config.pluginmanager.register(CpuDurations(config), "cpu-durations")


def seconds() -> float:
    """CPU seconds of this process so far, and of its children that have ended and been waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class CpuDurations:
    """Charges to each phase of each test the CPU time since the phase before it ended; prints the sums at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.last = 0.0
        self.tests: Counter[str] = Counter()
        self.workers: list[float] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        self.last = seconds()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self):
        report = yield
        now = seconds()
        report.cpu_seconds, self.last = now - self.last, now  # pytest-xdist carries the attribute to the controller
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.tests[report.nodeid] += getattr(report, "cpu_seconds", 0.0)

    def pytest_sessionfinish(self) -> None:
        if hasattr(self.config, "workeroutput"):
            self.config.workeroutput["cpu_seconds"] = seconds()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node) -> None:
        self.workers.append(getattr(node, "workeroutput", {}).get("cpu_seconds", 0.0))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        # The workers are children of the controller, waited for or not by now: they state their own time.
        own = os.times()
        whole = own.user + own.system + sum(self.workers) if self.workers else seconds()
        files: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        for name, spent in self.tests.items():
            files[name.split("::")[0]] += spent
            counts[name.split("::")[0]] += 1
        inside = sum(files.values())
        terminalreporter.section("CPU seconds")
        terminalreporter.write_line(
            f"{whole:8.1f} in all: {inside:.1f} in {len(self.tests)} tests, {whole - inside:.1f} in starting and collecting"
        )
        for name, spent in files.most_common():
            terminalreporter.write_line(f"{spent:8.1f} {counts[name]:5d} {name}")
        terminalreporter.write_line("")
        for name, spent in self.tests.most_common(self.config.getoption("cpu_durations")):
            terminalreporter.write_line(f"{spent:8.2f} {name}")
