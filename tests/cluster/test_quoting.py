"""Property: whatever a name is made of, it reaches the agent as it was given, or is refused; nothing runs."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.config import ClusterConfig
from cluster.job import JobError
from cluster.local import LocalCluster
from cluster.slurm import SlurmCluster
from tests.cluster.jobs import small_job, write_program
from tests.cluster.test_slurm import FAKE_SCONTROL, FAKE_SRUN

SHOW = f"#!{sys.executable}\nimport json, os, sys\nprint(json.dumps([sys.argv[1:], dict(os.environ)]))\n"
PARTS = [
    *("'", '"', "`touch ran`", "$(touch ran)", "${HOME}", "; touch ran;", "&& touch ran", "| touch ran"),
    *("\n", "\r", "\t", "\x1b[31m", "\\", "#", "!x", "~", "*", " ", "--", "%j", "é", "日本", "‮", "a", "Z9"),
    *("\nEOF\n", "\n#SBATCH --nodes=9\n", "'$(touch ran)'", "\\'", '"\'"', "<(touch ran)", "> ran", "hetjob"),
]


def draw_name(random_: random.Random) -> str:
    """Text of such parts."""
    return "".join(random_.choice(PARTS) for _ in range(random_.randrange(1, 5)))


@pytest.mark.parametrize("kind", ["local", "slurm"])
def test_any_text_reaches_the_agent_or_is_refused(tmp_path: Path, kind: str) -> None:
    bin_folder = tmp_path / "bin"
    write_program(bin_folder / "scontrol", FAKE_SCONTROL)
    write_program(bin_folder / "srun", FAKE_SRUN)
    python = write_program(tmp_path / "python", SHOW)
    random_, passed, refused = random.Random(1), 0, 0
    for _ in range(300):
        name, word, given, more = (draw_name(random_) for _ in range(4))
        try:
            config = ClusterConfig(env={"GIVEN": given})
            cluster = LocalCluster(config) if kind == "local" else SlurmCluster(config)
            script = cluster.render(
                small_job(
                    name=name,
                    run_dir=f"/runs/{more}",
                    cwd=str(tmp_path),
                    python=str(python),
                    command=("-m", word),
                    env={"MORE": more},
                )
            )
        except (JobError, ValueError):
            refused += 1
            continue
        done = subprocess.run(
            ["bash"],
            input=script,
            cwd=tmp_path,
            env={"PATH": f"{bin_folder}:/usr/bin:/bin", "SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "n[7-8]"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (name, word, given, more, done.stderr)
        arguments, environment = json.loads(done.stdout)
        assert arguments[-2:] == ["-m", word]
        assert (environment["GIVEN"], environment["MORE"]) == (given, more)
        options = [line for line in script.splitlines() if line.startswith("#SBATCH")]
        assert not any(line.startswith("#SBATCH --nodes=9") for line in options)
        passed += 1
    assert not (tmp_path / "ran").exists()
    assert passed > 10
    assert refused > 20
