"""Tracking stores to feed: a SQLite file, and MLflow's own server behind a gate that can fail."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.track.mlflow import MlflowTarget, create_database
from tests.launcher.track.gate import Gate

SERVER = """
import sys
from werkzeug.serving import make_server
from mlflow.server import app
server = make_server("127.0.0.1", 0, app, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store with its tables, which take four seconds to create."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    create_database(path)
    return path


@pytest.fixture
def target(empty_database: Path, tmp_path: Path) -> MlflowTarget:
    """An empty store of the test's own."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return MlflowTarget(f"sqlite:///{tmp_path}/mlflow.db", "claims")


@pytest.fixture(scope="session")
def mlflow_server(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLflow's own server in a process of its own, on a free port."""
    pytest.importorskip("flask", reason="MLflow's server needs flask, which is in the extra `test`")
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_database, folder / "mlflow.db")
    environment = {
        **os.environ,
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/mlflow.db",  # what `mlflow server` itself sets
        "_MLFLOW_SERVER_ARTIFACT_ROOT": str(folder / "artifacts"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], env=environment, cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    port = process.stdout.readline().strip()
    assert port, "MLflow's server did not start"
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()


@pytest.fixture
def gate(mlflow_server: str) -> Iterator[Gate]:
    gate = Gate(mlflow_server)
    yield gate
    gate.close()
