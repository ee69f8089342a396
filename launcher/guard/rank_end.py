"""How one rank ended, in its own words: a file that its agent reads after all ranks are gone. Torch-free."""

import socket
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from launcher import files
from launcher.ending import ENDINGS, REACTIONS, Ending, classify
from launcher.errors import StoreError, UserError
from launcher.json_text import dump_json, load_json

ROOT = Path(__file__).parents[2]
OURS = tuple(f"{ROOT / room}/" for room in ("launcher", "models", "cluster"))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RankEnd:
    """The end of one rank."""

    rank: int
    host: str
    ending: Ending
    message: str
    """Kind and text of the exception, or the problems that a user can fix."""
    place: str
    """Innermost file:line of ours."""
    time: float
    """Seconds since the epoch."""


def describe_end(rank: int, error: BaseException) -> RankEnd:
    """The end of this process by an exception."""
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    if isinstance(error, StoreError):
        text = f"{error.filename}: {error.strerror}"
    return RankEnd(
        rank=rank,
        host=socket.gethostname(),
        ending=classify(error),
        message=text,
        place=_innermost_place(error),
        time=time.time(),
    )


def _innermost_place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(OURS)]
    if not frames:
        return ""
    found = (ours or frames)[-1]
    return f"{found.filename.removeprefix(f'{ROOT}/')}:{found.lineno}"


def write_end(folder: str, end: RankEnd, error: BaseException) -> bool:
    """Leave it in a folder, with the whole traceback in a text file beside it; False if that is gone."""
    local = files.local_path(folder)
    if local is None:
        files.make_folder(folder)
    elif not local.is_dir():  # the agent made it: the run folder is no longer where it was
        return False
    if REACTIONS[end.ending].status == "FAILED":
        trace = "".join(traceback.format_exception(error))
        files.write_text(files.join(folder, f"rank-{end.rank}.traceback.txt"), trace)
    files.write_text(files.join(folder, f"rank-{end.rank}.json"), dump_json(asdict(end)) + "\n")
    return True


def read_ends(folder: str) -> Sequence[RankEnd]:
    """Those of all ranks that left one, earliest first. A file that is not one is passed over."""
    names = [name for name in files.list_names(folder) if name.startswith("rank-") and name.endswith(".json")]
    found = [_parse(files.read_bytes(files.join(folder, name))) for name in names]
    return sorted((end for end in found if end is not None), key=lambda end: end.time)


def _parse(data: bytes) -> RankEnd | None:
    try:
        record: dict[str, Any] = load_json(data)
        end = RankEnd(**record)
    except (ValueError, TypeError):
        return None
    return end if end.ending in ENDINGS else None
