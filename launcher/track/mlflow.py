"""The only module that imports MLflow: a run on a tracking store. Any call may be slow or fail.

MLflow is imported when a run is opened, which takes 1-2 s, and never by the training thread. MlflowSync
handles slow and failed calls.
"""

import contextlib
import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from launcher.json_text import dump_json
from launcher.track.points import Point, flatten_params, without_unused_layers
from launcher.track.records import Outcome
from launcher.track.tracking_uri import artifact_location, sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # else importing MLflow calls a server on the internet
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # default 7: one call to a dead server takes four minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # else it prints the address with its password
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # else the UI's server starts processes that outlive it
}
"""What the command line adds to the environment of the processes it starts, unless the user has set it."""

_KEY_TAG = "mulaunch.key"
_MAX_METRICS, _MAX_PARAMS, _MAX_VALUE = 1000, 100, 6000  # MLflow's limits, the first two per request
_MAX_DIGEST = 36


@dataclass(frozen=True, slots=True)
class MlflowTarget:
    """Tracking store, experiment and parent of a run."""

    tracking_uri: str
    experiment: str
    parent_run_id: str | None = None
    """The run under which this one is shown: that of the sweep, for one of its points."""


@final
class MlflowRun:
    """One MLflow run for all attempts of one of our runs. Sending the same thing twice stores it once."""

    def __init__(self, client: "MlflowClient", run: "Run") -> None:
        self._client = client
        self.run_id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id

    def begin_attempt(self, line: Mapping[str, Any]) -> None:
        """Store parameters and tags from a journal's start line.

        MLflow refuses changed parameters, so a value that was changed on resume is stored as
        `resume_ATTEMPT.KEY`.
        """
        from mlflow.entities import Param, RunTag

        attempt = line["attempt"]
        first = self._client.get_run(self.run_id).data.params
        params: dict[str, str] = {}
        # Attempt 2 with another optim.lr: `optim.lr` stays that of attempt 1, `resume_2.optim.lr` is new.
        # Compared with what the server has, not with the journal, so that sending this line twice adds
        # nothing.
        for key, whole in flatten_params(without_unused_layers(line["recipe"])).items():
            value = whole[:_MAX_VALUE]
            if key not in first:
                params[key] = value
            elif first[key] != value:
                params[f"resume_{attempt}.{key}"] = value
        entities = [Param(key, value) for key, value in params.items()]
        tags = {"attempt": attempt, "run_dir": line["run_dir"], "world_size": line["world_size"]}
        tags |= line.get("tags", {})
        for start in range(0, len(entities), _MAX_PARAMS):
            self._client.log_batch(self.run_id, params=entities[start : start + _MAX_PARAMS])
        self._client.log_batch(self.run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])
        self._client.update_run(self.run_id, status="RUNNING")

    def describe_data(self, line: Mapping[str, Any]) -> None:
        """Store what is read, from a journal's data line, as the run's data set."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = line["source"]
        dataset = Dataset(
            name=str(source.get("path") or source.get("url") or source["type"])
            .rstrip("/")
            .rpartition("/")[2],
            digest=line["fingerprint"][:_MAX_DIGEST],
            source_type=source["type"],
            source=dump_json(source),
            profile=dump_json({"description": line["description"]}),
        )
        tags = [InputTag("mlflow.data.context", "training")]
        self._client.log_inputs(self.run_id, [DatasetInput(dataset, tags)])

    def send(self, points: Sequence[Point]) -> str | None:
        """Store points; returns why the server refuses some of them for good, or None if all are stored."""
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        metrics = [Metric(point.key, point.value, point.time_ms, point.step) for point in points]
        refusal = None
        for start in range(0, len(metrics), _MAX_METRICS):
            try:
                self._client.log_batch(self.run_id, metrics=metrics[start : start + _MAX_METRICS])
            except MlflowException as error:
                # Any other error may pass, so the sync tries the same points again. This one never passes,
                # and trying again would hold up everything that follows.
                deleted = _find_run(self._client, self.run_id) is None  # refused in the same words
                if error.error_code != "INVALID_PARAMETER_VALUE" or deleted:
                    raise
                refusal = str(error)
        return refusal

    def send_artifact(self, path: Path, into: str | None = None) -> None:
        """Store one file; in a folder of the run's artifacts, if one is given."""
        self._client.log_artifact(self.run_id, str(path), into)

    def end_attempt(self, status: Outcome, time_ms: int) -> None:
        """Store how it ended."""
        self._client.set_terminated(self.run_id, status, end_time=time_ms)


