"""Rendered jobs on a real Slurm of two nodes, each with a network and a host name of its own."""

import os
import re
import sys
from pathlib import Path

import pytest

from cluster.config import ClusterConfig
from cluster.slurm import SlurmCluster
from tests.cluster.jobs import NASTY, small_job
from tests.slurm_lab.lab import SlurmLab

pytestmark = pytest.mark.slurm

# Runs on the submit host, where sbatch is.
SUBMIT = """
import sys; from pathlib import Path
from cluster.config import ClusterConfig; from cluster.slurm import SlurmCluster
print(SlurmCluster(ClusterConfig()).submit(Path(sys.argv[1])))
"""

# Each rank shows where it is, and reaches rank 0's node.
GREET = """
import os, socket
env = os.environ
socket.create_connection((env["MASTER_ADDR"], int(env["MASTER_PORT"]))).close()
line = " ".join(("rank", env["RANK"], "of", env["WORLD_SIZE"], "local", env["LOCAL_RANK"], "on",
                 socket.gethostname(), "gpus", str(env.get("CUDA_VISIBLE_DEVICES")), "threads",
                 env["OMP_NUM_THREADS"]))
os.write(1, f"{line}\\n".encode())  # whole: print() writes word by word, and other ranks between
"""

# Rank 1 fails while the others would continue for ten minutes.
FAIL = """
import os, sys, time
if os.environ["RANK"] == "1":
    sys.exit(5)
time.sleep(600)
"""

# The first attempt works until it is stopped, and then needs two seconds to save.
SAVE = """
import os, signal, sys, time
from pathlib import Path
rank, attempt = os.environ["RANK"], os.environ.get("SLURM_RESTART_COUNT", "0")
def save(*_):
    time.sleep(2)
    Path(f"saved-{rank}-{attempt}").touch()
    sys.exit(1)
signal.signal(signal.SIGTERM, save)
os.write(1, f"attempt {attempt} rank {rank}\\n".encode())
Path(f"started-{rank}-{attempt}").touch()
if attempt == "0":
    time.sleep(600)
"""


def write_run(folder: Path, program: str, config: ClusterConfig, *, nproc_per_node: int = 1) -> Path:
    """Write a run folder with a program, and return its script."""
    folder.mkdir()
    (folder / "program.py").write_text(program)
    job = small_job(
        name="lab",
        run_dir=str(folder),
        cwd=str(folder),
        nodes=2,
        nproc_per_node=nproc_per_node,
        python=sys.executable,
        command=(str(folder / "program.py"),),
    )
    script = folder / "launch.sh"
    script.write_text(SlurmCluster(config).render(job))
    return script


def submit(lab: SlurmLab, script: Path) -> str:
    return lab.run([sys.executable, "-c", SUBMIT, str(script)]).stdout.strip()


def read_log(script: Path, job_id: str) -> str:
    return (script.parent / "logs" / f"slurm-{job_id}.log").read_text()


def test_ranks_of_two_nodes_meet_and_the_same_file_can_be_submitted_again(
    slurm_lab: SlurmLab, tmp_path: Path
) -> None:
    config = ClusterConfig(partition="main", time_min=5, gpus_per_node=2, cpus_per_node=8)
    script = write_run(tmp_path / NASTY.replace("\\", ""), GREET, config, nproc_per_node=2)
    threads = os.environ.get("OMP_NUM_THREADS", "4")
    for _ in range(2):
        job_id = submit(slurm_lab, script)
        finished = slurm_lab.wait(job_id)
        log = read_log(script, job_id)
        assert (finished.state, finished.exit_code) == ("COMPLETED", 0), log
        greetings = sorted(line for line in log.splitlines() if line.startswith("rank "))
        assert greetings == [
            f"rank {rank} of 4 local {rank % 2} on n{1 + rank // 2} gpus 0,1 threads {threads}"
            for rank in range(4)
        ], log


def test_a_failing_rank_ends_the_job_as_failed(slurm_lab: SlurmLab, tmp_path: Path) -> None:
    script = write_run(tmp_path / "run", FAIL, ClusterConfig())
    job_id = submit(slurm_lab, script)
    finished = slurm_lab.wait(job_id)  # gives up long before the other rank's 600 s
    assert finished.state == "FAILED"
    assert finished.exit_code != 0
    assert re.search(r"exitcode\s*:\s*5", read_log(script, job_id))


def test_a_requeued_job_has_time_to_save_and_keeps_its_first_log(slurm_lab: SlurmLab, tmp_path: Path) -> None:
    script = write_run(tmp_path / "run", SAVE, ClusterConfig())
    job_id = submit(slurm_lab, script)
    slurm_lab.wait_for_files(script.parent / "started-0-0", script.parent / "started-1-0")
    slurm_lab.run(["scontrol", "requeue", job_id])
    finished = slurm_lab.wait(job_id)
    log = read_log(script, job_id)
    assert finished.state == "COMPLETED", log
    assert {path.name for path in script.parent.glob("saved-*")} == {"saved-0-0", "saved-1-0"}
    lines = sorted(line for line in log.splitlines() if line.startswith("attempt "))
    assert lines == ["attempt 0 rank 0", "attempt 0 rank 1", "attempt 1 rank 0", "attempt 1 rank 1"]


def test_a_refusal_of_sbatch_is_the_message(slurm_lab: SlurmLab, tmp_path: Path) -> None:
    script = write_run(tmp_path / "run", GREET, ClusterConfig(partition="nope"))
    done = slurm_lab.run([sys.executable, "-c", SUBMIT, str(script)], check=False)
    assert done.returncode == 1
    assert "SubmitError: sbatch: error: invalid partition specified: nope" in done.stderr
