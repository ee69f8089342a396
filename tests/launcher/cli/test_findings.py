"""What `launch doctor` makes of what was seen on a cluster."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from cluster.site import Partition, Site
from launcher.cli.doctor import cluster_of, finding_lines
from launcher.cli.findings import Finding, of_nodes, of_site

PARTITION = Partition(
    name="gpu",
    is_default=True,
    nodes=4,
    time_limit="infinite",
    cpus=8,
    memory_mb=64000,
    gpus=0,
    gpu_type="",
    preempt_mode="OFF",
    grace_s=0,
)
SITE = Site(
    config={"JobRequeue": "1", "AccountingStorageType": "accounting_storage/slurmdbd"}, partitions=[PARTITION]
)
NODE: dict[str, Any] = {
    "name": "n1",
    "reaches_first": True,
    "skew_s": 0.001,
    "resolves": {"n1": "10.0.0.1", "n2": "10.0.0.2"},
    "interfaces": {"lo": ["127.0.0.1"], "eth0": ["10.0.0.1"]},
    "sees": 2,
    "lock": True,
    "write_mib_s": 900.0,
    "mlflow": "",
    "gpus": {},
    "all_reduce_gb_s": 20.0,
    "backend": "nccl",
    "all_reduce_error": "",
}
BATCH = {"signal": True, "requeue": True}


def levels(findings: list[Finding]) -> dict[str, str]:
    return {finding.topic: finding.level for finding in findings}


def test_nothing_is_wrong_with_a_good_cluster() -> None:
    found = [*of_site(SITE, PARTITION), *of_nodes([NODE, {**NODE, "name": "n2"}], BATCH, 2)]
    assert set(levels(found).values()) == {"ok"}, finding_lines(found)
    assert not [line for line in finding_lines(found) if line.startswith("      ")], "no remedies"


@pytest.mark.parametrize(
    ("changed", "topic", "level"),
    [
        ({"reaches_first": False}, "rendezvous", "bad"),
        ({"skew_s": -3.0}, "clocks", "bad"),
        ({"resolves": {"n1": ""}}, "names", "note"),
        ({"resolves": {"n1": "127.0.1.1"}}, "names", "note"),
        ({"sees": 1}, "folder", "bad"),
        ({"all_reduce_error": "DistBackendError: x"}, "all-reduce", "bad"),
        ({"lock": False}, "locks", "note"),
        ({"mlflow": "https://x: refused"}, "mlflow", "note"),
        (
            {"gpus": {"count": 0, "asked": "8", "names": [], "torch_cuda": "12.8", "driver": ""}},
            "gpus",
            "bad",
        ),
        (
            {"gpus": {"count": 8, "asked": "8", "names": ["H100"], "torch_cuda": "12.8", "driver": "x"}},
            "gpus",
            "ok",
        ),
    ],
)
def test_what_a_node_lacks_is_named_with_its_remedy(changed: dict[str, Any], topic: str, level: str) -> None:
    found = of_nodes([NODE, {**NODE, "name": "n2", **changed}], BATCH, 2)
    assert levels(found)[topic] == level
    assert {name for name, of in levels(found).items() if of != "ok"} <= {topic}
    (one,) = [finding for finding in found if finding.topic == topic]
    assert bool(one.remedy) == (level != "ok")


@pytest.mark.parametrize(
    ("batch", "topic", "level"),
    [
        ({"signal": False, "requeue": True}, "signals", "bad"),
        ({"signal": True, "requeue": False}, "requeue", "note"),
        ({"slurm": "scontrol: not found", "signal": False}, "slurm in jobs", "bad"),
    ],
)
def test_what_a_job_may_not_do_is_named(batch: dict[str, Any], topic: str, level: str) -> None:
    assert levels(of_nodes([NODE, NODE], batch, 2))[topic] == level


def test_nodes_that_have_not_answered_are_counted() -> None:
    (finding,) = of_nodes([], {}, 2)
    assert (finding.level, finding.text) == ("bad", "0 of 2 nodes have answered")


@pytest.mark.parametrize(
    ("mode", "grace_s", "level"),
    [("OFF", 0, "ok"), ("REQUEUE", 0, "note"), ("CANCEL", 60, "ok"), ("SUSPEND", 0, "ok")],
)
def test_preemption_without_grace_loses_work_and_is_said(mode: str, grace_s: int, level: str) -> None:
    partition = dataclasses.replace(PARTITION, preempt_mode=mode, grace_s=grace_s)
    assert levels(of_site(SITE, partition))["preemption"] == level


@pytest.mark.parametrize(
    "text", ["nproc_per_node: 1", "nproc_per_node: 8\ngpus_per_node: 8", "nproc_per_node: 6"]
)
def test_any_profile_can_be_looked_at(tmp_path: Path, text: str) -> None:
    (tmp_path / "site.yaml").write_text(f"type: slurm\n{text}\n")
    assert cluster_of(f"{tmp_path}/site.yaml").type == "slurm"
