"""The checkpoints of a run: which exist, which are good, which are deleted. Torch-free.

A folder without a valid manifest is not a checkpoint.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher import files
from launcher.checkpoint.config import CheckpointConfig
from launcher.checkpoint.manifest import MANIFEST, Manifest, NewerFormatError, parse_manifest
from launcher.errors import Problem, UserError
from launcher.run_folder import is_run
from launcher.track.journal import read_events

_STEP_FOLDER = re.compile(r"step-(\d{10})")


@dataclass(frozen=True, slots=True)
class Saved:
    """One checkpoint: its folder and its manifest."""

    url: str
    manifest: Manifest

    @property
    def step(self) -> int:
        """Optimizer steps completed."""
        return self.manifest.step


@dataclass(frozen=True, slots=True)
class Rejected:
    """A step folder that is not a good checkpoint, and why.

    `damaged`: it was published and has changed since. False for a save that never finished.
    """

    url: str
    reason: str
    damaged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a save ended."""

    step: int
    url: str | None
    """None where it failed; then nothing of it is left."""
    reason: str = ""
    """Why it failed; or, of one that did not, what storage refused afterwards."""
    write_s: float


def step_folder(run_url: str, step: int) -> str:
    """URL of the checkpoint folder of a step."""
    return files.join(run_url, "checkpoints", _step_name(step))


def _step_name(step: int) -> str:
    return f"step-{step:010d}"


def list_steps(run_url: str) -> list[int]:
    """Steps with a checkpoint folder, complete or not, oldest first."""
    names = files.list_names(files.join(run_url, "checkpoints"))
    return sorted(int(match[1]) for name in names if (match := _STEP_FOLDER.fullmatch(name)))


def read_checkpoint(url: str) -> Saved | Rejected:
    """Read a step folder's manifest and check that every file is there at its size; digests are not read.

    Raises NewerFormatError.
    """
    # The manifest is written last. Without one the save was interrupted, which is expected after a crash.
    # With one, anything that is wrong is damage.
    path, there = files.join(url, MANIFEST), files.list_sizes(url)
    if MANIFEST not in there:
        return Rejected(url, "no manifest: the save never finished", damaged=False)
    if there[MANIFEST] is None:  # a pipe would be read for ever
        return Rejected(url, "the manifest cannot be read: it is not a file", damaged=True)
    try:
        manifest = parse_manifest(files.read_text(path), path)
    except (ValueError, IsADirectoryError) as error:
        return Rejected(url, f"the manifest cannot be read ({error})", damaged=True)
    name = url.rsplit("/", 1)[-1]
    if _STEP_FOLDER.fullmatch(name) and name != _step_name(manifest.step):
        return Rejected(url, f"its manifest is that of step {manifest.step}", damaged=True)
    # Sizes come with the listing, and already find truncated and missing files. Reading terabytes to compare
    # digests is left to verify_digests.
    for name, entry in manifest.files.items():
        if "/" in name or name in (".", ".."):
            return Rejected(url, f"its manifest names {name!r}, which is elsewhere", damaged=True)
        if (size := there.get(name)) is None:
            return Rejected(url, f"{name} is missing, or is not a file", damaged=True)
        if size != entry.bytes:
            return Rejected(url, f"{name} has {size} bytes instead of {entry.bytes}", damaged=True)
    return Saved(url, manifest)


def verify_digests(saved: Saved, part: int = 0, parts: int = 1) -> Rejected | None:
    """Read every file and compare its digest with the manifest's; None when all agree.

    Of several `parts`, reads only this one: with 8 files in 4 parts, part 1 has files 1 and 5.
    """
    for name, entry in sorted(saved.manifest.files.items())[part::parts]:
        if (digest := digest_file(files.join(saved.url, name))) != entry.sha256:
            return Rejected(
                saved.url, f"{name} has digest {digest[:12]}..., not the manifest's", damaged=True
            )
    return None


def find_newest(
    run_url: str, *, verify: bool, before: int | None = None
) -> tuple[Saved | None, list[Rejected]]:
    """The newest good checkpoint of a run (of a step below `before`), and the newer folders skipped."""
    rejected: list[Rejected] = []
    # Newest first, and stop at the first good one: normally the digests of one checkpoint only are computed.
    # Say 10 and 20 are good, 30 has a flipped bit and 40 has no manifest: the result is 20, with 40 and 30
    # rejected.
    steps = [step for step in list_steps(run_url) if before is None or step < before]
    for step in reversed(steps):
        found = read_checkpoint(step_folder(run_url, step))
        if isinstance(found, Saved):
            bad = verify_digests(found) if verify else None
            if bad is None:
                return found, rejected
            found = bad
        rejected.append(found)
    return None, rejected


