"""GPUs and CPUs are found without torch, as CUDA would find them."""

from pathlib import Path

import pytest

from cluster.config import ClusterConfig
from cluster.devices import usable_cpus, visible_gpus
from cluster.job import JobError
from cluster.local import LocalCluster


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("chosen", "count"),
    [(None, 3), ("", 0), ("-1", 0), ("0", 1), ("1,0", 2), ("0,-1,1", 1), ("GPU-8a1b", 1), ("0,1,2,3,4", 3)],
)
def test_gpus_are_those_that_cuda_shows(
    chosen: str | None, count: int, devices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert visible_gpus(devices) == count


def test_a_machine_without_device_files_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert visible_gpus(tmp_path) == 0
    assert usable_cpus() >= 1


def test_more_processes_than_gpus_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = LocalCluster(ClusterConfig(type="local"))
    monkeypatch.setattr("cluster.local.visible_gpus", lambda: 1)
    cluster.require_devices(1)
    with pytest.raises(JobError, match="got 2 processes for the 1 GPU.*--nproc-per-node 1") as error:
        cluster.require_devices(2)
    assert "\n" not in str(error.value)
    monkeypatch.setattr("cluster.local.visible_gpus", lambda: 0)
    cluster.require_devices(64)
