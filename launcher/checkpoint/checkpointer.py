"""Save and restore one run. A save is staged, written, published; a resume reads only what is published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, final

import torch
from pydantic import TypeAdapter

from launcher import files
from launcher.checkpoint.catalog import (
    Rejected,
    Saved,
    all_lost,
    clear_place,
    delete_old,
    describe_files,
    find_newest,
    list_steps,
    quarantine,
    step_folder,
)
from launcher.checkpoint.identity import check_data, check_identity, describe_attempt
from launcher.checkpoint.manifest import FORMAT, MANIFEST, FileEntry, RandomEntry, manifest_text
from launcher.checkpoint.restore import restore_tensors
from launcher.checkpoint.storage import write_tensors
from launcher.errors import Problem, UserError
from launcher.optim.schedule import Schedule
from launcher.parallel.engine import Engine
from launcher.plan.plan import Plan
from launcher.progress import Progress
from launcher.recipe.schema import Recipe
from launcher.run_folder import JOURNAL, LocalMirror
from launcher.world import World

_SAVED = TypeAdapter[Saved | None](Saved | None)
_FOUND = TypeAdapter[tuple[Saved | None, list[Rejected], Problem | None]](
    tuple[Saved | None, list[Rejected], Problem | None]
)
_NAMES = TypeAdapter(list[str])
_FILES = TypeAdapter(dict[str, FileEntry])

ScheduleState = Mapping[str, float | int | None]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """Where an attempt starts."""

    progress: Progress
    url: str | None
    """The checkpoint; None if there is none and training starts at step 0."""
    rejected: Sequence[Rejected]
    """Newer folders that were skipped."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Save:
    """A save in progress."""

    progress: Progress
    tensors: Mapping[str, torch.Tensor]
    schedule_state: ScheduleState
    url: str


