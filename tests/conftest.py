"""Fixtures for all rooms, and the report of the heavier tests."""

import os
import platform
import subprocess
import time
from pathlib import Path

import pytest

pytest_plugins = ["tests.slurm_lab.lab"]

ROOT = Path(__file__).parents[1]
BEGAN = time.monotonic()

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores. Small tensors on more threads than cores wait for one another: a test of
    # 0.2 s took 16 s.
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def update_golden() -> bool:
    """Whether golden files are to be written again: UPDATE_GOLDEN=1."""
    return os.environ.get("UPDATE_GOLDEN") == "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--report", type=Path, help="write commit, counts and time of this run to a file")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    path: Path | None = config.getoption("--report")
    if path is None:
        return
    stats = terminalreporter.stats
    counts = [
        f"{len(stats[name])} {name}" for name in ("passed", "failed", "error", "skipped") if name in stats
    ]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    minutes = (time.monotonic() - BEGAN) / 60
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    title, target = {
        "slurm": ("Every ending on a real Slurm", "test-slurm"),
        "breaks": ("Wrong rules planted in one parameter at a time", "check-breaks"),
    }.get(config.option.markexpr, ("Heavier tests", "test-slow"))
    lines = [
        f"# {title}",
        "",
        f"Written by `make {target}`. Random numbers are seeded in each test.",
        "",
        f"Commit {commit}, `{config.option.markexpr}`: {', '.join(counts)}, {minutes:.1f} min on {machine}.",
        "",
    ]
    lines += [f"- {report.nodeid}" for name in ("failed", "error") for report in stats.get(name, [])]
    path.write_text("\n".join(lines))
