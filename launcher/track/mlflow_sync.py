"""The sync: a background thread that sends the journal to MLflow, even if the server is slow or down."""

import math
import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

from launcher import files
from launcher.json_text import dump_json, load_json
from launcher.track.journal import iterate_lines, read_events, whole_bytes
from launcher.track.mlflow import MlflowRun, MlflowTarget, find_run, open_run
from launcher.track.points import Point, line_points, superseded_points
from launcher.track.tracking_uri import mask_secrets

JOURNAL_NAME = "journal.jsonl"
STATE_NAME = "mlflow.json"

# Training writes only to the journal, which is a local file. The thread reads it from a saved byte offset and
# moves the offset after the server has confirmed: each line is sent at least once. Sent twice, it changes
# nothing, because a point is made from its line alone (same key, step, time and value) and MLflow stores
# equal points once. So neither a dead server nor a crash in between loses or doubles anything.
_POLL_S = 2.0
_LONGEST_PAUSE_S = 60.0
_BATCH_POINTS = 1000
_QUIET_S = 2.0
"""A wait at the end of a run that is longer is announced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncStatus:
    """What MLflow has received. `problem` is None if everything in the journal has been stored."""

    tracking_uri: str
    """Without secrets."""
    experiment: str
    experiment_id: str | None
    run_id: str | None
    pending_bytes: int
    """Bytes of the journal that are not sent yet."""
    problem: str | None


@dataclass(slots=True, kw_only=True)
class _State:
    """RUN/mlflow.json: which MLflow run is ours, and how much of the journal it has received."""

    tracking_uri: str
    experiment: str
    run_key: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Tag that finds a run that was created although the request failed."""
    creating: bool = False
    experiment_id: str | None = None
    run_id: str | None = None
    offset: int = 0
    artifacts_pending: list[str] = field(default_factory=list)


