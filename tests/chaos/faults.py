"""What may happen to a run, and how each attempt has to end then."""

import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

from launcher.clock import PHASES
from launcher.ending import Ending
from tests.chaos.damage import FILES

Target = Literal["rank", "agent", "group"]
SIGNALS = {name: getattr(signal, f"SIG{name.upper()}") for name in ("kill", "stop", "term", "int", "usr1")}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault, at a random instant."""

    kind: str
    """A signal, `pause` (the whole job stands still for a while), `tear` or `flip` of a file while nothing
    runs, `cutoff` (it stands still while another attempt begins), or raise, slow, nan, full inside a rank."""
    target: Target
    rank: int
    phase: str
    """Of the clock, for raise and slow; the file for tear and flip."""
    delay_s: float
    """After the attempt has begun."""
    after: int
    """Steps of the attempt before raise, slow and nan."""

    @property
    def inside(self) -> bool:
        """Whether the rank has it in itself from its start."""
        return self.kind in ("raise", "slow", "nan", "full")

    @property
    def endings(self) -> Sequence[Ending | None]:
        """How the attempt may end; None where it continues."""
        at_all = {"int": "stopped by user", "term": "stopped by user", "usr1": "preempted"}
        if self.kind in at_all:
            known: Ending = at_all[self.kind]  # type: ignore[assignment]
            return ["stopped by signal"] if self.target == "rank" else [known]
        table: dict[str, Sequence[Ending | None]] = {
            "kill": ["node lost"],
            "stop": ["hang"],
            "raise": ["bug"],
            "pause": [None],
            "slow": [None],
            "nan": [None],
            "full": [None],
            "tear": [None],
            "flip": [None],
            "cutoff": [None],
        }
        return table[self.kind]

    @property
    def text(self) -> str:
        """For a report."""
        where = f"{self.target} {self.rank}" if self.target == "rank" else self.target
        if self.kind in ("tear", "flip"):
            return f"{self.kind} {self.phase}"
        return f"{self.kind} {where}" + (f" in {self.phase}" if self.kind in ("raise", "slow") else "")


OUTSIDE: Sequence[tuple[str, Target]] = [
    *((kind, target) for kind in ("kill", "term", "int", "usr1") for target in ("rank", "agent", "group")),
    ("stop", "rank"),
    ("pause", "group"),
]
INSIDE = ("raise", "raise", "slow", "nan")


def draw_storage_fault(random_: random.Random) -> Fault:
    """A fault of storage from the seed."""
    kind = random_.choice(["tear", "flip", "tear", "flip", "full", "cutoff"])
    return Fault(
        kind=kind,
        target="group" if kind == "cutoff" else "rank",
        rank=0,  # which writes the journal and the manifest, and a shard
        phase=random_.choice(FILES),
        delay_s=random_.uniform(0.0, 1.0),
        after=random_.randrange(1, 30),
    )


def draw_fault(random_: random.Random, *, inside: bool) -> Fault:
    """A fault from the seed."""
    kind, target = (random_.choice(INSIDE), "rank") if inside else random_.choice(OUTSIDE)
    return Fault(
        kind=kind,
        target=target,  # type: ignore[arg-type]
        rank=random_.randrange(2),
        phase=random_.choice(PHASES),
        delay_s=random_.uniform(0.0, 1.5),
        after=random_.randrange(1, 30),
    )
