"""What Slurm's own words about a cluster become: facts, and a profile that recipes can use."""

from pathlib import Path

import pytest

from cluster.config import ClusterConfig
from cluster.site import ask_site, profile_text
from cluster.slurm_job import QueueError, ask_job
from launcher.yaml_text import parse_yaml
from tests.cluster.jobs import write_program

SCONTROL = """#!/bin/bash
case "$*" in
"show config") printf 'ClusterName      = tiger\\nSLURM_VERSION = 23.11.4\\nKillWait = 30 sec\\n' ;;
"--oneliner show partition")
  echo 'PartitionName=cpu Default=YES GraceTime=0 PreemptMode=OFF'
  echo 'PartitionName=gpu Default=NO GraceTime=60 PreemptMode=REQUEUE' ;;
"--oneliner show job 7")
  echo "JobId=7 JobName=a b Restarts=2 JobState=COMPLETING Reason=None EndTime=Unknown NodeList=n[1-2]" \
    "Command=/runs/a b/job.sh WorkDir=/" ;;
"--oneliner show job 8") echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1 ;;
*) echo "error: Unable to contact slurm controller (connect failure)" >&2; exit 1 ;;
esac
"""
SINFO = """#!/bin/bash
echo 'cpu|40|infinite|64|256000|(null)'
echo 'gpu|2|2-00:00:00|48|500000|gpu:a100:4'
echo 'gpu|12|2-00:00:00|96+|1030000+|gpu:h100:8(S:0-1),nvme:1'
"""
SQUEUE = """#!/bin/bash
echo '{"jobs": [{"job_id": 6, "job_state": "RUNNING"},'
echo '{"job_id": 7, "job_state": ["CANCELLED", "COMPLETING"]}]}'
"""


@pytest.fixture(autouse=True)
def _programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"scontrol": SCONTROL, "sinfo": SINFO, "squeue": SQUEUE}.items():
        write_program(tmp_path / "bin" / name, text)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")


def test_partitions_are_read_with_the_commonest_kind_of_their_nodes() -> None:
    site = ask_site()
    assert (site.name, site.config["KillWait"]) == ("tiger", "30 sec")
    gpu = site.find("gpu")
    assert gpu is not None
    assert (gpu.nodes, gpu.cpus, gpu.gpus, gpu.gpu_type) == (12, 96, 8, "h100")
    assert (gpu.preempt_mode, gpu.grace_s, gpu.is_default) == ("REQUEUE", 60, False)
    assert site.default == site.find("cpu") == site.find(None)
    assert site.find("nope") is None


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_a_profile_holds_only_keys_of_the_cluster_section(name: str) -> None:
    site = ask_site()
    partition = site.find(name)
    assert partition is not None
    config = ClusterConfig.model_validate(parse_yaml(profile_text(site, partition), "x"))
    assert (config.type, config.partition, config.memory) == ("slurm", name, "0")
    assert config.gpus_per_node == (8 if name == "gpu" else None)
    assert config.cpus_per_node == (96 if name == "gpu" else 64)


def test_a_job_that_is_ending_shows_what_it_will_be() -> None:
    state = ask_job("7")
    assert (state.state, state.ending, state.restarts, state.nodes) == (
        "COMPLETING",
        "CANCELLED",
        2,
        "n[1-2]",
    )
    assert (state.reason, state.seconds_left, state.is_over) == ("None", None, False)


def test_a_job_of_another_run_is_not_taken_for_this_one_s() -> None:
    assert ask_job("7", "/runs/a b").state == "COMPLETING"
    assert ask_job("7", "/runs/a").state == "UNKNOWN"


def test_a_forgotten_job_is_over_and_a_silent_controller_is_an_error() -> None:
    assert ask_job("8").is_over
    with pytest.raises(QueueError, match="Unable to contact slurm controller"):
        ask_job("9")