@final
class MlflowSync:
    """Follows one journal from a saved offset. Only close() makes the training thread wait."""

    def __init__(self, journal: Path, target: MlflowTarget, *, notify: Callable[[str], None]) -> None:
        self._journal = journal
        self._state_path = journal.with_name(STATE_NAME)
        self._target = target
        self._notify = notify
        self._state = _load_state(self._state_path, target, notify)
        # After a power loss the journal can be shorter than what was sent. Lines written in their place are
        # new.
        self._state.offset = min(self._state.offset, whole_bytes(journal))
        self._run: MlflowRun | None = None
        self._superseded: dict[tuple[str, int], float] = {}
        self._problem: str | None = None
        self._metrics_refused = False
        self._artifacts_failed = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mlflow-sync", daemon=True)

    def start(self) -> None:
        """Start to follow the journal."""
        self._thread.start()

    def close(self, drain_s: float) -> SyncStatus:
        """Send the rest, for at most `drain_s` seconds; a server that fails now is not tried again."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(min(_QUIET_S, drain_s))
        if self._thread.is_alive():
            self._notify(f"mlflow: waiting up to {drain_s:g} s for {self._state.tracking_uri}")
            self._thread.join(max(0.0, drain_s - _QUIET_S))
        if self._thread.is_alive() and self._problem is None:
            self._problem = f"no answer within {drain_s:g} s"
        return self.status()

    def status(self) -> SyncStatus:
        """What MLflow has received so far."""
        state = self._state
        pending_bytes = whole_bytes(self._journal) - state.offset  # an incomplete last line is never sent
        problem = self._problem
        if problem is None and (pending_bytes or state.artifacts_pending):
            problem = (
                f"not sent yet: {', '.join(['metrics'] * bool(pending_bytes) + state.artifacts_pending)}"
            )
        return SyncStatus(
            tracking_uri=state.tracking_uri,
            experiment=state.experiment,
            experiment_id=state.experiment_id,
            run_id=state.run_id,
            pending_bytes=pending_bytes,
            problem=problem,
        )

    def send_all(self) -> bool:
        """Send the journal after the saved offset; False if that failed. Notifies of changes only."""
        # One notice when it breaks and one when it works again, not one every minute for a night.
        before, problem = self._problem, self.try_to_send()
        if problem is not None and before is None:
            self._notify(
                f"mlflow: {problem}; training continues, the journal keeps everything, and it is sent later"
            )
        elif problem is None and before is not None:
            self._notify(f"mlflow: {self._state.tracking_uri} answers again; everything has been sent")
        return problem is None

    def try_to_send(self) -> str | None:
        """Send the journal after the saved offset; returns why that failed, or None."""
        try:
            self._send_lines()
        # No error of a tracking server or its client may end a training run.
        except Exception as error:
            self._problem = _one_line(error, self._target)
            self._run = None  # looked up again: it may have been deleted there
            return self._problem
        self._problem = None
        self._send_artifacts()
        return None

    def _follow(self) -> None:
        pause_s = _POLL_S
        while True:
            last = self._closing.is_set()  # asked before the pass, so that the last pass sees every line
            # After failures 4, 8, 16, 32, then every 60 s: a server that restarts is not flooded by all its
            # runs.
            pause_s = _POLL_S if self.send_all() else min(2 * pause_s, _LONGEST_PAUSE_S)
            if last:
                return
            self._closing.wait(pause_s)

    def _send_lines(self) -> None:
        """Send every whole line after the offset, in batches; the offset is saved after each.

        2500 one-point steps between a start and an end line: the start, 1000, 1000, then 500 with the end.
        After a crash in between, a batch is sent a second time, and MLflow stores it once.
        """
        run = self._run = self._run or self._open()
        points: list[Point] = []
        end = whole_bytes(self._journal)  # a damaged line counts as sent
        for offset, line in iterate_lines(self._journal, self._state.offset, end):
            if "from_step" in line:
                # The run went back, and MLflow cannot delete points. Steps trained again with the same result
                # would be in the curve twice (their time differs), so they are left out. Those with another
                # result are sent: MLflow then has both, and shows them at the same step.
                self._superseded = superseded_points(self._journal, offset)
            points += [point for point in line_points(line) if self._is_new(point)]
            if line["event"] == "trace":
                self._state.artifacts_pending += line.get("artifacts", ())
                self._artifacts_failed = False
            if line["event"] in ("start", "data", "end"):
                # Points first: once MLflow has received the end, it shows the run as finished.
                self._send_points(run, points)
                self._send_boundary(run, line)
            elif len(points) >= _BATCH_POINTS:
                self._send_points(run, points)
            else:
                continue
            points = []
            self._save(offset)
        self._send_points(run, points)
        if end > self._state.offset:
            self._save(end)

    def _send_boundary(self, run: MlflowRun, line: dict[str, Any]) -> None:
        """Send the start or the end of an attempt, or what it reads."""
        if line["event"] == "start":
            run.begin_attempt(line)
            self._state.artifacts_pending = list(line.get("artifacts", ()))
            self._artifacts_failed = False
        elif line["event"] == "data":
            run.describe_data(line)
        else:
            run.end_attempt(line["status"], round(line["time"] * 1000))

    def _send_points(self, run: MlflowRun, points: list[Point]) -> None:
        refusal = run.send(points) if points else None
        if refusal is not None and not self._metrics_refused:
            self._metrics_refused = True
            self._notify(f"mlflow: {_one_line(refusal, self._target)}; such metrics are only in the journal")

    def _is_new(self, point: Point) -> bool:
        """False for a step trained again with the same result: the curve has that point already."""
        before = self._superseded.get((point.key, point.step))
        # NaN is not equal to itself, and a diverged step that diverges again is the same result.
        return before is None or not (
            before == point.value or (math.isnan(before) and math.isnan(point.value))
        )

    def _send_artifacts(self) -> None:
        """Send the pending files. After a failure they wait for the end of this attempt, or the next one.

        Separate from the metrics, because a store may accept those and refuse files, for example if the key
        of its bucket is missing.
        """
        if self._run is None or (self._artifacts_failed and not self._closing.is_set()):
            return
        for name in list(self._state.artifacts_pending):
            path = artifact_path(self._journal.parent, name)
            if path is None:
                self._notify(f"mlflow: {name!r} is not sent: it is not one of the run's own files")
                self._state.artifacts_pending.remove(name)
                continue
            try:
                self._run.send_artifact(path, "traces" if name.startswith("traces/") else None)
            except Exception as error:  # as in try_to_send; and metrics must be sent even if files cannot be
                if not self._artifacts_failed:
                    self._notify(f"mlflow: {name} cannot be stored: {_one_line(error, self._target)}")
                self._artifacts_failed = True
                return
            self._state.artifacts_pending.remove(name)
            self._save(self._state.offset)

    def _open(self) -> MlflowRun:
        """Continue the MLflow run of this journal, or create one and send the whole journal to it."""
        first = next(read_events(self._journal, "start"), None)
        if first is None:
            raise ValueError(f"{self._journal} has no line of a start")
        state = self._state
        # Creating a run and receiving its id are two steps: after a crash or time-out between them, only the
        # key finds the run. So `creating` is saved first, and the next try searches before it creates.
        retried = state.creating
        if state.run_id is None:
            state.creating = True
            self._save(state.offset)
        run = open_run(
            self._target,
            run_id=state.run_id,
            run_key=state.run_key,
            run_name=first.get("run_name", self._journal.parent.name),
            start_ms=round(first["time"] * 1000),
            retried=retried,
        )
        if run.run_id != state.run_id:
            if state.run_id is not None:
                self._notify(f"mlflow: run {state.run_id} was deleted there; {run.run_id} gets all of it")
            state.run_id, state.experiment_id = run.run_id, run.experiment_id
            state.creating = False
            # From the first line: a new run is empty, also if it replaces one that was deleted on the server.
            self._save(0)
        self._superseded = superseded_points(self._journal, state.offset)
        return run

    def _save(self, offset: int) -> None:
        self._state.offset = offset
        if not self._state_path.parent.is_dir():  # it was moved or deleted: not made again without its recipe
            return
        files.write_text(str(self._state_path), dump_json(asdict(self._state), indent=2) + "\n")


def replay(folder: Path, target: MlflowTarget, *, notify: Callable[[str], None]) -> SyncStatus:
    """Send what MLflow has not received of a finished run, in this thread."""
    sync = MlflowSync(folder / JOURNAL_NAME, target, notify=notify)
    sync.try_to_send()
    return sync.status()


def send_file(folder: Path, target: MlflowTarget, path: Path, into: str) -> str | None:
    """Store a file with the artifacts of a run that MLflow has received; returns why that failed, or None."""
    state = _read_state(folder / STATE_NAME)
    if state is None or state.run_id is None or state.tracking_uri != mask_secrets(target.tracking_uri):
        return f"{mask_secrets(target.tracking_uri)} has not received this run"
    try:
        run = find_run(target, state.run_id)
        if run is None:
            return f"{mask_secrets(target.tracking_uri)} has no run {state.run_id} any longer"
        run.send_artifact(path, into)
    except Exception as error:  # as in try_to_send
        return _one_line(error, target)
    return None


_ARTIFACT = re.compile(
    r"(attempts/[A-Za-z0-9-]+/)?"
    r"(recipe\.yaml|plan\.json|base_shapes\.bsh|job\.sh|environment\.json|code\.diff)"
    r"|traces/step-\d{10}-rank-0\.(txt|json\.gz|memory\.pickle)"
)


def artifact_path(folder: Path, name: str) -> Path | None:
    """A file to send, as the journal names it; None for any but the run's own.

    A journal that somebody else has written could name any file of this user.
    """
    path = folder / name
    real = _ARTIFACT.fullmatch(name) and path.resolve() == folder.resolve() / name
    return path if real else None


def saved_tracking_uri(folder: Path) -> str | None:
    """The store to which earlier attempts sent, without secrets; None if there is none."""
    state = _read_state(folder / STATE_NAME)
    return state.tracking_uri if state else None


def describe_sent(folder: Path) -> str | None:
    """Where a run's metrics are, and whether all are; None if nothing was ever sent."""
    state = _read_state(folder / STATE_NAME)
    if state is None:
        return None
    pending = whole_bytes(folder / JOURNAL_NAME) - state.offset
    sent = "all sent" if pending == 0 else f"{pending} bytes of the journal are not sent"
    where = f"in {state.tracking_uri}, experiment {state.experiment!r}"
    return f"run {state.run_id or 'not made yet'} {where} ({sent})"


