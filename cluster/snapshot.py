"""What code is about to run: commit, uncommitted changes, interpreter and packages. No torch."""

import hashlib
import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

_ROOMS = ("cluster", "launcher", "models")
PACKAGES = ("mulaunch", "torch", "deepspeed", "numpy", "mlflow-skinny", "fsspec", "pydantic")


def describe_environment(folder: Path) -> dict[str, object]:
    """Commit of our checkout (None for a wheel), digest of the sources, interpreter and package versions.

    `folder` holds our packages: the checkout, or a site-packages.
    """
    ours = _is_checkout(folder)
    return {
        "commit": (_git(folder, "rev-parse", "HEAD") if ours else _noted_commit(folder)).strip() or None,
        "dirty": ours and bool(_git(folder, "status", "--porcelain").strip()),
        "sources": digest_sources(folder),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: package_version(name) for name in PACKAGES},
    }


def read_diff(folder: Path) -> str:
    """Uncommitted changes to tracked files of our checkout, as a patch; empty for a wheel."""
    return _git(folder, "diff", "HEAD") if _is_checkout(folder) else ""


def digest_sources(folder: Path) -> str:
    """sha256 of our packages' Python files, their names included: what a wheel is known by."""
    return (
        f"sha256:{digest_files(folder, (path for room in _ROOMS for path in (folder / room).rglob('*.py')))}"
    )


def digest_files(folder: Path, paths: Iterable[Path]) -> str:
    """sha256 of files, their names in the folder included."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _noted_commit(folder: Path) -> str:
    """What whoever built an image has written of it."""
    note = folder / "launcher/COMMIT"
    return note.read_text() if note.is_file() else ""


def _is_checkout(folder: Path) -> bool:
    """Whether a repository is ours: a wheel may be installed inside of somebody else's."""
    top = _git(folder, "rev-parse", "--show-toplevel").strip()
    return bool(top) and Path(top).resolve() == folder.resolve()


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def package_version(name: str) -> str | None:
    """Of an installed distribution; None where there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
