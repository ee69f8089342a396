"""How one node's part of an attempt ended, left by its agent for the job's supervisor. Torch-free."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from launcher import files
from launcher.ending import ENDINGS
from launcher.guard.cause import CONSEQUENCES, STOPS, Cause
from launcher.json_text import dump_json, load_json


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AgentWord:
    """What the agent of a node takes for the first cause; it has read the words of all ranks."""

    host: str
    cause: Cause
    time: float
    """Seconds since the epoch."""


def write_word(folder: Path, word: AgentWord) -> None:
    """Leave it in the attempt's folder."""
    record = {"host": word.host, "time": word.time, **asdict(word.cause)}
    files.write_text(str(folder / _FOLDER / f"{word.host}.json"), dump_json(record) + "\n")


_FOLDER = "agents"
"""Of its own: it is looked into while thousands of ranks write their files beside it."""


def read_agent_words(folder: Path) -> list[AgentWord]:
    """Those of all nodes that left one, earliest first. A file that is not one is passed over."""
    found = (_parse(path) for path in (folder / _FOLDER).glob("[!.]*.json"))
    return sorted((word for word in found if word is not None), key=lambda word: word.time)


def _parse(path: Path) -> AgentWord | None:
    try:
        fields: dict[str, Any] = load_json(path.read_bytes())
        word = AgentWord(host=fields.pop("host"), time=fields.pop("time"), cause=Cause(**fields))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return word if word.cause.ending in ENDINGS else None


def first_of(words: Sequence[AgentWord]) -> Cause | None:
    """The cause of an attempt from the words of its nodes; None without any."""
    causes = [word.cause for word in words]
    other = [cause for cause in causes if cause.ending not in (*CONSEQUENCES, *STOPS, *_ASKED, "done")]
    lost = [cause for cause in causes if cause.ending in CONSEQUENCES]
    return next(iter([*other, *lost, *(cause for cause in causes if cause.ending != "done"), *causes]), None)


_ASKED = ("preempted", "stopped by user")