def _read_state(path: Path) -> _State | None:
    """The saved state; None if there is none, or it cannot be read."""
    try:
        return _State(**load_json(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _load_state(path: Path, target: MlflowTarget, notify: Callable[[str], None]) -> _State:
    """The saved state if it is for this target, else a new one: a new run receives the whole journal."""
    fresh = _State(tracking_uri=mask_secrets(target.tracking_uri), experiment=target.experiment)
    saved = _read_state(path)
    if saved and (saved.tracking_uri, saved.experiment) == (fresh.tracking_uri, fresh.experiment):
        return saved
    if saved or path.exists():
        before = (
            f"{saved.tracking_uri}, experiment {saved.experiment!r}" if saved else f"an unreadable {path}"
        )
        notify(
            f"mlflow: was {before}; a new run at {fresh.tracking_uri}, {fresh.experiment!r}, gets all of it"
        )
    return fresh


def _one_line(reason: Exception | str, target: MlflowTarget) -> str:
    """The reason in one line without secrets."""
    text = reason if isinstance(reason, str) else _first_cause(reason)
    text = text.replace(target.tracking_uri, mask_secrets(target.tracking_uri))
    line = " ".join(mask_secrets(text).split())
    # The end of such texts says why: "HTTPConnectionPool(...): Max retries ... Connection refused".
    return line if len(line) <= 200 else f"{line[:80]} ... {line[-115:]}"


def _first_cause(error: BaseException) -> str:
    """The error with what it came from: urllib3 and sqlalchemy say why only there."""
    texts: list[str] = []
    found: BaseException | None = error
    while found is not None and len(texts) < 10:
        texts.append(f"{type(found).__name__}: {found}")
        found = found.__cause__ or found.__context__
    return texts[0] if len(texts) == 1 or texts[-1] in texts[0] else f"{texts[0][:80]} ... {texts[-1]}"
