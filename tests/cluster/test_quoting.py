"""Property: whatever a name is made of, it reaches the agent as it was given, or is refused; nothing runs."""

import json
import random
import sys
from pathlib import Path

import pytest

from cluster.config import ClusterConfig
from cluster.job import JobError
from cluster.local import LocalCluster
from cluster.slurm import SlurmCluster
from tests.cluster.jobs import SHOW, run_script, small_job, write_program

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
    python = write_program(tmp_path / "python", f"#!{sys.executable}\n{SHOW}")
    random_, passed, refused = random.Random(1), 0, 0
    for _ in range(300):
        name, word, given, more, scratch = (draw_name(random_) for _ in range(5))
        try:
            config = ClusterConfig(env={"GIVEN": given}, scratch=scratch)
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
        done = run_script(script, tmp_path)
        assert done.returncode == 0, (name, word, given, more, done.stderr)
        arguments, environment, _ = json.loads(done.stdout)
        assert arguments[-2:] == ["-m", word]
        assert (environment["GIVEN"], environment["MORE"]) == (given, more)
        if kind == "slurm" or "${HOME}" not in scratch:
            assert environment["TMPDIR"] == scratch.replace("${HOME}", "")
        options = [line for line in script.splitlines() if line.startswith("#SBATCH")]
        assert not any(line.startswith("#SBATCH --nodes=9") for line in options)
        passed += 1
    assert not (tmp_path / "ran").exists()
    assert passed > 10
    assert refused > 20
