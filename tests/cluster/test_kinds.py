from pathlib import Path

import pytest

from cluster.config import ClusterConfig
from cluster.kinds import CLUSTERS, choose_cluster, sbatch_available
from cluster.local import LocalCluster
from cluster.slurm import SlurmCluster
from tests.cluster.jobs import write_program


@pytest.mark.parametrize(
    ("kind", "nodes", "has_sbatch", "expected"),
    [
        ("auto", 1, False, LocalCluster),
        ("auto", 1, True, LocalCluster),
        ("auto", 2, True, SlurmCluster),
        ("local", 1, True, LocalCluster),
        ("slurm", 1, True, SlurmCluster),
        ("slurm", 2, True, SlurmCluster),
    ],
)
def test_the_kind_follows_from_the_recipe_and_the_host(
    kind: str, nodes: int, has_sbatch: bool, expected: type
) -> None:
    config = ClusterConfig.model_validate({"type": kind, "nodes": nodes})
    assert type(choose_cluster(config, has_sbatch=has_sbatch)) is expected


@pytest.mark.parametrize(
    ("kind", "nodes", "has_sbatch", "message"),
    [
        ("auto", 2, False, "'auto' with 2 nodes.*submit from a host that has sbatch.*or run on 1 node"),
        ("local", 2, False, "'local' with 2 nodes.*submit from a host that has sbatch"),
        ("local", 2, True, "'local' with 2 nodes.*set cluster.type=slurm"),
        ("slurm", 1, False, "sbatch is not on PATH.*set cluster.type=local"),
    ],
)
def test_a_kind_that_this_host_cannot_be_is_refused(
    kind: str, nodes: int, has_sbatch: bool, message: str
) -> None:
    config = ClusterConfig.model_validate({"type": kind, "nodes": nodes})
    with pytest.raises(ValueError, match=message):
        choose_cluster(config, has_sbatch=has_sbatch)


@pytest.mark.parametrize("has_sbatch", [False, True])
def test_nodes_that_meet_somewhere_are_started_by_hand(has_sbatch: bool) -> None:
    config = ClusterConfig(nodes=4, min_nodes=2, rendezvous="n1:29400")
    assert type(choose_cluster(config, has_sbatch=has_sbatch)) is LocalCluster


def test_slurm_does_not_continue_with_fewer_nodes() -> None:
    with pytest.raises(ValueError, match="min_nodes is 1, but Slurm starts a job again on all its nodes"):
        choose_cluster(ClusterConfig(nodes=2, min_nodes=1), has_sbatch=True)


def test_sbatch_is_looked_for_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not sbatch_available()
    write_program(tmp_path / "sbatch", "#!/bin/sh\n")
    assert sbatch_available()


@pytest.mark.parametrize("kind", CLUSTERS)
def test_every_kind_gives_each_process_at_least_one_thread(kind: str) -> None:
    cluster = CLUSTERS[kind](ClusterConfig(cpus_per_node=4))
    assert cluster.threads(1000) == 1
    assert cluster.threads(1) >= cluster.threads(2) >= 1
