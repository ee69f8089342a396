"""Some faults at random instants; `make chaos` has hundreds of them."""

from pathlib import Path

from tests.chaos.driver import draw_faults, run_chain, run_reference

STEPS = 120


def test_a_run_that_suffers_random_faults_ends_as_if_it_had_not(tmp_path: Path) -> None:
    reference = run_reference(tmp_path / "reference", "ddp", steps=STEPS)
    outcome = run_chain(tmp_path / "chain", "ddp", reference, draw_faults(13, 5), steps=STEPS, step_s=0.03)
    assert len(outcome.faults) >= 3
    assert outcome.violations == []
