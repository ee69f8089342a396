"""Verbs that ask Slurm, on a real one."""

import json
import re
import time
from pathlib import Path

import pytest

from tests.launch import LAUNCH
from tests.slurm_lab.lab import SlurmLab
from tests.slurm_lab.runs import environment, submit
from tests.small_run import RECIPE

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def call(lab: SlurmLab, *words: str, folder: Path, code: int = 0) -> str:
    done = lab.run([*LAUNCH, *words], cwd=folder, env=environment(), check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_run_is_followed_through_the_queue(slurm_lab: SlurmLab, tmp_path: Path) -> None:
    run = submit(slurm_lab, tmp_path, "cluster.sbatch_options=[--hold]")
    text = call(slurm_lab, "status", "run", folder=tmp_path)
    assert re.search(rf"^job +{run.job}: PENDING \(JobHeldUser\)", text, re.MULTILINE), text
    refused = call(slurm_lab, "resume", "run", folder=tmp_path, code=2)
    assert f"job {run.job}" in refused, "it waits in the queue already"
    slurm_lab.run(["scontrol", "release", run.job])
    run.wait_for_step(30)
    text = call(slurm_lab, "status", "run", folder=tmp_path)
    assert re.search(rf"^job +{run.job}: RUNNING on n\[1-2\]", text, re.MULTILINE), text
    assert re.search(r"^loss +\d\.\d+, \S+ tokens/s", text, re.MULTILINE), text
    assert f"  {run.job}" in call(slurm_lab, "ls", ".", folder=tmp_path)
    assert "step" in call(slurm_lab, "logs", "run", "--rank", "0", "--attempt", "1", folder=tmp_path)
    assert "step" not in call(slurm_lab, "logs", "run", "--rank", "1", folder=tmp_path)
    assert f"job {run.job} is cancelled" in call(slurm_lab, "cancel", "run", folder=tmp_path)
    assert run.wait_until_over() == "CANCELLED"
    run.wait(lambda: run.ends() == ["stopped by user"])
    text = call(slurm_lab, "resume", "run", "cluster.sbatch_options=[]", folder=tmp_path)
    (job,) = re.findall(r"^job: (\d+)$", text, re.MULTILINE)
    run.wait(lambda: slurm_lab.show(job)["JobState"] == "COMPLETED", 180)
    run.require_finished()
    assert "done" in call(slurm_lab, "status", "run", folder=tmp_path)


def test_a_new_user_needs_a_profile_a_doctor_and_one_command(slurm_lab: SlurmLab, tmp_path: Path) -> None:
    text = call(slurm_lab, "profile", "init", "site", folder=tmp_path)
    assert "wrote cluster-profiles/site.yaml" in text
    profile = tmp_path / "cluster-profiles/site.yaml"
    assert "partition: main" in profile.read_text()
    # The lab's GPUs are made up: torch finds none of them.
    kept = [line for line in profile.read_text().splitlines() if "gpu" not in line and "nproc" not in line]
    profile.write_text("\n".join([*kept, "nproc_per_node: 2"]) + "\n")
    text = call(slurm_lab, "doctor", "--cluster", "--profile", "site", "--json", folder=tmp_path)
    findings = {finding["topic"]: finding for finding in json.loads(text)}
    assert not [finding for finding in findings.values() if finding["level"] == "bad"]
    assert findings["nodes"]["text"] == "2 of 2 nodes have answered"
    for topic in ("rendezvous", "names", "folder", "locks", "signals", "requeue", "clocks", "all-reduce"):
        assert findings[topic]["level"] == "ok", findings[topic]
    assert not list((tmp_path / "runs").glob(".doctor-*"))
    run = submit(slurm_lab, tmp_path, "--profile", "site", "train.steps=20", cluster="time_min: 5")
    assert run.wait_until_over() == "COMPLETED", run.log()


def test_the_doctor_says_what_is_wrong_with_a_profile(slurm_lab: SlurmLab, tmp_path: Path) -> None:
    folder = tmp_path / "cluster-profiles"
    folder.mkdir()
    (folder / "site.yaml").write_text('cpus_per_node: 1\nsetup: ["cd /nowhere"]\n')
    text = call(
        slurm_lab, "doctor", "--cluster", "--profile", "site", "--wait", "60", folder=tmp_path, code=1
    )
    assert "0 of 2 nodes have answered" in text
    assert "/nowhere" in text
    many = call(slurm_lab, "doctor", "--cluster", "--nodes", "9", "--wait", "60", folder=tmp_path, code=1)
    assert "Requested node configuration is not available" in many
    (folder / "site.yaml").write_text("partition: mian\n")
    wrong = call(slurm_lab, "doctor", "--cluster", "--profile", "site", folder=tmp_path, code=1)
    assert "there is no partition 'mian'" in wrong


def test_a_sweep_is_a_job_array_with_one_table(slurm_lab: SlurmLab, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    words = ["sweep", "small.yaml", "optim.lr=1e-3,8e-3", "seed=1,2", "--out", "out"]
    refused = call(slurm_lab, *words, folder=tmp_path, code=2)
    assert "--cluster slurm submits a job array" in refused
    words += ["--cluster", "slurm", "--jobs", "2", "cluster.partition=main"]
    text = call(slurm_lab, *words, folder=tmp_path)
    (job,) = re.findall(r"^job array (\d+): 4 points, at most 2 at once$", text, re.MULTILINE)
    deadline = time.monotonic() + 180
    while slurm_lab.run(["squeue", "-h", "-j", job], check=False).stdout.strip():
        assert time.monotonic() < deadline
        time.sleep(0.5)
    table = call(slurm_lab, *words, "--table", folder=tmp_path)
    assert "4 points" in table
    assert "4 of them done" in table
    assert "all 4 points are done" in call(slurm_lab, *words, folder=tmp_path)
