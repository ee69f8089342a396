"""The simulation of failures against what can be calculated."""

import math
from dataclasses import replace

import pytest

from benchmarks.goodput import DAY_S, NODES, Site, best_interval, daly_interval, mean_goodput, simulate

CALM = Site(nodes=1, node_mtbf_s=1e15, blocked_s=3.0, write_s=0.0, start_s=100.0)


def test_a_run_without_failures_pays_for_its_start_and_its_checkpoints() -> None:
    found = simulate(CALM, 1000.0, 100_000.0, seed=1)
    assert found == pytest.approx(100_000.0 / (100_000.0 + 100.0 + 100 * 3.0), rel=1e-12)


def test_preemptions_with_grace_cost_restarts_and_no_training() -> None:
    every = 3600.0
    site = replace(CALM, preempted_every_s=every, blocked_s=0.0, queue_s=50.0)
    found = mean_goodput(site, 1e9, 3000 * every, range(4))
    # Renewal: `every` of training, then queue and start. 12,000 of them: the mean is within 1 % of it.
    assert found == pytest.approx(every / (every + 150.0), rel=0.01)


def test_work_after_the_last_complete_checkpoint_is_lost() -> None:
    site = Site(
        nodes=1, node_mtbf_s=3600.0, blocked_s=0.0, write_s=0.0, start_s=0.0, detect_s=0.0, queue_s=0.0
    )
    interval = 600.0
    found = mean_goodput(site, interval, 3_000_000.0, range(4))
    # Exponential failures: a piece of length T takes M (e^(T/M) - 1) on average, its repetitions included.
    expected = interval / (3600.0 * math.expm1(interval / 3600.0))
    assert found == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("nodes", NODES)
def test_daly_s_interval_is_as_good_as_the_best_found(nodes: int) -> None:
    site, seeds, work_s = Site(nodes=nodes, write_s=0.0), range(6), 20 * DAY_S
    best = best_interval(site, work_s, seeds)
    lost = mean_goodput(site, best, work_s, seeds) - mean_goodput(site, daly_interval(site), work_s, seeds)
    assert 0 <= lost < 0.005
