"""What sbatch is given, and what its refusals mean."""

import pytest

from cluster.config import ClusterConfig
from cluster.sbatch import environment_for_sbatch, refusal, said_environment
from cluster.slurm import SlurmCluster
from tests.cluster.jobs import small_job

FAILED = "sbatch: error: Batch job submission failed: "
SCRIPT = SlurmCluster(ClusterConfig(partition="gpu", time_min=5)).render(small_job(nodes=2))


@pytest.mark.parametrize(
    ("stderr", "key", "message"),
    [
        (
            "sbatch: error: invalid partition specified: nope\n"
            "sbatch: error: Batch job submission failed: Invalid partition name specified\n",
            "cluster.partition",
            "invalid partition specified: nope",
        ),
        ("allocation failure: Invalid partition name specified", "cluster.partition", "allocation failure"),
        (
            FAILED + "Invalid account or account/partition combination specified",
            "cluster.account",
            "Invalid account",
        ),
        ("sbatch: error: Batch job submission failed: Invalid qos specification", "cluster.qos", "qos"),
        (
            FAILED + "Requested time limit is invalid (missing or exceeds some limit)",
            "cluster.time_min",
            "time limit",
        ),
        ("sbatch: error: Batch job submission failed: Node count specification invalid", "cluster.nodes", ""),
        (
            "sbatch: error: CPU count per node can not be satisfied\nsbatch: error: x",
            "cluster.cpus_per_node",
            "CPU",
        ),
        ("sbatch: error: Memory specification can not be satisfied", "cluster.memory", "Memory"),
        (
            "sbatch: error: Batch job submission failed: Requested node configuration is not available",
            "",
            "node configuration",
        ),
        ("sbatch: unrecognized option '--bogus'\nTry \"sbatch --help\"", "cluster.sbatch_options", "--bogus"),
        ("", "", "sbatch ended with 3 and said nothing"),
        ("sbatch: error: something new", "", "something new"),
    ],
)
def test_a_refusal_names_the_key_that_it_is_about(stderr: str, key: str, message: str) -> None:
    error = refusal(stderr, 3)
    assert error.key == key
    assert message in str(error)
    assert "\n" not in str(error)


def test_variables_that_would_win_over_the_script_are_not_passed_on() -> None:
    given = {
        "SBATCH_PARTITION": "other",
        "SBATCH_TIMELIMIT": "1",
        "SBATCH_NO_REQUEUE": "1",
        "SBATCH_SIGNAL": "KILL@1",
        "SBATCH_ACCOUNT": "physics",
        "SLURM_NTASKS": "7",
        "SLURM_CONF": "/etc/slurm.conf",
        "HOME": "/home/me",
    }
    left = environment_for_sbatch(given, SCRIPT)
    assert left == {name: given[name] for name in ("SBATCH_ACCOUNT", "SLURM_CONF", "HOME")}
    lines = said_environment(SCRIPT, given)
    assert "SBATCH_ACCOUNT=physics counts for this job, as --account" in lines
    assert "SBATCH_PARTITION is set, and does not count: the recipe says --partition" in lines
    assert len(lines) == 5
