"""The manifest: what a checkpoint is, and the mark that it is complete. Torch-free.

A folder without a valid manifest is no checkpoint. The manifest is written last and published whole.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from launcher import files

FORMAT = 1
MANIFEST = "manifest.json"
_STEP_FOLDER = re.compile(r"step-(\d{10})")


@dataclass(frozen=True, slots=True)
class Saved:
    """One checkpoint: its step, its folder and its manifest."""

    step: int
    url: str
    manifest: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Rejected:
    """A step folder that is no good checkpoint, and why. `damaged`: its manifest vouches for more."""

    url: str
    reason: str
    damaged: bool


def step_folder(run_url: str, step: int) -> str:
    """Where the checkpoint of a step lives."""
    return files.join(run_url, "checkpoints", f"step-{step:010d}")


def list_steps(run_url: str) -> list[int]:
    """Steps with a checkpoint folder, complete or not, oldest first."""
    names = files.list_names(files.join(run_url, "checkpoints"))
    return sorted(int(match[1]) for name in names if (match := _STEP_FOLDER.fullmatch(name)))


def read_manifest(url: str) -> Saved | Rejected:
    """Read a step folder's manifest and check that every file is there at its size; digests are not read."""
    path = files.join(url, MANIFEST)
    if not files.exists(path):
        return Rejected(url, "no manifest: the save never finished", damaged=False)
    try:
        manifest = json.loads(files.read_text(path))
        step, entries, found_format = manifest["step"], manifest["files"], manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        return Rejected(url, f"the manifest cannot be read ({error!r})", damaged=True)
    if found_format != FORMAT:
        return Rejected(url, f"manifest format {found_format}; this program reads {FORMAT}", damaged=False)
    for name, entry in entries.items():
        file_url = files.join(url, name)
        if not files.exists(file_url):
            return Rejected(url, f"{name} is missing", damaged=True)
        if (size := files.size(file_url)) != entry["bytes"]:
            return Rejected(url, f"{name} has {size} bytes instead of {entry['bytes']}", damaged=True)
    return Saved(step, url, manifest)


def verify_digests(saved: Saved) -> Rejected | None:
    """Read every file and compare its digest with the manifest's; None when all agree."""
    entries = saved.manifest["files"]
    assert isinstance(entries, dict), "read_manifest has checked it"
    for name, entry in entries.items():
        if (digest := digest_file(files.join(saved.url, name))) != entry["sha256"]:
            return Rejected(
                saved.url, f"{name} has digest {digest[:12]}..., not the manifest's", damaged=True
            )
    return None


def find_newest(run_url: str, *, verify: bool) -> tuple[Saved | None, list[Rejected]]:
    """The newest good checkpoint of a run, and the newer folders that were passed over."""
    rejected: list[Rejected] = []
    for step in reversed(list_steps(run_url)):
        found = read_manifest(step_folder(run_url, step))
        if isinstance(found, Saved):
            bad = verify_digests(found) if verify else None
            if bad is None:
                return found, rejected
            found = bad
        rejected.append(found)
    return None, rejected


def digest_file(url: str) -> str:
    """sha256 of one file, read in pieces."""
    digest = hashlib.sha256()
    with files.open_binary(url) as stream:
        while piece := stream.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def describe_files(url: str, names: list[str]) -> dict[str, dict[str, object]]:
    """Size and digest of some files of a folder, as the manifest keeps them."""
    return {
        name: {"bytes": files.size(files.join(url, name)), "sha256": digest_file(files.join(url, name))}
        for name in names
    }


def publish_manifest(url: str, manifest: Mapping[str, object]) -> None:
    """Write the manifest: from here on the folder is a checkpoint."""
    files.write_text(files.join(url, MANIFEST), json.dumps(manifest, indent=1))
