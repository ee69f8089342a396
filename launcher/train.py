"""The loop. Everything that happens to a model in training happens on this page."""

import sys
import time
from dataclasses import dataclass
from functools import partial

from launcher.assemble import open_engine
from launcher.checkpoint.manifest import step_folder
from launcher.checkpoint.restore import (
    check_data,
    check_identity,
    check_same_data,
    choose_checkpoint,
    restore_tensors,
    saved_schedule,
)
from launcher.checkpoint.save import delete_old, save_checkpoint
from launcher.data.batches import Batches, validation_batches, validation_windows
from launcher.data.splits import open_splits
from launcher.optim.schedule import Schedule
from launcher.plan.plan import group_rates, make_plan
from launcher.plan.plan_record import checkpoint_record, data_record, scaling_records
from launcher.recipe.schema import Recipe
from launcher.run_folder import ARTIFACTS, LocalMirror, next_attempt
from launcher.track.mlflow import MlflowTarget
from launcher.track.mlflow_sync import SyncStatus
from launcher.track.records import AttemptRecord, ValidationRecord
from launcher.track.step_metrics import StepMetrics
from launcher.track.tracker import Tracker
from launcher.world import World, seed_step
from models.config import max_chars


@dataclass(frozen=True, slots=True)
class Result:
    """Where a training ended."""

    step: int
    checkpoint_url: str
    mlflow: SyncStatus | None


def train(
    recipe: Recipe, run_url: str, world: World, *, mirror: LocalMirror, mlflow: MlflowTarget | None
) -> Result:
    """Train a run from its newest good checkpoint, or from the start, to its last step.

    All resumable state is in `engine`, `schedule` and `step`: batches and random numbers are pure functions
    of (seed, step).
    """
    plan = make_plan(recipe)
    parameters = plan.parameters
    _, engine = open_engine(recipe, plan, world)
    splits = open_splits(recipe.data, recipe.model.vocab_size, max_chars(recipe.model))
    check_same_data(world.gather(splits.fingerprint))
    streams = recipe.train.truncated_bptt
    batches = Batches(
        splits.train,
        global_batch_size=plan.batch.global_batch_size,
        micro_batch_size=plan.batch.micro_batch_size,
        rank=world.rank,
        world_size=world.size,
        seed=recipe.seed,
        prefetch=recipe.data.prefetch,
        streams=streams,
    )
    windows = validation_windows(
        splits.validation,
        recipe.train.validation_sequences,
        plan.batch.global_batch_size if streams else None,
    )
    validation = list(
        validation_batches(
            splits.validation,
            windows,
            micro_batch_size=plan.batch.micro_batch_size,
            rank=world.rank,
            world_size=world.size,
            streams=streams,
        )
    )

    # Drawing samples anew takes time: only for the rank that tells.
    baselines = splits.validation.baselines(windows.ravel()) if world.is_main else {}

    schedule = Schedule(recipe.schedule, plan.steps)
    step = 0
    saved, rejected = choose_checkpoint(run_url, world)
    if saved is not None:
        check_identity(
            saved, parameters.base_shapes, parameters.base_shapes_hash, scaling_records(parameters)
        )
        check_data(saved, data_record(recipe, plan, splits.fingerprint))
        engine.load(partial(restore_tensors, saved))
        schedule.restore(saved_schedule(saved))
        step = saved.step

    attempt = world.from_main(next_attempt(mirror.folder) if world.is_main else 0)
    tracker = Tracker(
        mirror.folder,
        rank=world.rank,
        attempt=attempt,
        total_steps=plan.steps,
        mlflow=mlflow,
        stream=sys.stdout,
    )
    tracker.start(
        AttemptRecord(
            from_step=step,
            run_name=recipe.name,
            run_dir=run_url,
            world_size=world.size,
            recipe=recipe.model_dump(mode="json"),
            artifacts=ARTIFACTS,
        )
    )
    for bad in rejected:
        tracker.event("checkpoint_rejected", {"url": bad.url, "reason": bad.reason, "damaged": bad.damaged})
        tracker.say(f"passed over {bad.url}: {bad.reason}")
    tracker.say(f"data: {splits.description}")
    tracker.say(f"attempt {attempt} starts " + (f"from {saved.url}" if saved else "from step 0"))

    meter = StepMetrics(plan.batch.tokens_per_step, {g.name: g.parameters for g in parameters.groups})
    with tracker:
        while step < plan.steps:
            factor = schedule.lr_multiplier(step)
            seed_step(recipe.seed, step, world.rank)
            log = (step + 1) % recipe.track.log_every == 0 or step + 1 == plan.steps
            loss, norms = engine.train_step(batches.at(step), factor, measure=log)
            meter.add(norms, batches.wait_s)
            step += 1
            last = step == plan.steps

            if log:
                rates = group_rates(plan, factor)
                lr = recipe.optim.lr * factor
                tracker.log_step(
                    meter.record(step, loss=engine.average(loss), lr=lr, lr_group=rates, norms=norms)
                )
            if validation and (
                last or (recipe.train.validate_every and step % recipe.train.validate_every == 0)
            ):
                start = time.perf_counter()
                found = engine.evaluate(validation)
                seconds = time.perf_counter() - start
                if not last and schedule.observe(found.loss):
                    tracker.say(
                        f"step {step}: validation loss has not improved; rates are now x "
                        f"{schedule.lr_multiplier(step):.4g}"
                    )
                tracker.log_validation(
                    ValidationRecord(
                        step=step,
                        loss=found.loss,
                        accuracy=found.accuracy,
                        baselines=baselines,
                        sequences=windows.size,
                        seconds=seconds,
                    )
                )
                meter.exclude(seconds)
            if step % recipe.checkpoint.every == 0 or last:
                start = time.perf_counter()
                tracker.sync()
                record = checkpoint_record(
                    recipe,
                    plan,
                    step=step,
                    attempt=attempt,
                    fingerprint=splits.fingerprint,
                    schedule_state=schedule.state(),
                )
                url = save_checkpoint(run_url, step=step, tensors=engine.state(), record=record, world=world)
                if world.is_main:
                    delete_old(run_url, recipe.checkpoint.keep)
                    mirror.publish()
                seconds = time.perf_counter() - start
                tracker.checkpoint_saved(step, seconds, url)
                meter.exclude(seconds)

    batches.close()
    if world.is_main:
        mirror.publish()
    return Result(step, step_folder(run_url, step), tracker.status)
