"""The tracker: writes what the loop reports to the journal, the console and MLflow. Only rank 0 acts."""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self, TextIO, final

from launcher.checkpoint.catalog import Outcome, Rejected
from launcher.ending import StorageError, classify
from launcher.errors import UserError
from launcher.fence import Fence
from launcher.progress import Progress
from launcher.track.config import TrackConfig
from launcher.track.console import ProgressLines, perplexity
from launcher.track.history import read_history
from launcher.track.journal import Journal
from launcher.track.mlflow import MlflowTarget
from launcher.track.mlflow_sync import JOURNAL_NAME, MlflowSync, SyncStatus
from launcher.track.records import AttemptRecord, StepRecord, ValidationRecord
from launcher.track.settle import write_end
from launcher.track.sinks import JournalFollower, make_followers
from launcher.track.tracking_uri import mask_values
from launcher.track.waiting import Waiting


@final
class Tracker:
    """Journal, progress lines and MLflow sync of one attempt. Only rank 0 acts.

    `folder` is local: the run folder, or a mirror folder if that is remote.
    Without `mlflow` nothing is sent to a server; without `stream` nothing is printed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rank: int,
        attempt: int,
        total_steps: int,
        log_every: int,
        mlflow: MlflowTarget | None,
        stream: TextIO | None,
        track: TrackConfig | None = None,
        fence: Fence | None = None,
    ) -> None:
        self._journal: Journal | None = None
        self._sync: MlflowSync | None = None
        self._followers: Sequence[JournalFollower] = ()
        self._stream = stream if rank == 0 else None
        self._progress = ProgressLines(total_steps=total_steps, colour=stream is not None and stream.isatty())
        self.attempt = attempt
        self.fence = fence
        """Of rank 0 of a run that others could take over."""
        self._total_steps = total_steps
        self._log_every = log_every
        self._first: tuple[int, float] | None = None
        self._from_step = 0
        self._waiting = Waiting(self.say) if rank == 0 and stream is not None else None
        self.status: SyncStatus | None = None
        """What MLflow had received when the attempt ended."""
        if rank != 0:
            return
        self._journal = Journal(folder / JOURNAL_NAME, attempt, *([fence.glance] if fence else []))
        if mlflow is not None:
            self._sync = MlflowSync(folder / JOURNAL_NAME, mlflow, notify=self.say)
        if track is not None:
            self._followers = make_followers(track, folder / JOURNAL_NAME, self.say)

    def start(self, record: AttemptRecord) -> None:
        """Write the start to the journal, and start sending to MLflow and other viewers."""
        for follower in self._followers:
            follower.start()
        # Masked here, before anything is written: the journal is copied to MLflow and to remote folders, and
        # a password in a recipe's URLs would travel with it.
        self.event("start", {name: mask_values(value) for name, value in dataclasses.asdict(record).items()})
        if self._sync is not None:
            self._sync.start()
        self._wait_for("reading the data")

    def read(self, description: str, fingerprint: str, source: Mapping[str, object]) -> None:
        """Report what is read: in words, by its digest, and as the recipe's section."""
        fields = {"description": description, "fingerprint": fingerprint, "source": mask_values(source)}
        self.event("data", fields)
        self.say(f"data: {description}")
        self._wait_for("building the model, and reading its checkpoint if there is one")

    def begin(
        self,
        progress: Progress,
        checkpoint_url: str | None,
        rejected: Sequence[Rejected],
        planned_bytes: float,
    ) -> None:
        """Report where training starts: the step, and the checkpoint it comes from, if any; and what it plans
        to need of a device's memory, to be held against what steps then measure.

        `from_step` supersedes the journal's records of later steps.
        """
        for bad in rejected:
            fields = {"url": bad.url, "reason": bad.reason, "damaged": bad.damaged}
            self.event("checkpoint_rejected", fields)
            self.say(f"skipped {bad.url}: {bad.reason}")
        position = {"from_step": progress.step, "data_step": progress.data_step}
        planned = {"planned_memory_gb": round(planned_bytes / 1e9, 4)}
        self.event("begin", {**position, "checkpoint": checkpoint_url, **planned})
        forked = (
            f"step 0 with the weights of {checkpoint_url}" if checkpoint_url and not progress.step else None
        )
        self.say(f"attempt {self.attempt} starts from {forked or checkpoint_url or 'step 0'}")
        self._from_step = progress.step
        self._wait_for("taking the first step, which builds and compiles what later ones use")

    def _wait_for(self, text: str | None) -> None:
        if self._waiting is None:
            return
        if text is None:
            self._waiting.end()
        else:
            self._waiting.begin(text)

    def due(self, step: int) -> bool:
        """Whether a step is logged: every `log_every` steps, and the last one. Asked before each step."""
        if step > self._from_step + 1:
            self._wait_for(None)
        return step % self._log_every == 0 or step == self._total_steps

    def log_step(self, record: StepRecord) -> None:
        """Log a training step. Never waits for a tracking server."""
        if self._journal is None:
            return
        self.event("step", record.as_fields())
        if (traced := record.traced) is not None:
            self.event(
                "trace",
                {
                    "step": traced.step,
                    "steps": traced.steps,
                    "per_step_s": traced.seconds,
                    "artifacts": list(traced.files),
                },
            )
        if record.gpu is not None and "xid" in record.gpu:
            rank, xid = int(record.gpu["xid_rank"]), int(record.gpu["xid"])
            self.event("gpu_error", {"step": record.step, "rank": rank, "xid": xid})
            self.say(f"step {record.step}: the GPU of rank {rank} reports an error, XID {xid}")
        self.say(self._progress.step_line(record, eta_s=self._eta_s(record)))

    def log_validation(self, record: ValidationRecord) -> None:
        """Log an evaluation on validation data."""
        if self._journal is None:
            return
        self.event("validation", record.as_fields())
        self.say(self._progress.validation_line(record))

    def lr_reduced(self, step: int, lr_multiplier: float) -> None:
        """Report that a plateau of the validation loss has reduced the rates."""
        self.say(f"step {step}: validation loss has not improved; rates are now x {lr_multiplier:.4g}")

    def saving(self, step: int, seconds: float) -> None:
        """Log for how long training was blocked by a save, which may still be written."""
        self.event("saving", {"step": step, "seconds": seconds})

    def saves_ended(self, outcomes: Sequence[Outcome]) -> None:
        """Log checkpoints that were published, and saves that storage has refused."""
        for outcome in outcomes if self._journal is not None else ():
            fields: dict[str, object] = {"step": outcome.step, "write_s": outcome.write_s}
            if outcome.url is None:
                self.event("save_failed", fields | {"reason": outcome.reason})
                self.say(f"step {outcome.step} is not saved: {outcome.reason}; the next save tries again")
                continue
            self.event("checkpoint", fields | {"url": outcome.url})
            self.sync()
            self.say(self._progress.checkpoint_line(outcome.step, outcome.write_s, outcome.url))
            if outcome.reason:
                self.say(f"after that: {outcome.reason}")

    def event(self, name: str, record: Mapping[str, object]) -> None:
        """Write anything else to the journal. `from_step` means that the run went back to that step."""
        if self._journal is None:
            return
        before = self._journal.problem
        self._journal.write(name, record)
        if before is None and self._journal.problem is not None:
            self.say(f"the journal waits in memory: {self._journal.problem}; make room")
        elif before is not None and self._journal.problem is None:
            self.say("the journal is written again")

    def sync(self) -> None:
        """Make the journal so far survive a power loss. Call it before a checkpoint is published."""
        if self._journal is not None:
            self._journal.sync()

    def say(self, text: str) -> None:
        """Print a line among the progress lines."""
        if self._stream is not None:
            print(text, file=self._stream, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """End the attempt. After a failure, wait only 5 s for the tracking server."""
        self.status = self.close(error, drain_s=30.0 if error is None else 5.0)

    def close(self, error: BaseException | None = None, *, drain_s: float = 30.0) -> SyncStatus | None:
        """End the attempt; wait at most `drain_s` seconds for MLflow. Returns what it has received."""
        self._wait_for(None)
        if self._journal is None:
            return None
        ending = classify(error)
        try:
            self._write_ledger()
            write_end(self._journal, ending, "" if error is None else f"{type(error).__name__}: {error}")
        except (StorageError, UserError):
            if error is None:
                raise  # else it may be the very error that is being told; the agent writes the end
        status = self._sync.close(drain_s) if self._sync is not None else None
        for follower in self._followers:
            follower.close(drain_s)
        return status

    def _write_ledger(self) -> None:
        """Where the run's time went so far, and its best validation: what people sort runs by. At its last
        step, so that MLflow shows it there."""
        assert self._journal is not None, "of rank 0"
        try:
            history = read_history(self._journal.path, alone=True)
        except (ValueError, OSError):  # damage must not keep the end from being written
            return
        steps = [*history.columns["step"][-1:], *history.lost["step"]]
        step = int(max(steps, default=0))
        self._journal.write("ledger", {"step": step, **history.ledger.as_fields()})
        if (best := history.best_validation) is not None:
            found: dict[str, object] = {"step": step, "at_step": best["step"]}
            found |= {key: best[key] for key in ("loss", "accuracy", "bits_per_byte") if key in best}
            self._journal.write("best_validation", found | {"perplexity": perplexity(best["loss"])})

    def _eta_s(self, record: StepRecord) -> float:
        """Seconds left at the pace since the first logged step, with validations and checkpoints."""
        # Not from the first step: it includes compilation and warm-up, and would make every estimate too
        # long.
        now = time.monotonic()
        if self._first is None:
            self._first = (record.step, now)
        first_step, first_time = self._first
        steps = record.step - first_step
        pace_s = (now - first_time) / steps if steps > 0 else record.step_time_s
        return (self._total_steps - record.step) * pace_s if math.isfinite(pace_s) else math.nan
