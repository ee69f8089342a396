"""One fault of each kind; `make chaos` and `make chaos-storage` have hundreds, at random instants."""

from pathlib import Path

import pytest

from tests.chaos.driver import run_chain, run_reference
from tests.chaos.faults import Fault, Target
from tests.chaos.remote import RemoteFault, run_remote_chain

STEPS = 120
KINDS: list[tuple[str, Target, str]] = [
    ("kill", "rank", "step"),
    ("stop", "rank", "step"),
    ("nan", "rank", "step"),
    ("usr1", "group", "step"),
    ("raise", "rank", "checkpoint"),
]
STORED = [("full", ""), ("tear", "shard"), ("flip", "manifest"), ("flip", "journal"), ("cutoff", "")]
REMOTE = [
    RemoteFault("503", 0.0, 4),
    RemoteFault("reset", 0.5, 40),
    RemoteFault("kill", 2.0, 5),
    RemoteFault("403", 3.0, 10),
]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_reference(tmp_path_factory.mktemp("reference"), "ddp", steps=STEPS)


def test_a_run_that_suffers_faults_ends_as_if_it_had_not(tmp_path: Path, reference: Path) -> None:
    faults = [
        Fault(kind=kind, target=target, rank=number % 2, phase=phase, delay_s=0.2 + 0.1 * number, after=3)
        for number, (kind, target, phase) in enumerate(KINDS)
    ]
    outcome = run_chain(tmp_path / "chain", "ddp", reference, faults, steps=STEPS, step_s=0.03)
    assert outcome.violations == []
    assert [text.split()[0] for text in outcome.faults if "slow" not in text] == [kind for kind, *_ in KINDS]


def test_a_run_whose_files_are_damaged_ends_as_if_they_were_not(tmp_path: Path, reference: Path) -> None:
    faults = [
        Fault(kind=kind, target="rank", rank=0, phase=name or "step", delay_s=0.5, after=3 + number)
        for number, (kind, name) in enumerate(STORED)
    ]
    outcome = run_chain(tmp_path / "chain", "ddp", reference, faults, steps=STEPS, step_s=0.03)
    assert outcome.violations == []
    assert outcome.faults[0] == "full rank 0"


def test_a_run_whose_object_store_fails_ends_as_if_it_had_not(tmp_path: Path, reference: Path) -> None:
    pytest.importorskip("s3fs", reason="the extra `s3` is not installed")
    pytest.importorskip("moto", reason="moto, the S3 server, is not installed")
    outcome = run_remote_chain(tmp_path / "chain", "ddp", reference, REMOTE, steps=STEPS)
    assert outcome.violations == []
    assert outcome.faults[0] == "503 of the store"
