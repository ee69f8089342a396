"""What becomes of a run whose updates were skipped: a record, a step back, or an end.

Whether an update is skipped is decided on the device (launcher/parallel/update_guard.py); this is the part of
the host.
"""

import contextlib
from typing import final

from launcher.checkpoint.checkpointer import Checkpointer
from launcher.clock import Clock
from launcher.data.batches import Batches
from launcher.ending import NonFiniteError
from launcher.guard.config import GuardConfig
from launcher.guard.replay import Replay
from launcher.guard.state_check import check_finite, check_replicas
from launcher.optim.schedule import Schedule
from launcher.parallel.engine import Engine, EngineState
from launcher.parallel.update_guard import Agreed
from launcher.progress import Progress
from launcher.track.tracker import Tracker
from launcher.world import World


@final
class Guard:
    """Counts skipped updates one step late, alike on all ranks, so that the host never waits for a step."""

    def __init__(
        self,
        config: GuardConfig,
        engine: Engine,
        schedule: Schedule,
        batches: Batches,
        saver: Checkpointer,
        tracker: Tracker,
        clock: Clock,
        world: World,
    ) -> None:
        self._config = config
        self._engine = engine
        self._schedule = schedule
        self._replay = Replay(engine, batches, world)
        self._saver = saver
        self._world = world
        self._tracker = tracker
        self._clock = clock
        self._start = -1
        self._skips = engine.guard.settled().skips

    def settle(self, progress: Progress) -> Progress:
        """Before the next step: from where to train on.

        Raises NonFiniteError after more rollbacks than the recipe allows.
        """
        if self._start < 0:
            self._start = progress.step
        if progress.step == self._start:
            return progress
        # It was copied when the last step, number `progress.step`, began: it is about the one before.
        return self._look(progress, self._engine.guard.agreed(), lag=1)

    def good_state(self, progress: Progress) -> EngineState:
        """What is to be saved, and may be: finite, and equal on all replicas.

        Waits for the last step: that it was skipped is in the journal before a checkpoint counts it.
        Raises NonFiniteError and ReplicasDifferError, on all ranks; then nothing is saved.
        """
        self._record_all(progress)
        check_replicas(self._engine, self._world)
        state = self._engine.state()
        check_finite(state, self._world)
        return state

    def finish(self, progress: Progress, total_steps: int) -> None:
        """After the last step, whose update may have been skipped as well.

        Raises NonFiniteError where a run would be done whose last updates were not applied.
        """
        now = self._record_all(progress)
        if progress.step == total_steps and now.skips_in_row >= self._config.max_skips:
            raise NonFiniteError(f"the last {now.skips_in_row} updates could not be applied")

    def _record_all(self, progress: Progress) -> Agreed:
        """Tell of what was skipped up to the last step, as of now."""
        now = self._engine.guard.settled()
        if progress.step > self._start:
            self._record(progress, self._engine.guard.agreed(), lag=1)
            self._record(progress, now, lag=0)
        return now

    def _look(self, progress: Progress, agreed: Agreed, *, lag: int) -> Progress:
        self._record(progress, agreed, lag=lag)
        if agreed.skips_in_row < self._config.max_skips:
            return progress
        return self._go_back(progress, first=progress.step - lag - agreed.skips_in_row + 1)

    def _record(self, progress: Progress, agreed: Agreed, *, lag: int) -> None:
        """Tell of one more skipped update, if there is one."""
        if agreed.skips <= self._skips:  # nothing new, or older than what was asked for before a save
            return
        self._skips = agreed.skips
        step, data_step = progress.step - lag, progress.data_step - 1 - lag
        fields: dict[str, object] = {"step": step, "data_step": data_step, "skips": agreed.skips}
        if agreed.bad_losses:
            fields["bad_losses"] = agreed.bad_losses
        if agreed.skips_in_row == 1:
            # It is like a validation, and may take as long; before a save, it is part of that.
            with contextlib.nullcontext() if self._clock.is_inside else self._clock.phase("validation"):
                found = self._replay.run(data_step)
            fields |= found.as_fields()
            self._tracker.say(f"step {step}: the update is not applied; {found.text}")
        self._tracker.event("skipped", fields)

    def _go_back(self, progress: Progress, *, first: int) -> Progress:
        """To the newest checkpoint from before step `first`, and past all data read so far."""
        said = f"no update could be applied since step {first}"
        if self._saver.rollbacks >= self._config.max_rollbacks:
            raise NonFiniteError(f"{said}, after {self._saver.rollbacks} rollbacks")
        with self._clock.phase("checkpoint"):
            back = self._saver.go_back(
                self._engine, self._schedule, before=first, data_step=progress.data_step
            )
        if back is None:
            raise NonFiniteError(f"{said}, and there is no checkpoint to go back to")
        self._engine.guard.forget_row()
        self._skips, self._start = self._engine.guard.settled().skips, back.step
        place = {"from_step": back.step, "step": back.step, "data_step": back.data_step}
        self._tracker.event("rollback", place | {"rollbacks": self._saver.rollbacks})
        self._tracker.say(f"{said}: back to step {back.step}; its data and all since are passed over")
        return back
