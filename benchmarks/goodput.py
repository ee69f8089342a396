"""Goodput of a run over its failures, by discrete events: `python benchmarks/goodput.py`.

What of the time is training that was kept, from 8 to 4,096 nodes, and which checkpoint interval is best: by
simulation, and beside it Daly's estimate (Daly 2006, eq. 37).
"""

import argparse
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from launcher.table import table_lines

NODES = (8, 64, 512, 1024, 4096)
DAY_S = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What happens to a run. Times in seconds."""

    nodes: int
    node_mtbf_s: float = 5 * 365 * DAY_S
    """Mean time between failures of one node."""
    preempted_every_s: float = math.inf
    """Mean time between preemptions; with enough grace, they lose no work."""
    blocked_s: float = 2.0
    """What training stands still for at a checkpoint: the staging copy."""
    write_s: float = 30.0
    """From then until the checkpoint counts; a failure before that falls back to the one before."""
    detect_s: float = 60.0
    """Until the watchdog, or Slurm, ends the attempt."""
    queue_s: float = 130.0
    """Until the job runs again: Slurm's 120 s, and a scheduling interval."""
    start_s: float = 180.0
    """Python, meeting, building, compiling, restoring."""

    @property
    def mtbf_s(self) -> float:
        """Of the whole run."""
        return self.node_mtbf_s / self.nodes


def simulate(site: Site, interval_s: float, work_s: float, seed: int) -> float:
    """Goodput of one run that trains for `work_s`, with a checkpoint after each `interval_s` of training."""
    draw = random.Random(seed)
    now = kept = 0.0  # kept: training that a complete checkpoint holds
    while True:
        now += site.start_s
        failure = now + draw.expovariate(1 / site.mtbf_s)
        preemption = (
            now + draw.expovariate(1 / site.preempted_every_s)
            if math.isfinite(site.preempted_every_s)
            else math.inf
        )
        trained, waits = kept, None  # waits: (when it is complete, what it holds)
        while True:
            piece = min(interval_s, work_s - trained)
            end = now + piece
            if min(failure, preemption) < end:
                break
            if waits is not None and waits[0] <= end:
                kept, waits = waits[1], None
            now, trained = end + site.blocked_s, trained + piece
            if trained >= work_s:
                return work_s / (now + site.write_s)
            waits = (now + site.write_s, trained)
        if preemption < failure:
            # Everything up to here is saved in the grace.
            kept = trained + max(0.0, preemption - now)
            now = preemption + site.blocked_s + site.write_s + site.queue_s
            continue
        if waits is not None and waits[0] <= failure:
            kept = waits[1]
        now = failure + site.detect_s + site.queue_s


def mean_goodput(site: Site, interval_s: float, work_s: float, seeds: Sequence[int]) -> float:
    """Over several runs."""
    return sum(simulate(site, interval_s, work_s, seed) for seed in seeds) / len(seeds)


def daly_interval(site: Site) -> float:
    """Best training time between checkpoints, for a cost that is small beside the time between failures."""
    cost, mtbf = site.blocked_s, site.mtbf_s
    if cost >= 2 * mtbf:
        return mtbf
    ratio = math.sqrt(cost / (2 * mtbf))
    return math.sqrt(2 * cost * mtbf) * (1 + ratio / 3 + ratio * ratio / 9) - cost


def best_interval(site: Site, work_s: float, seeds: Sequence[int]) -> float:
    """The best of a geometric grid around Daly's, an octave in four steps."""
    around = [daly_interval(site) * 2 ** (step / 4) for step in range(-12, 13)]
    return max(around, key=lambda interval: mean_goodput(site, interval, work_s, seeds))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Goodput over failures, by simulation.")
    parser.add_argument("--days", type=float, default=30.0, help="training that the run needs")
    parser.add_argument("--node-years", type=float, default=5.0, help="mean time between failures of a node")
    parser.add_argument("--runs", type=int, default=40, help="runs per number")
    options = parser.parse_args()
    seeds, work_s = range(options.runs), options.days * DAY_S
    rows = [
        [
            "nodes",
            "failure every",
            "Daly's interval",
            "best found",
            "goodput at Daly's",
            "at the best",
            "at 1 h",
        ]
    ]
    for nodes in NODES:
        site = replace(Site(nodes=nodes), node_mtbf_s=options.node_years * 365 * DAY_S)
        daly, best = daly_interval(site), best_interval(site, work_s, seeds)
        goodputs = [mean_goodput(site, interval, work_s, seeds) for interval in (daly, best, 3600.0)]
        rows.append(
            [
                f"{nodes:,}",
                f"{site.mtbf_s / 3600:.1f} h",
                f"{daly / 60:.1f} min",
                f"{best / 60:.1f} min",
                *(f"{goodput:.2%}" for goodput in goodputs),
            ]
        )
    print("\n".join(table_lines(rows, right_align=True)))


if __name__ == "__main__":
    main()
