"""`launch --version`."""

import os
import sys
from pathlib import Path

from cluster.snapshot import describe_environment, package_version
from launcher import __version__


def version_line() -> str:
    """Version, commit or digest of the sources, torch, Python, and devices; imports no torch."""
    about = describe_environment(Path(__file__).parents[2])
    code = str(about["commit"] or about["sources"])[:19]
    dirty = " with changes" if about["dirty"] else ""
    gpus = len([name for name in os.listdir("/dev") if name.startswith("nvidia") and name[6:].isdigit()])
    device = f"{gpus} NVIDIA GPU(s)" if gpus else f"{os.cpu_count()} CPU(s), no GPU"
    python = sys.version.split()[0]
    torch = package_version("torch") or "none"
    return f"mulaunch {__version__} ({code}{dirty}), torch {torch}, Python {python}, {device}"
