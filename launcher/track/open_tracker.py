"""Open the tracker of an attempt: writes its first journal line, and its last one even after an error."""

import contextlib
import hashlib
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import TypeAdapter

from launcher.checkpoint.saving import attempt
from launcher.fence import RENEW_EVERY_S, Fence
from launcher.json_text import dump_json
from launcher.named_runs import name_of
from launcher.recipe.schema import Recipe
from launcher.run_folder import JOURNAL, LocalMirror, next_attempt
from launcher.track.mlflow import MlflowTarget
from launcher.track.mlflow_sync import SyncStatus
from launcher.track.records import AttemptRecord
from launcher.track.settle import last_attempt, settle_silent
from launcher.track.tracker import Tracker
from launcher.world import World


@dataclass(frozen=True, slots=True)
class Result:
    """Result of a training."""

    step: int
    checkpoint_url: str
    mlflow: SyncStatus | None


@contextlib.contextmanager
def open_tracker(
    recipe: Recipe, run_url: str, world: World, *, mirror: LocalMirror, mlflow: MlflowTarget | None
) -> Iterator[Tracker]:
    """The tracker of the attempt that starts now; opened before all else, so that any failure is recorded."""
    # Rank 0 counts the earlier starts before it writes its own, and the others must not count on their own:
    # by then the new line may be there.
    if world.is_main:
        settle_silent(mirror.folder / JOURNAL)
    number = world.from_main(next_attempt(mirror.folder) if world.is_main else 0, TypeAdapter(int))
    tracker = Tracker(
        mirror.folder,
        rank=world.rank,
        attempt=number,
        total_steps=recipe.train.steps,
        log_every=recipe.track.log_every,
        mlflow=mlflow,
        stream=sys.stdout,
        track=recipe.track,
        fence=Fence(run_url, number, mirror.job) if world.is_main else None,
    )
    submitted = mirror.environment() if world.is_main else {}
    commit = f"{submitted.get('commit') or ''}{'+' if submitted.get('dirty') else ''}"
    made_with = world.describe() | {"commit": commit}
    before = last_attempt(mirror.folder / JOURNAL) if world.is_main else None
    if before is not None and (changed := describe_change(before.made_with, made_with)):
        tracker.say(f"not made as the attempt before ({changed}): equal to the last digit only up to here")
    tracker.start(
        AttemptRecord(
            run_name=name_of(run_url),
            run_dir=run_url,
            world_size=world.size,
            recipe=recipe.model_dump(mode="json"),
            artifacts=mirror.artifacts,
            made_with=made_with,
            tags=_tags(recipe, made_with, mirror) if world.is_main else {},
            submitted=submitted.get("launch", {}).get("submitted"),
        )
    )
    stop = threading.Event()
    if tracker.fence is not None and mirror.is_remote:
        words = (mirror, tracker.fence, stop)
        threading.Thread(target=_publish_often, args=words, name="mirror", daemon=True).start()
    try:
        with tracker:
            yield tracker
    finally:
        stop.set()
        if tracker.fence is not None and tracker.fence.is_ours():
            mirror.publish()  # with the last line
            attempt(tracker.fence.release)


def _tags(recipe: Recipe, made_with: Mapping[str, str], mirror: LocalMirror) -> dict[str, str]:
    plan = mirror.plan()
    sizes = {
        "parameters": plan.get("num_parameters"),
        "tokens_per_step": plan.get("tokens_per_step"),
        "flops_per_token": plan.get("flops_per_token"),
        "base_shapes": plan.get("base_shapes_hash"),
        "job": mirror.job,
        # Of all values: runs with the same one differ by code, machine or chance.
        "recipe_hash": hashlib.sha256(dump_json(recipe.model_dump(mode="json")).encode()).hexdigest()[:16],
        # As MLflow's own pages call it; a plus says that there were uncommitted changes.
        "mlflow.source.git.commit": made_with.get("commit") or None,
    }
    known = {name: str(value) for name, value in sizes.items() if value is not None}
    return {"host": socket.gethostname(), "device": made_with["device"], "torch": made_with["torch"], **known}


def _publish_often(mirror: LocalMirror, fence: Fence, stop: threading.Event) -> None:
    """A process that is killed leaves a remote run without what it wrote since the last time."""
    while not stop.wait(RENEW_EVERY_S):
        # What the store refuses now it may take in a minute, and at the end.
        attempt(lambda: _publish_if_ours(mirror, fence))


def _publish_if_ours(mirror: LocalMirror, fence: Fence) -> None:
    if fence.is_ours():
        mirror.publish()
        fence.renew()


def describe_change(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What is not as it was; nothing for what earlier versions did not record."""
    return ", ".join(
        f"{name} {before[name]} then, {value} now"
        for name, value in now.items()
        if name in before and before[name] != value
    )
