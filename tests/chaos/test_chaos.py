"""One fault of each kind that ends an attempt; `make chaos` has hundreds, at random instants."""

from pathlib import Path

from tests.chaos.driver import run_chain, run_reference
from tests.chaos.faults import Fault, Target

STEPS = 120
KINDS: list[tuple[str, Target, str]] = [
    ("kill", "rank", "step"),
    ("stop", "rank", "step"),
    ("nan", "rank", "step"),
    ("usr1", "group", "step"),
    ("raise", "rank", "checkpoint"),
]


def test_a_run_that_suffers_faults_ends_as_if_it_had_not(tmp_path: Path) -> None:
    reference = run_reference(tmp_path / "reference", "ddp", steps=STEPS)
    faults = [
        Fault(kind=kind, target=target, rank=number % 2, phase=phase, delay_s=0.2 + 0.1 * number, after=3)
        for number, (kind, target, phase) in enumerate(KINDS)
    ]
    outcome = run_chain(tmp_path / "chain", "ddp", reference, faults, steps=STEPS, step_s=0.03)
    assert outcome.violations == []
    assert [text.split()[0] for text in outcome.faults if "slow" not in text] == [kind for kind, *_ in KINDS]