@final
class Checkpointer:
    """The checkpoints of one attempt. All ranks call every method together.

    One save at a time: idle -> staged -> written -> (published) idle. Older checkpoints are not touched
    before the new manifest is published.
    """

    # The order of a save's writes, and why a crash at any point leaves a run that can be resumed:
    #   1. journal  synced by the loop before save(), so that no checkpoint is newer than its journal lines.
    #   2. stage    rank 0 empties the step's folder: the manifest will list files of this save only.
    #   3. write    every rank writes its shards, then DCP its index. No manifest yet, so not a checkpoint.
    #   4. publish  files are hashed, and the manifest appears by one rename or put: a resume now finds it.
    #   5. delete   old checkpoints are deleted last. Before 4, a failed save would leave nothing to resume.
    # Barriers separate the steps: no rank writes into a folder that is still being emptied, and no rank
    # hashes a file that another one is still writing.

    def __init__(
        self,
        recipe: Recipe,
        plan: Plan,
        *,
        fingerprint: str,
        attempt: int,
        run_url: str,
        mirror: LocalMirror,
        world: World,
    ) -> None:
        self._config = recipe.checkpoint
        self._plan = plan
        self._attempt = describe_attempt(recipe, plan, fingerprint=fingerprint, attempt=attempt)
        self._run_url = run_url
        self._mirror = mirror
        self._world = world
        self._save: _Save | None = None
        self.rollbacks = 0
        """In the whole run so far."""
        self._stage: Literal["idle", "staged", "written"] = "idle"

    def restore(self, engine: Engine, schedule: Schedule) -> Restored:
        """Load engine and schedule from the newest good checkpoint, if there is one.

        Raises UserError if it belongs to another run, or if there were some and none is good. Damaged ones
        are moved to RUN/quarantine, and what was submitted becomes the run's, only after all checks have
        passed: a resume that is refused changes nothing.
        """
        # Rank 0 chooses for all: on a network file system two ranks may list different folders for a while,
        # and ranks that load different steps would train on without an error.
        saved, rejected, lost = self._world.from_main(
            self._find() if self._world.is_main else (None, [], None), _FOUND
        )
        if lost is not None:
            raise UserError(lost)
        progress = Progress()
        if saved is not None:
            check_identity(saved, self._plan.parameters)
            check_data(saved, self._attempt.data)
            self._load(saved, engine, schedule)
            progress = Progress(saved.manifest.step, saved.manifest.data_step)
        if self._world.is_main:
            self._mirror.accept()
            for bad in rejected:
                if bad.damaged:
                    quarantine(self._run_url, bad.url)
        return Restored(progress=progress, url=saved.url if saved else None, rejected=rejected)

    def _find(self) -> tuple[Saved | None, list[Rejected], Problem | None]:
        saved, rejected = find_newest(self._run_url, verify=True)
        journal = self._mirror.folder / JOURNAL
        return saved, rejected, all_lost(self._run_url, rejected, journal) if saved is None else None

    def go_back(self, engine: Engine, schedule: Schedule, *, before: int, data_step: int) -> Progress | None:
        """Load the newest good checkpoint of a step below `before`, to read on from `data_step`.

        None if there is none. Its manifest says from then on where the data continues, so that a resume does
        the same. Newer checkpoints are moved to quarantine.
        """
        found = find_newest(self._run_url, verify=True, before=before)[0] if self._world.is_main else None
        saved = self._world.from_main(found, _SAVED)
        if saved is None:
            return None
        self._load(saved, engine, schedule)
        self.rollbacks += 1
        if self._world.is_main:
            for step in list_steps(self._run_url):
                if step > saved.step:
                    quarantine(self._run_url, step_folder(self._run_url, step))
            moved = {
                "format": FORMAT,
                "data_step": data_step,
                "random": RandomEntry(seed=saved.manifest.random.seed, data_step=data_step),
                "rollbacks": self.rollbacks,
            }
            manifest = saved.manifest.model_copy(update=moved)
            files.write_text(files.join(saved.url, MANIFEST), manifest_text(manifest))
        self._world.barrier()
        return Progress(saved.step, data_step)

    def _load(self, saved: Saved, engine: Engine, schedule: Schedule) -> None:
        engine.load(partial(restore_tensors, saved.url))
        schedule.restore(saved.manifest.schedule.state, saved.manifest.schedule.total_steps)
        self.rollbacks = max(self.rollbacks, saved.manifest.rollbacks)

    def due(self, step: int) -> bool:
        """Whether a checkpoint is saved after a step."""
        return step % self._config.every == 0

    def save(
        self, progress: Progress, tensors: Mapping[str, torch.Tensor], schedule_state: ScheduleState
    ) -> str:
        """Stage, write and publish; returns the checkpoint's URL."""
        self.stage(progress, tensors, schedule_state)
        self.write()
        return self.publish()

    def stage(
        self, progress: Progress, tensors: Mapping[str, torch.Tensor], schedule_state: ScheduleState
    ) -> None:
        """Hold what is to be saved, and empty its folder."""
        self._step_from("idle", "staged")
        url = step_folder(self._run_url, progress.step)
        self._save = _Save(progress=progress, tensors=tensors, schedule_state=dict(schedule_state), url=url)
        if self._world.is_main:
            clear_place(self._run_url, url)
        self._world.barrier()

    def write(self) -> None:
        """Write every rank's shards."""
        self._step_from("staged", "written")
        assert self._save is not None, "staged"
        write_tensors(self._save.url, self._save.tensors)
        self._world.barrier()

    def publish(self) -> str:
        """Write the manifest, the commit point; then delete old checkpoints and mirror the journal."""
        self._step_from("written", "idle")
        assert self._save is not None, "written"
        save, world, self._save = self._save, self._world, None
        names = world.from_main(sorted(files.list_names(save.url)) if world.is_main else [], _NAMES)
        # Each rank reads back and hashes its part of the files: digests of what the storage holds, not of
        # what was sent there. With 8 files on 4 ranks, rank 1 hashes files 1 and 5.
        parts = world.gather(describe_files(save.url, names[world.rank :: world.size]), _FILES)
        if world.is_main:
            step, data_step = save.progress.step, save.progress.data_step
            manifest = self._attempt.model_copy(
                update={
                    "step": step,
                    "data_step": data_step,
                    "tokens": step * self._plan.batch.tokens_per_step,
                    "rollbacks": self.rollbacks,
                    "random": RandomEntry(seed=self._attempt.random.seed, data_step=data_step),
                    "schedule": self._attempt.schedule.model_copy(update={"state": save.schedule_state}),
                    "files": {name: entry for part in parts for name, entry in part.items()},
                }
            )
            files.write_text(files.join(save.url, MANIFEST), manifest_text(manifest))
        world.barrier()
        if world.is_main:
            delete_old(self._run_url, self._config.keep)
            self._mirror.publish()
        return save.url

    def _step_from(self, before: str, after: Literal["idle", "staged", "written"]) -> None:
        assert self._stage == before, f"a save that is {self._stage} cannot become {after}"
        self._stage = after
