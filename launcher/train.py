"""The loop. Everything that happens to a model in training happens on this page."""

import sys
import time
from dataclasses import dataclass
from functools import partial

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
from launcher.data.batches import Batches, held_out_batches, held_out_windows
from launcher.data.corpus import open_corpus
from launcher.engine import open_engine
from launcher.optim.schedule import Schedule
from launcher.plan.plan import group_rates, make_plan
from launcher.plan.record import checkpoint_record, data_record, scaling_records
from launcher.recipe.schema import Recipe
from launcher.run_folder import ARTIFACTS, Spool, next_attempt
from launcher.track.feed import FeedStatus
from launcher.track.meter import StepMeter
from launcher.track.mlflow import MlflowTarget
from launcher.track.record import AttemptRecord, EvalRecord
from launcher.track.tracker import Tracker
from launcher.world import World, seed_step
from models.config import max_chars


@dataclass(frozen=True, slots=True)
class Result:
    """Where a training ended."""

    step: int
    checkpoint_url: str
    mlflow: FeedStatus | None


def train(recipe: Recipe, run_url: str, world: World, *, spool: Spool, mlflow: MlflowTarget | None) -> Result:
    """Train a run from its newest good checkpoint, or from the start, to its last step.

    All resumable state is in `engine`, `schedule` and `step`: batches and random numbers are pure functions
    of (seed, step).
    """
    plan = make_plan(recipe)
    parameters = plan.parameters
    _, engine = open_engine(recipe, plan, world)
    corpus = open_corpus(recipe.data, recipe.model.vocab_size, max_chars(recipe.model))
    check_same_data(world.gather(corpus.fingerprint))
    streams = recipe.train.truncated_bptt
    batches = Batches(
        corpus.train,
        global_batch_size=plan.batch.global_batch_size,
        micro_batch_size=plan.batch.micro_batch_size,
        rank=world.rank,
        world_size=world.size,
        seed=recipe.seed,
        prefetch=recipe.data.prefetch,
        streams=streams,
    )
    windows = held_out_windows(
        corpus.held_out, recipe.train.eval_sequences, plan.batch.global_batch_size if streams else None
    )
    held_out = list(
        held_out_batches(
            corpus.held_out,
            windows,
            micro_batch_size=plan.batch.micro_batch_size,
            rank=world.rank,
            world_size=world.size,
            streams=streams,
        )
    )

    # Drawing samples anew takes time: only for the rank that tells.
    baselines = corpus.held_out.baselines(windows.ravel()) if world.is_main else {}

    schedule = Schedule(recipe.schedule, plan.steps)
    step = 0
    saved, rejected = choose_checkpoint(run_url, world)
    if saved is not None:
        check_identity(
            saved, parameters.base_shapes, parameters.base_shapes_hash, scaling_records(parameters)
        )
        check_data(saved, data_record(recipe, plan, corpus.fingerprint))
        engine.load(partial(restore_tensors, saved))
        schedule.restore(saved_schedule(saved))
        step = saved.step

    attempt = world.from_main(next_attempt(spool.folder) if world.is_main else 0)
    tracker = Tracker(
        spool.folder,
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
    tracker.say(f"data: {corpus.description}")
    tracker.say(f"attempt {attempt} starts " + (f"from {saved.url}" if saved else "from step 0"))

    meter = StepMeter(plan.batch.tokens_per_step, {g.name: g.parameters for g in parameters.groups})
    with tracker:
        while step < plan.steps:
            factor = schedule.factor(step)
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
            if held_out and (last or (recipe.train.eval_every and step % recipe.train.eval_every == 0)):
                start = time.perf_counter()
                found = engine.evaluate(held_out)
                seconds = time.perf_counter() - start
                if not last and schedule.observe(found.loss):
                    tracker.say(
                        f"step {step}: held-out loss has not improved; rates are now x "
                        f"{schedule.factor(step):.4g}"
                    )
                tracker.log_eval(
                    EvalRecord(
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
                    fingerprint=corpus.fingerprint,
                    schedule_state=schedule.state(),
                )
                url = save_checkpoint(run_url, step=step, tensors=engine.state(), record=record, world=world)
                if world.is_main:
                    delete_old(run_url, recipe.checkpoint.keep)
                    spool.publish()
                seconds = time.perf_counter() - start
                tracker.checkpoint_saved(step, seconds, url)
                meter.exclude(seconds)

    batches.close()
    if world.is_main:
        spool.publish()
    return Result(step, step_folder(run_url, step), tracker.status)
