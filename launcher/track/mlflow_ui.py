"""The command that starts MLflow's web pages on a store. Does not import mlflow."""

import importlib.metadata
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from launcher.errors import Problem, UserError
from launcher.track.mlflow import MLFLOW_ENVIRONMENT
from launcher.track.tracking_uri import mask_secrets, sqlite_path


@dataclass(frozen=True, slots=True)
class UiCommand:
    """The command, what to add to its environment, and the address of the pages."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    """Holds the store's address, which may contain a password: every user of a machine can see arguments."""
    url: str


def make_ui_command(tracking_uri: str, *, host: str = "127.0.0.1", port: int = 5000) -> UiCommand:
    """The MLflow server for a SQLite file or a database. Raises UserError if there is nothing to start."""
    shown = mask_secrets(tracking_uri)
    if tracking_uri.startswith(("http://", "https://")):
        raise UserError(Problem(shown, "is a tracking server already", "open that address in a browser"))
    database = sqlite_path(tracking_uri)
    if database is not None and not database.exists():
        remedy = "train a recipe first, or start it in the folder that holds mlflow.db"
        raise UserError(Problem(shown, "there is no such file", remedy))
    if not _has_full_mlflow():
        message = "the small MLflow that is installed has no web pages"
        raise UserError(Problem("launch ui", message, "pip install 'mulaunch[ui]'"))
    argv = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    environment = {**MLFLOW_ENVIRONMENT, "MLFLOW_BACKEND_STORE_URI": tracking_uri}
    return UiCommand(argv, environment, f"http://{host}:{port}")


def _has_full_mlflow() -> bool:
    try:
        importlib.metadata.distribution("mlflow")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
