"""What code is about to run: commit, uncommitted changes, interpreter and packages. No torch."""

import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path

PACKAGES = ("mulaunch", "torch", "deepspeed", "numpy", "mlflow-skinny", "fsspec", "pydantic")


def describe_environment(folder: Path) -> dict[str, object]:
    """Commit of the checkout that holds `folder` (None outside of git), interpreter and package versions."""
    return {
        "commit": _git(folder, "rev-parse", "HEAD").strip() or None,
        "dirty": bool(_git(folder, "status", "--porcelain").strip()),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def read_diff(folder: Path) -> str:
    """Uncommitted changes to tracked files, as a patch; empty outside of git."""
    return _git(folder, "diff", "HEAD")


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
