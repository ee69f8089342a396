import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from launcher.track.mlflow import MlflowTarget, create_database, open_run

CREATE_THEN_DIE = """
import os, signal, sys
from pathlib import Path
import sqlalchemy
from launcher.track.mlflow import create_database

def die_at_a_late_table(connection, cursor, statement, *rest):
    if "ALTER TABLE" in statement:  # the migrations that follow the first tables
        os.kill(os.getpid(), signal.SIGKILL)

sqlalchemy.event.listen(sqlalchemy.engine.Engine, "before_cursor_execute", die_at_a_late_table)
create_database(Path(sys.argv[1]))
"""


def test_a_process_killed_while_it_creates_the_store_leaves_none(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    assert subprocess.run([sys.executable, "-c", CREATE_THEN_DIE, str(path)]).returncode == -9
    assert any(tmp_path.glob(".mlflow.db.*"))  # it was on the way
    assert not path.exists()


def test_a_store_that_another_run_created_in_the_meantime_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path
) -> None:
    path = tmp_path / "new" / "mlflow.db"

    class Slow:
        """The moment between creating and publishing, in which another run publishes its own."""

        def __init__(self, uri: str, artifact_root: str) -> None:
            Path(uri.removeprefix("sqlite:///")).write_bytes(b"ours")
            path.write_bytes(b"theirs")
            self.engine = SqlAlchemyStore(f"sqlite:///{empty_database}", artifact_root).engine

    monkeypatch.setattr("mlflow.store.tracking.sqlalchemy_store.SqlAlchemyStore", Slow)
    create_database(path)
    assert path.read_bytes() == b"theirs"
    assert [entry.name for entry in path.parent.iterdir()] == ["mlflow.db"]


def test_an_experiment_that_another_run_created_in_the_meantime_is_used(
    target: MlflowTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = MlflowClient.create_experiment

    def create_after_another(client: MlflowClient, name: str, artifact_location: str) -> str:
        create(client, name, artifact_location)
        return create(client, name, artifact_location)  # raises RESOURCE_ALREADY_EXISTS

    monkeypatch.setattr(MlflowClient, "create_experiment", create_after_another)
    run = open_run(target, run_id=None, run_key="k", run_name="r", start_ms=1, retried=False)
    found = MlflowClient(target.tracking_uri).get_experiment_by_name(target.experiment)
    assert found is not None
    assert run.experiment_id == found.experiment_id


def test_a_deleted_experiment_is_an_error_that_names_it(target: MlflowTarget) -> None:
    client = MlflowClient(target.tracking_uri)
    client.delete_experiment(client.create_experiment(target.experiment))
    with pytest.raises(RuntimeError, match="was deleted there: mlflow experiments restore"):
        open_run(target, run_id=None, run_key="k", run_name="r", start_ms=1, retried=False)