def open_run(
    target: MlflowTarget, *, run_id: str | None, run_key: str, run_name: str, start_ms: int, retried: bool
) -> MlflowRun:
    """Continue the run `run_id` if it still exists, else the run tagged `run_key`, else create one.

    `retried`: an earlier call may have created the run although it failed.
    """
    database = sqlite_path(target.tracking_uri)
    if database is not None and not database.exists():
        create_database(database)
    client = _connect(target.tracking_uri)
    run = _find_run(client, run_id) if run_id else None
    if run is not None:
        return MlflowRun(client, run)
    experiment_id = _find_experiment(client, target)
    # A request that failed may have been received: on a time-out the run exists, and only its answer was
    # lost. The key was on our disk before the first request, and is a tag of the run from the moment it
    # exists. The first try does not search, since a search can be slow and there is nothing to find.
    found = (
        client.search_runs([experiment_id], f"tags.`{_KEY_TAG}` = '{run_key}'", max_results=1)
        if retried
        else []
    )
    tags = {_KEY_TAG: run_key, "mlflow.source.name": "launch", "mlflow.source.type": "JOB"}
    if target.parent_run_id is not None:
        tags["mlflow.parentRunId"] = target.parent_run_id
    created = found[0] if found else client.create_run(experiment_id, start_ms, tags, run_name)
    return MlflowRun(client, created)


def find_run(target: MlflowTarget, run_id: str) -> MlflowRun | None:
    """A run that there is already; none is made."""
    client = _connect(target.tracking_uri)
    run = _find_run(client, run_id)
    return None if run is None else MlflowRun(client, run)


def deleted_experiment(name: str, experiment_id: str) -> Exception:
    """Why nothing can be sent, and what to do."""
    return RuntimeError(
        f"experiment {name!r} was deleted there: mlflow experiments restore --experiment-id {experiment_id}, "
        "or another track.mlflow.experiment"
    )


def create_database(path: Path) -> None:
    """Create a complete SQLite store, or none; one that another process creates meanwhile is kept.

    MLflow takes seconds to create its tables. Two processes that do so in one file, or one that is killed on
    the way, leave a file that MLflow cannot open. So it is created under another name.
    """
    _configure()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        SqlAlchemyStore(f"sqlite:///{temporary}", (path.parent / "mlruns").as_uri()).engine.dispose()
        temporary.chmod(0o600)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)  # unlike a rename, refuses to replace a file
    finally:
        temporary.unlink(missing_ok=True)


def _connect(tracking_uri: str) -> "MlflowClient":
    _configure()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri)


def _configure() -> None:
    """Make MLflow give up quickly, and log less."""
    from mlflow import environment_variables

    # Unless the command line or the user did. The sync has its own retries: MLflow's block a thread for
    # minutes.
    for variable in (
        environment_variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES,
        environment_variables.MLFLOW_HTTP_REQUEST_TIMEOUT,
        environment_variables.MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT,
    ):
        if not variable.is_set():
            variable.set(MLFLOW_ENVIRONMENT[variable.name])
    # The sync reports failures itself, once; they would print up to 180 lines for each try.
    for noisy in ("mlflow", "alembic", "sqlalchemy", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)


def _find_run(client: "MlflowClient", run_id: str) -> "Run | None":
    """The run, or None if the store has no such run, or has marked it as deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def _find_experiment(client: "MlflowClient", target: MlflowTarget) -> str:
    """The id of the experiment, which is created if there is none."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(target.experiment)
    if experiment is not None:
        if experiment.lifecycle_stage != "active":
            raise deleted_experiment(experiment.name, str(experiment.experiment_id))
        return str(experiment.experiment_id)
    location = artifact_location(target.tracking_uri, target.experiment)
    try:
        return str(client.create_experiment(target.experiment, artifact_location=location))
    except MlflowException as error:
        created = client.get_experiment_by_name(target.experiment)  # by another run, in the meantime
        if error.error_code != "RESOURCE_ALREADY_EXISTS" or created is None:
            raise
        return str(created.experiment_id)
