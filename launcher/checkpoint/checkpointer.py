"""Save and restore one run. A resume reads only what was published; how a save gets there is in saving.py."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self, final

import torch
from pydantic import TypeAdapter

from launcher import files
from launcher.checkpoint.catalog import (
    Outcome,
    Rejected,
    Saved,
    all_lost,
    find_newest,
    list_steps,
    quarantine,
    step_folder,
    verify_digests,
)
from launcher.checkpoint.fork import WEIGHTS, describe_lineage, open_source
from launcher.checkpoint.identity import (
    check_data,
    check_extensions,
    check_identity,
    describe_attempt,
    describe_data,
)
from launcher.checkpoint.index import check_index
from launcher.checkpoint.manifest import FORMAT, MANIFEST, RandomEntry, manifest_text
from launcher.checkpoint.restore import restore_tensors
from launcher.checkpoint.saving import Save, attempt
from launcher.checkpoint.staging import Stager
from launcher.ending import StorageError
from launcher.errors import Problem, UserError
from launcher.fence import Fence
from launcher.optim.schedule import Schedule
from launcher.parallel.engine import Engine
from launcher.plan.plan import Plan
from launcher.progress import Progress
from launcher.recipe.schema import Recipe
from launcher.run_folder import JOURNAL, LocalMirror
from launcher.world import World

_FOUND = TypeAdapter[tuple[Saved | None, list[Rejected]]](tuple[Saved | None, list[Rejected]])
_SAVED = TypeAdapter[Saved | None](Saved | None)
_REJECTED = TypeAdapter[Rejected | None](Rejected | None)
_PROBLEM = TypeAdapter[Problem | None](Problem | None)

LAST_WAIT_S = 10.0

ScheduleState = Mapping[str, float | int | None]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """Where an attempt starts."""

    progress: Progress
    url: str | None
    """The checkpoint, of another run for a fork; None if training starts from new weights."""
    rejected: Sequence[Rejected]
    """Newer folders that were skipped."""


@final
class Checkpointer:
    """The checkpoints of one attempt. All ranks call every method together, but `outcomes`.

    One save at a time; older checkpoints are not touched before the new manifest is published.
    """

    def __init__(
        self,
        recipe: Recipe,
        plan: Plan,
        *,
        fingerprint: str,
        tokenizer: str | None = None,
        attempt: int,
        run_url: str,
        mirror: LocalMirror,
        world: World,
        fence: Fence | None = None,
    ) -> None:
        self._config = recipe.checkpoint
        self._init_from = recipe.train.init_from
        self._plan = plan
        self._attempt = describe_attempt(recipe, plan, describe_data(recipe, fingerprint, tokenizer), attempt)
        self._run_url = run_url
        self._mirror = mirror
        self._fence = fence
        self._world = world
        self._beside = world.beside()
        self._stager = Stager(world.device)
        self._save: Save | None = None
        self._outcomes: list[Outcome] = []
        self._complete: dict[int, float | None] = {}
        self._failed, self._reason = 0, ""
        self.newest_url: str | None = None
        """Of the newest checkpoint: restored, or published since."""
        self.rollbacks = 0
        """In the whole run so far."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """After a failure, let the save in progress come to its end, if it can."""
        if error is not None and self._save is not None:
            self._save.wait(LAST_WAIT_S)

    def restore(self, engine: Engine, schedule: Schedule) -> Restored:
        """Load engine and schedule from the newest good checkpoint, if there is one.

        Raises UserError if it belongs to another run, or if there were some and none is good. Damaged ones
        are moved to RUN/quarantine, and what was submitted becomes the run's, only after all checks have
        passed: a resume that is refused changes nothing.
        """
        saved, rejected = self._newest()
        self.newest_url = saved.url if saved else None
        if saved is None and (lost := self._all_lost(rejected)) is not None:
            raise UserError(lost)
        progress, source = Progress(), saved
        if saved is not None:
            check_extensions(saved, self._plan)
            check_identity(saved, self._plan.parameters)
            check_data(saved, self._attempt.data)
            self._load(saved, engine, schedule)
            progress = Progress(saved.manifest.step, saved.manifest.data_step)
        elif self._init_from is not None:
            source = self._fork(self._init_from, engine)
        if self._world.is_main:
            self._mirror.accept()
            attempt(partial(files.abort_uploads, self._run_url))
            for bad in rejected:
                if bad.damaged:
                    quarantine(self._run_url, bad.url)
        return Restored(progress=progress, url=source.url if source else None, rejected=rejected)

    def _fork(self, place: str, engine: Engine) -> Saved:
        """Take over the weights of another run's checkpoint, and nothing else of it."""
        found = open_source(place, self._plan.parameters) if self._world.is_main else None
        source = self._world.from_main(found, _SAVED)
        assert source is not None, "rank 0 raises where there is none"
        if (first := self._find_damage(source)) is not None:
            raise UserError(Problem.at("train.init_from", f"{first.url}: {first.reason}"))
        engine.load(partial(restore_tensors, source.url, only=WEIGHTS))
        self._attempt = self._attempt.model_copy(update={"lineage": describe_lineage(source)})
        return source

    def _newest(self, before: int | None = None) -> tuple[Saved | None, Sequence[Rejected]]:
        """The newest good checkpoint (of a step below `before`), and the newer folders skipped."""
        # Rank 0 chooses for all: on a network file system two ranks may list different folders for a while,
        # and ranks that load different steps would train on without an error. All share the reading.
        rejected: list[Rejected] = []
        while True:
            look = partial(find_newest, self._run_url, verify=False, before=before)
            saved, skipped = self._world.from_main(look() if self._world.is_main else (None, []), _FOUND)
            rejected += skipped
            if saved is None:
                return None, rejected
            first = self._find_damage(saved)
            if first is None:
                return saved, rejected
            rejected.append(first)
            before = saved.step

    def _find_damage(self, saved: Saved) -> Rejected | None:
        """What is wrong in the files of a checkpoint. All ranks share the reading, and agree."""
        mine = verify_digests(saved, self._world.rank, self._world.size)
        if mine is None and self._world.is_main:
            mine = check_index(saved)
        told = self._world.gather(mine, _REJECTED)
        return next((found for found in told if found is not None), None)

    def _all_lost(self, rejected: Sequence[Rejected]) -> Problem | None:
        journal = self._mirror.folder / JOURNAL
        found = all_lost(self._run_url, rejected, journal) if self._world.is_main else None
        return self._world.from_main(found, _PROBLEM)

    def go_back(self, engine: Engine, schedule: Schedule, *, before: int, data_step: int) -> Progress | None:
        """Load the newest good checkpoint of a step below `before`, to read on from `data_step`.

        None if there is none. Its manifest says from then on where the data continues, so that a resume does
        the same. Newer checkpoints are moved to quarantine.
        """
        self.finish()
        saved, _ = self._newest(before)
        if saved is None:
            return None
        self._load(saved, engine, schedule)
        self.rollbacks += 1
        if self._world.is_main:
            self._complete.clear()
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
        self.newest_url = saved.url
        return Progress(saved.step, data_step)

    def _load(self, saved: Saved, engine: Engine, schedule: Schedule) -> None:
        self._attempt = self._attempt.model_copy(update={"lineage": saved.manifest.lineage})
        engine.load(partial(restore_tensors, saved.url))
        schedule.restore(saved.manifest.schedule.state, saved.manifest.schedule.total_steps)
        self.rollbacks = max(self.rollbacks, saved.manifest.rollbacks)

    def due(self, step: int) -> bool:
        """Whether a checkpoint is saved after a step."""
        return step % self._config.every == 0

    def save(
        self,
        progress: Progress,
        tensors: Mapping[str, torch.Tensor],
        schedule_state: ScheduleState,
        *,
        wait: bool,
    ) -> None:
        """Copy what is to be saved, and start to write it once the save before is over.

        `wait` for its end, where training ends with it. Raises StorageError where such a save fails, or too
        many in a row have failed; older checkpoints stay.
        """
        self.finish()
        step, data_step = progress.step, progress.data_step
        manifest = self._attempt.model_copy(
            update={
                "step": step,
                "data_step": data_step,
                "tokens": step * self._plan.batch.tokens_per_step,
                "rollbacks": self.rollbacks,
                "random": RandomEntry(seed=self._attempt.random.seed, data_step=data_step),
                "schedule": self._attempt.schedule.model_copy(update={"state": dict(schedule_state)}),
            }
        )
        url = step_folder(self._run_url, step)
        staged = self._stager.stage(tensors)
        self._save = Save(
            self._beside,
            staged,
            manifest,
            url=url,
            mirror=self._mirror,
            config=self._config,
            fence=self._fence,
            known=self._complete,
        )
        if wait or not self._config.asynchronous:
            self.finish()
        if wait and self._failed:
            raise StorageError(f"step {step} could not be saved: {self._reason}")

    def finish(self) -> None:
        """Wait for the save in progress. Raises StorageError where too many in a row have failed."""
        self._collect()
        if self._failed > self._config.max_failures:
            raise StorageError(f"{self._failed} saves in a row have failed, the last one: {self._reason}")

    def outcomes(self) -> Sequence[Outcome]:
        """Of saves that have ended since the last call. Waits for nothing."""
        if self._save is not None and self._save.is_over:
            self._collect()
        ended, self._outcomes = self._outcomes, []
        return ended

    def _collect(self) -> None:
        save, self._save = self._save, None
        if save is None:
            return
        outcome = save.outcome()
        self._outcomes.append(outcome)
        self._failed = self._failed + 1 if outcome.url is None else 0
        self._reason = outcome.reason
        self.newest_url = outcome.url or self.newest_url
