"""What is to be run, and the interface of whatever can run it."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class JobError(ValueError):
    """A job that this kind of machine cannot run. `key`: the recipe's key that asks for it, if one does."""

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class SubmitError(RuntimeError):
    """The scheduler refused a job; the message is its own. `key`: the recipe's key that it is about."""

    def __init__(self, message: str, *, key: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.key, self.remedy = key, remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One program on `nodes` x `nproc_per_node` processes."""

    name: str
    run_dir: str
    """The run's folder or URL. The script is in it."""
    cwd: str
    """Absolute folder that the program starts in: a recipe's relative paths mean the same every time."""
    nodes: int
    nproc_per_node: int
    python: str
    """Absolute path of the interpreter, the same on every node."""
    command: tuple[str, ...]
    """What each rank runs, after torchrun's own arguments: ("-m", "package.module", "--flag", ...)."""
    env: Mapping[str, str]
    agent: tuple[str, ...]
    """What starts a node's ranks: torchrun, or a module that takes its arguments."""
    min_nodes: int | None = None
    """Fewest nodes that it may continue with; None is all of `nodes`."""
    supervisor: tuple[str, ...] = ()
    """What a batch job runs around its nodes, given their command: a module and its arguments."""
    threads: int
    """CPU threads per process. Part of the job because sums depend on it: bit-exact resume needs the same."""

    def __post_init__(self) -> None:
        texts = {"name": self.name, "run_dir": self.run_dir, "cwd": self.cwd, "python": self.python}
        texts |= {f"agent[{i}]": word for i, word in enumerate(self.agent)}
        texts |= {f"supervisor[{i}]": word for i, word in enumerate(self.supervisor)}
        texts |= {f"command[{i}]": word for i, word in enumerate(self.command)}
        texts |= {f"env[{key!r}]": value for key, value in self.env.items()}
        for place, text in texts.items():
            if not text.isprintable():
                raise JobError(
                    f"{place} is {text!r}; newlines and control characters cannot go into a script"
                )
        for place in ("name", "run_dir", "cwd", "python"):
            if not texts[place]:
                raise JobError(f"{place} is empty; give one")
        for place in ("cwd", "python"):
            if not texts[place].startswith("/"):
                raise JobError(f"{place} is {texts[place]!r}; it must be an absolute path")
        for place, count in {"nodes": self.nodes, "nproc_per_node": self.nproc_per_node}.items():
            if count < 1:
                raise JobError(f"{place} is {count}; it must be at least 1")
        if self.threads < 1:
            raise JobError(f"threads is {self.threads}; it must be at least 1")
        for name in self.env:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise JobError(f"env has {name!r}; a variable's name has letters, digits and _ only")


class Cluster(ABC):
    """A kind of machine."""

    @abstractmethod
    def threads(self, nproc_per_node: int) -> int:
        """CPU threads that each of a node's processes may use."""

    def require_devices(self, nproc_per_node: int) -> None:
        """JobError where this very machine has not what a node's processes need; others are not looked at."""
        del nproc_per_node

    @abstractmethod
    def render(self, job: Job) -> str:
        """The exact script that runs the job, shell-quoted. Pure; JobError for a job it cannot run."""

    def check(self, script: str) -> list[str]:
        """Have the machine look at a script before anything is written; returns what to know about it.

        Raises SubmitError for what it would refuse.
        """
        return []

    @abstractmethod
    def submit(self, script: Path) -> str:
        """Start a script that is in its run's folder; return the job's id. A second time resumes the run."""
