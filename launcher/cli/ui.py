"""`launch ui`."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from launcher.track.mlflow_ui import make_ui_command
from launcher.track.tracking_uri import resolve_tracking_uri


def open_ui(arguments: Sequence[str]) -> int:
    """Become MLflow's server on the default store, until ctrl-C."""
    parser = argparse.ArgumentParser(prog="launch ui", description="Open MLflow's pages on a store.")
    parser.add_argument(
        "--store", metavar="URI", help="default: MLFLOW_TRACKING_URI, else mlflow.db in this folder"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000)
    options = parser.parse_args(arguments)
    environment = os.environ.get("MLFLOW_TRACKING_URI")
    uri = resolve_tracking_uri(options.store, environment, Path.cwd(), place="--store")
    command = make_ui_command(uri, host=options.host, port=options.port)
    print(f"MLflow: {command.url} (ctrl-C ends it)", flush=True)
    os.execve(command.argv[0], list(command.argv), {**os.environ, **command.environment})
