"""The training loop. Everything that happens to a model in training happens on this page.

Set-up of objects, then a `while`; no hooks. A new feature adds one object to the set-up and at most two lines
to the loop. If it seems to need a third, it either only needs to know where the loop is, and asks the clock,
whose phases are a closed set; or it is part of the step, in Engine.train_step.
"""

from launcher.checkpoint.checkpointer import Checkpointer
from launcher.clock import Clock
from launcher.data.open_data import open_data
from launcher.guard.guard import Guard
from launcher.guard.stop import StopRequests
from launcher.optim.schedule import Schedule
from launcher.parallel.open_engine import open_engine
from launcher.plan.plan import make_plan
from launcher.recipe.schema import Recipe
from launcher.run_folder import LocalMirror
from launcher.track.diagnosis import Diagnosis
from launcher.track.mlflow import MlflowTarget
from launcher.track.open_tracker import Result, open_tracker
from launcher.track.step_metrics import make_metrics, validation_record
from launcher.world import World, seed_step


def train(
    recipe: Recipe,
    run_url: str,
    world: World,
    *,
    stop: StopRequests,
    clock: Clock,
    mirror: LocalMirror,
    mlflow: MlflowTarget | None,
) -> Result:
    """Train a run from its newest good checkpoint, or from the start, to its last step.

    Raises StopRequested after the save that a stop request asks for.
    All resumable state is in `engine`, `schedule` and `progress`: batches and random numbers are pure
    functions of (seed, data_step).
    """
    with open_tracker(recipe, run_url, world, mirror=mirror, mlflow=mlflow) as tracker:
        plan = make_plan(recipe, world.size)
        # Data before the model: a large model takes minutes to build, and the data may not fit it.
        with (
            open_data(recipe, plan, world) as data,
            Checkpointer(
                recipe,
                plan,
                fingerprint=data.fingerprint,
                tokenizer=data.tokenizer,
                attempt=tracker.attempt,
                run_url=run_url,
                mirror=mirror,
                world=world,
                fence=tracker.fence,
            ) as saver,
        ):
            tracker.read(data.description, data.fingerprint, recipe.data.source.model_dump(mode="json"))
            _, engine = open_engine(recipe, plan, world)
            schedule = Schedule(recipe.schedule, plan.steps)
            restored = saver.restore(engine, schedule)
            progress = restored.progress
            tracker.begin(progress, restored.url, restored.rejected, plan.peak.total)

            guard = Guard(recipe.guard, engine, schedule, data.batches, saver, tracker, clock, world)
            metrics = make_metrics(recipe, plan, world, clock)
            diagnosis = Diagnosis(recipe.track.diagnosis, engine, tracker, world)
            finished = ending = progress.step == plan.steps
            while not ending:
                progress = guard.settle(progress)
                log = tracker.due(progress.step + 1)
                with clock.phase("data", progress.step + 1):
                    micro_batches = data.batches.at(progress.data_step)
                with clock.phase("step"):
                    seed_step(recipe.seed, progress.data_step, world.rank)
                    lr_multiplier = schedule.lr_multiplier(progress.step)
                    taken = engine.train_step(micro_batches, lr_multiplier, measure=log, stop=stop.asked)
                metrics.add(taken)
                progress = progress.after_step()
                finished = progress.step == plan.steps
                ending = stop.agree(taken.agreed.stop) or finished

                if log:
                    with clock.phase("log"):
                        tracker.log_step(metrics.record(progress.step, taken, engine.average(taken.loss)))
                validate = data.validation.due(progress.step)
                if validate or (finished and data.validation.parts):
                    with clock.phase("validation") as blocked:
                        found = data.validation.score(engine.evaluate)
                        diagnosis.run(progress.step, micro_batches)
                    if validate and schedule.observe(found.loss):
                        tracker.lr_reduced(progress.step, schedule.lr_multiplier(progress.step))
                    record = validation_record(progress.step, found, data.validation, blocked.seconds)
                    tracker.log_validation(record)
                if saver.due(progress.step) or ending:
                    with clock.phase("checkpoint") as blocked:
                        tracker.sync()
                        saver.save(progress, guard.good_state(progress), schedule.state(), wait=ending)
                    tracker.saving(progress.step, blocked.seconds)
                tracker.saves_ended(saver.outcomes())
            guard.finish(progress, plan.steps)
            stop.finish(progress.step, plan.steps)
    assert saver.newest_url is not None, "a run ends with a checkpoint of its last step"
    return Result(progress.step, saver.newest_url, tracker.status)
