"""The manifest: what a checkpoint contains, and the mark that it is complete. Torch-free.

Written last and published whole. Writer and reader share the types below. It ends with a digest of itself: a
manifest with a missing, unknown or changed value is damaged, even if everything else in it is right.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from launcher.errors import Problem, UserError
from launcher.json_text import dump_json, load_json

FORMAT = 6
MANIFEST = "manifest.json"


class NewerFormatError(UserError):
    """A manifest that only a newer version can read: not damaged, and not to be treated as such."""


class Entry(BaseModel):
    """A typed part of a manifest: no unknown keys, and none left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(Entry):
    """One file of the checkpoint's folder."""

    bytes: int
    sha256: str


class ParameterEntry(Entry):
    """Role of a parameter under μP, and its multipliers. Format 1 did not record the first two."""

    role: str | None
    ssm: str | None
    """Which tensor of a state-space layer it is; None for any other parameter."""
    init: float
    forward: float
    gradient: float
    lr: float
    weight_decay: float
    eps: float


class DataEntry(Entry):
    """What the samples and their order depend on, besides the data step."""

    fingerprint: str
    seed: int
    global_batch_size: int
    seq_len: int
    truncated_bptt: bool = False
    max_chars: int | None = None
    documents: str = "joined"
    tokenizer: str | None = None
    """sha256 of the tokenizer's file, where the data have one."""


class RandomEntry(Entry):
    """The whole random state: every step seeds its generators from (seed, data_step, rank)."""

    seed: int
    data_step: int


class ScheduleEntry(Entry):
    """The schedule's section, the length of the run, and what the schedule remembers of validation losses."""

    config: dict[str, Any]
    total_steps: int
    state: dict[str, float | int | None]


class ExtensionEntry(Entry):
    """Which code an extension was."""

    version: str
    digest: str


class LineageEntry(Entry):
    """A checkpoint that a run was forked from."""

    url: str
    step: int
    tokens: int
    manifest_sha256: str


class Manifest(Entry):
    """Everything that a resume needs or checks, and the version that wrote it."""

    format: Literal[2, 3, 4, 5, 6] = 6
    written_by: str
    step: int
    data_step: int
    tokens: int
    rollbacks: int = 0
    """In the whole run so far. Format 2 had none."""
    lineage: LineageEntry | None = None
    """The checkpoint of another run whose weights this one started with. Formats 2 and 3 had none."""
    attempt: int
    engine: str
    strategy: str | None
    zero_stage: int | None
    world_size: int
    random: RandomEntry
    schedule: ScheduleEntry
    data: DataEntry
    recipe: str
    """The resolved recipe as text."""
    files: dict[str, FileEntry]
    base_shapes_hash: str
    base_shapes: dict[str, tuple[int | None, ...]]
    parameters: dict[str, ParameterEntry]
    tuned: dict[str, float] | None = None
    """Factors of the recipe's own, by key: all of mup.multipliers, mup.init_scale and optim.rates. Formats up
    to 4 had none."""
    extensions: dict[str, ExtensionEntry] = {}
    """By the recipe's names. Formats up to 5 had none."""


def manifest_text(manifest: Manifest) -> str:
    """The manifest as the text of a file, with its digest at the end."""
    content = manifest.model_dump(mode="json")
    return dump_json(content | {"digest": _digest(content)}, indent=1) + "\n"


def parse_manifest(text: str, place: str) -> Manifest:
    """Inverse of manifest_text; reads format 1 as well.

    Raises ValueError that says what is damaged, and NewerFormatError.
    """
    try:
        content = load_json(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict) or not isinstance(found := content.get("format"), int):
        raise ValueError("it has no format")
    # Before the digest: how a newer version computes it is not known here. If this were counted as damage, a
    # resume with an old version would move good checkpoints to quarantine.
    if found > FORMAT:
        writer = content.get("written_by", "a newer version")
        message = f"has manifest format {found}, written by {writer}; this version reads up to {FORMAT}"
        raise NewerFormatError(
            Problem(place, message, "continue with the version that wrote it, or a newer one")
        )
    if found == 1:  # it has no digest
        content = _from_format_1(content)
    elif content.pop("digest", None) != _digest(content):
        raise ValueError("its digest is not that of its content")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _digest(content: Mapping[str, Any]) -> str:
    """sha256 of the content, independent of spacing and the order of keys."""
    # A flipped bit in "step" would still be valid JSON of the right types, and nothing else protects the
    # manifest. So its content, parsed and without the digest, is hashed in one fixed form: keys sorted, no
    # blanks, ASCII. {"step": 40, "seed": 1} and {"seed":1,"step":40} have the same digest. Not dump_json:
    # any change of this form would make every stored manifest look damaged.
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _from_format_1(content: Mapping[str, Any]) -> dict[str, Any]:
    """Convert to the current format. In format 1, data steps and optimizer steps were one number.

    Raises ValueError for a missing key.
    """
    try:
        step, data, schedule = content["step"], dict(content["data"]), dict(content["schedule"])
        data.pop("position")
        kept = {key: content[key] for key in _SINCE_FORMAT_1}
        state, total_steps = schedule.pop("state"), schedule.pop("total_steps")
        return kept | {
            "written_by": "mulaunch 0.1.0",
            "data_step": step,
            "random": {"seed": content["rng"]["seed"], "data_step": step},
            "schedule": {"config": schedule, "total_steps": total_steps, "state": state},
            "data": data,
            "parameters": {
                name: {"role": None, "ssm": None, **scaling} for name, scaling in content["scalings"].items()
            },
        }
    except KeyError as error:
        raise ValueError(f"{error.args[0]}: Field required") from None


_SINCE_FORMAT_1 = (
    *("step", "tokens", "attempt", "engine", "strategy", "zero_stage", "world_size"),
    *("recipe", "files", "base_shapes_hash", "base_shapes"),
)
