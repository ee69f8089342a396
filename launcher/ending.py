"""How an attempt ended: one class for each cause that needs a different reaction. Torch-free.

The table is documented in docs/endings.md.
"""

import errno
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final, get_args

from launcher.errors import StoreError, UserError, is_cloud_error

Ending = Literal[
    "done",
    "bug",
    "config",
    "user error",
    "out of memory",
    "non-finite",
    "hang",
    "node lost",
    "storage",
    "replicas differ",
    "regrouped",
    "stopped by signal",
    "preempted",
    "time limit",
    "stopped by user",
]
"""A closed set; written into the journal's last line. A rank knows only that it was "stopped by signal". The
agent and the scheduler's script know who sent it and why, and write that."""
ENDINGS: tuple[Ending, ...] = get_args(Ending)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Reaction:
    """What follows from an ending."""

    code: int
    """Exit code of the attempt's process."""
    status: Literal["FINISHED", "FAILED", "KILLED"] = "FAILED"
    """In MLflow's words; KILLED is a requested stop."""
    retry: bool = False
    """Whether a new attempt in the same job may help."""
    requeue: bool = False
    """Whether a new attempt in a later job, perhaps on other nodes, may help."""


REACTIONS: Mapping[Ending, Reaction] = {
    "done": Reaction(code=0, status="FINISHED"),
    "bug": Reaction(code=1),
    "config": Reaction(code=2),
    "user error": Reaction(code=2),
    "out of memory": Reaction(code=10),
    "non-finite": Reaction(code=11),
    "hang": Reaction(code=12, retry=True, requeue=True),
    "node lost": Reaction(code=13, retry=True, requeue=True),
    "storage": Reaction(code=14, requeue=True),
    "replicas differ": Reaction(code=15, requeue=True),
    "regrouped": Reaction(code=19, status="KILLED", retry=True, requeue=True),
    # Nobody has said why: whoever sent the signal decides what follows.
    "stopped by signal": Reaction(code=16, status="KILLED"),
    "preempted": Reaction(code=17, status="KILLED", requeue=True),
    "time limit": Reaction(code=18, status="KILLED", requeue=True),
    "stopped by user": Reaction(code=130, status="KILLED"),
}


class EndingError(Exception):
    """An attempt that has to end, for a known reason. Subclasses fix the class."""

    ending: Ending


@final
class NonFiniteError(EndingError):
    """The model cannot be trained further: updates that are not finite, more than the guard allows."""

    ending: Ending = "non-finite"


@final
class HangError(EndingError):
    """A rank has stopped making progress."""

    ending: Ending = "hang"


@final
class NodeLostError(EndingError):
    """A rank or node ended without a word."""

    ending: Ending = "node lost"


@final
class StorageError(EndingError):
    """The run's storage refuses what must be written, or cannot be read."""

    ending: Ending = "storage"


@final
class ReplicasDifferError(EndingError):
    """Ranks that hold the same weights hold different ones."""

    ending: Ending = "replicas differ"


@final
class StopRequested(EndingError):  # noqa: N818 - not an error
    """Ends an attempt after a stop request: everything is saved."""

    def __init__(self, message: str, ending: Ending = "stopped by signal") -> None:
        super().__init__(message)
        self.ending = ending


def classify(error: BaseException | None) -> Ending:
    """The class of an attempt's ending; None means that there was no error."""
    if error is None:
        return "done"
    if isinstance(error, EndingError):
        return error.ending
    if isinstance(error, UserError):
        return "user error"
    if isinstance(error, KeyboardInterrupt):
        return "stopped by user"
    # torch's own classes, by name: importing torch takes seconds, and nothing else here needs it.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory"
    refused = isinstance(error, OSError) and error.errno in _STORAGE
    if refused or isinstance(error, StoreError) or is_cloud_error(error):
        return "storage"
    return _classify_collective(error) if isinstance(error, RuntimeError) else "bug"


_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE)
"""What a disk or a network file system says when it cannot."""


_LOST = re.compile(
    r"Connection (closed|reset|refused)|Broken pipe|connectFullMesh|remote process exited|Socket closed"
    r"|failed to (recv|connect)|NCCL (communicator was aborted|error)",
    re.IGNORECASE,
)
_LATE = re.compile(r"Timed out waiting|Timed out after|timeout.*(collective|barrier|store)", re.IGNORECASE)


def _classify_collective(error: RuntimeError) -> Ending:
    """gloo raises plain RuntimeErrors; only their texts say that another rank is gone, or late."""
    named = type(error).__name__ in ("DistBackendError", "DistNetworkError", "DistStoreError")
    text = str(error)
    if not (named or "gloo" in text or "NCCL" in text):
        return "bug"
    if _LATE.search(text):
        return "hang"
    return "node lost" if _LOST.search(text) else "bug"