def open_saved(place: str, step: int | None = None) -> Saved:
    """A checkpoint, or one of a run: of a step, or the newest good one. Raises UserError."""
    url = files.absolute(place)
    if step is not None:
        steps = list_steps(url)
        if step not in steps:
            known = ", ".join(map(str, steps[-8:]))
            remedy = f"there are {known}" if steps else "leave it out for the folder of a checkpoint"
            raise UserError(Problem(f"--step {step}", f"{place} has no checkpoint of this step", remedy))
        return open_saved(step_folder(url, step))
    if files.exists(files.join(url, MANIFEST)):
        found = read_checkpoint(url)
        if isinstance(found, Rejected):
            raise UserError(Problem(files.shortest(url), found.reason, "take another checkpoint"))
        return found
    if not is_run(url):
        raise UserError(
            Problem(place, "is neither a checkpoint nor a run", "give a folder with a manifest.json")
        )
    saved, rejected = find_newest(url, verify=False)
    if saved is None:
        reasons = "".join(f"; {files.shortest(bad.url)}: {bad.reason}" for bad in rejected[:3])
        raise UserError(Problem(files.shortest(url), f"has no good checkpoint{reasons}", "train it further"))
    return saved


def open_verified(place: str, step: int | None = None) -> Saved:
    """As open_saved, and read whole: raises UserError for a file that is not as it was written."""
    saved = open_saved(place, step)
    if (bad := verify_digests(saved)) is not None:
        raise UserError(Problem(bad.url, bad.reason, "take another checkpoint: launch verify RUN"))
    return saved


def all_lost(run_url: str, rejected: Sequence[Rejected], journal: Path) -> Problem | None:
    """The problem of a run that has saved checkpoints and has no good one: to start over is never guessed."""
    records = read_events(journal, "checkpoint") if journal.exists() else ()
    steps = [record["step"] for record in records]
    if not steps:
        return None
    short = files.shortest(run_url)
    bad = "".join(f"; {files.shortest(bad.url)}: {bad.reason}" for bad in rejected[:3])
    message = f"step {max(steps)} was saved, and no good checkpoint is left{bad}"
    remedy = f"put a copy back, or start over in a new folder: launch resume {short} --fresh"
    return Problem(short, message, remedy)


def digest_file(url: str) -> str:
    """sha256 of one file, read in pieces of 4 MiB: a shard can be larger than memory."""
    digest = hashlib.sha256()
    with files.open_binary(url) as stream:
        while piece := stream.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def clear_place(run_url: str, url: str) -> None:
    """Make room for a save: an unfinished one is deleted, a published one is moved to quarantine."""
    there = files.list_sizes(url)
    if not there and (files.local_path(url) is None or not files.exists(url)):
        return
    # A published checkpoint of this very step exists if the run went back to an earlier step and got here
    # again. It may be the better of the two, so a person decides what to do with it.
    try:
        published = MANIFEST in there and isinstance(read_checkpoint(url), Saved)
    except NewerFormatError:
        published = True
    if published:
        quarantine(run_url, url)
    else:
        files.remove(url)


def delete_old(run_url: str, config: CheckpointConfig, known: dict[int, float | None]) -> list[int]:
    """Delete all complete checkpoints but the newest `keep`, and others that the recipe keeps.

    Returns the steps deleted. `known` are complete, with their validation losses, and are not read again in a
    remote run; what is read is added.

    Folders newer than the oldest one kept are not touched, whatever is in them, and neither are checkpoints
    of a newer format.
    """
    # Only complete checkpoints count. keep 2, with 10, 20 and 40 complete and 5 and 30 unfinished: 20 and 40
    # are kept, 5 and 10 are deleted, and 30 stays. Counting 30 would have cost the good 20.
    steps, local = list_steps(run_url), files.local_path(run_url) is not None
    complete: dict[int, float | None] = {}
    for step in tuple(steps):
        if step in known and not local:
            complete[step] = known[step]
            continue
        try:
            found = read_checkpoint(step_folder(run_url, step))
        except NewerFormatError:  # a resume with an older version passed it by; its writer may come back
            steps.remove(step)
            continue
        if isinstance(found, Saved):
            complete[step] = known[step] = found.manifest.schedule.state.get("validation_loss")
    if len(complete) <= config.keep:
        return []
    oldest_kept = list(complete)[-config.keep]
    every = config.keep_every
    marked = {step for step in complete if every is not None and step % every == 0}
    losses = {step: loss for step, loss in complete.items() if loss is not None and config.keep_best}
    marked |= {min(losses, key=lambda step: (losses[step], -step))} if losses else set()
    old = [step for step in steps if step < oldest_kept and step not in marked]
    for step in old:
        files.remove(step_folder(run_url, step))
    return old


def quarantine(run_url: str, url: str) -> str:
    """Move a checkpoint to RUN/quarantine with all its files; returns its new URL."""
    name = url.rsplit("/", 1)[-1]
    place = files.join(run_url, "quarantine")
    number = sum(other.startswith(name) for other in files.list_names(place)) + 1
    files.make_folder(place)
    target = files.join(place, f"{name}.{number}")
    files.move(url, target)
    return target
