"""A batch job's script and its supervisor with made-up programs of Slurm; tests/slurm_lab has a real one."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.cli.echo import Echo
from launcher.cli.main import print_lines
from launcher.cli.supervisor import Asked, as_scheduler, find_first
from launcher.guard.agent_word import AgentWord
from launcher.guard.cause import Cause
from launcher.network import free_port
from launcher.run_jobs import read_jobs
from launcher.track.journal import read_journal
from tests.cluster.jobs import write_program
from tests.launch import launch
from tests.small_run import RECIPE
from tests.wait import wait_for

SRUN = """#!/bin/bash
for word; do case $word in --output=*) out=${word#--output=} ;; -*) ;; *) break ;; esac; shift; done
export SLURM_NODEID=0 SLURMD_NODENAME=$(hostname) SLURM_LAUNCH_NODE_IPADDR=127.0.0.1
exec "$@" >>"${out/\\%N/$SLURMD_NODENAME}" 2>&1
"""
SCONTROL = """#!/bin/bash
echo "$*" >>"$CALLS"
case "$*" in
"show hostnames "*) hostname ;;
"show config") echo "KillWait = 30 sec" ;;
"--oneliner show job 7") echo "JobId=7 JobState=RUNNING Reason=None Restarts=0 EndTime=Unknown" ;;
"--oneliner show job "*) echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1 ;;
"requeue 7") [ -e "$CALLS.forbidden" ] && { echo "Requested operation is presently disabled" >&2; exit 1; }
  { sleep 1; kill -9 $PPID; } & ;;
esac
"""
SBATCH = """#!/bin/bash
echo "sbatch $*" >>"$CALLS"
case "$*" in *--test-only*) ;; *--dependency*) echo 8 ;; *) echo 7 ;; esac
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose programs stand for Slurm's."""
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "sbatch": SBATCH}.items():
        write_program(tmp_path / "bin" / name, text)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("PYTHONPATH", ":".join(filter(None, sys.path)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "small.yaml").write_text(RECIPE.replace("{type: local,", "{type: slurm,"))
    return tmp_path


def submit(site: Path, *words: str) -> Path:
    done = launch("small.yaml", "--run-dir", "run", *words, folder=site)
    assert done.returncode == 0, done.stderr
    assert "job: 7" in done.stdout
    return site / "run"


def start_script(run: Path) -> subprocess.Popen[str]:
    """What Slurm does with it."""
    return subprocess.Popen(
        ["bash", str(run / "job.sh")],
        env={**os.environ, "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "here"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ends(run: Path) -> list[str]:
    return [record["class"] for record in read_journal(run / "journal.jsonl") if record["event"] == "end"]


def test_a_run_trains_through_the_script_and_its_log_has_each_line_once(site: Path) -> None:
    run = submit(site)
    job = start_script(run)
    text, _ = job.communicate(timeout=120)
    assert job.returncode == 0, text
    assert len(re.findall(r"^step 20/20  loss", text, re.MULTILINE)) == 1, text
    assert text == (run / "logs/console.log").read_text()
    assert [record["event"] for record in read_jobs(str(run))] == ["submitted", "begin", "end"]
    logs = run / "logs/job-7.0.1"
    assert "step 20/20" in (logs / "rank-0.log").read_text()
    assert ends(run) == ["done"]


@pytest.mark.parametrize("forbidden", [False, True])
def test_a_warning_saves_and_queues_again_or_submits_another_job(site: Path, forbidden: bool) -> None:
    if forbidden:
        (site / "calls.forbidden").touch()
    run = submit(site, "train.steps=100000", "checkpoint.every=50000")
    job = start_script(run)
    console = run / "logs/console.log"
    wait_for(lambda: console.exists() and "loss" in console.read_text())
    job.send_signal(signal.SIGUSR1)
    text, _ = job.communicate(timeout=120)
    assert "launch: time limit: " in text, text
    assert ends(run)[-1] == "time limit"
    last = read_jobs(str(run))[-1]
    assert last["saved"] > 0
    calls = (site / "calls").read_text()
    assert "requeue 7" in calls
    assert ("sbatch --parsable --dependency=afterany:7" in calls) is forbidden
    assert last.get("next") == ("8" if forbidden else None)
    assert job.returncode == (18 if forbidden else -signal.SIGKILL)


def test_a_mistake_that_every_rank_finds_is_one_screen_and_final(site: Path) -> None:
    (site / "text").mkdir()
    for number in range(4):
        (site / "text" / f"{number}.txt").write_text(f"{number} words " * 5000)
    run = submit(site, "data.source={type: files, url: text}", "data.validation_fraction=0.2")
    (site / "text" / "0.txt").rename(site / "0.txt")
    for path in (site / "text").iterdir():
        path.unlink()
    job = start_script(run)
    text, _ = job.communicate(timeout=120)
    assert job.returncode == 2, text
    assert len(text.splitlines()) < 10
    assert "Traceback" not in text
    assert "requeue" not in (site / "calls").read_text()
    assert read_jobs(str(run))[-1]["move"] == "final"


def word(host: str, cause: Cause) -> AgentWord:
    return AgentWord(host=host, cause=cause, time=1.0)


def test_a_failed_set_up_a_lost_node_and_srun_s_own_words_are_the_cause(tmp_path: Path) -> None:
    bug = Cause(ending="bug", message="x", where="rank 1 on n1")
    done = Cause(ending="done", message="")
    (tmp_path / "srun.log").write_text("srun: error: Unable to create step: no\n")
    assert find_first([word("n1", bug)], tmp_path, 1, []) == bug
    assert find_first([word("n1", done)], tmp_path, 0, []) == done
    lost = find_first([word("n1", Cause(ending="hang", message="y"))], tmp_path, None, ["n2"])
    assert (lost.ending, "n2" in lost.message) == ("node lost", True)
    assert find_first([], tmp_path, 1, []).message == "Unable to create step: no"
    (tmp_path / "setup-n2").write_text("module load x: ended with 1\n")
    cause = find_first([word("n1", bug)], tmp_path, 1, [])
    assert (cause.ending, cause.message) == (
        "user error",
        "n2: failed before training: module load x: ended with 1",
    )


def test_ports_of_two_attempts_differ_and_a_taken_one_is_passed_over() -> None:
    import socket

    first = free_port(7, 1)
    assert free_port(7, 2) != first
    with socket.socket() as taken:
        taken.bind(("", first))
        assert free_port(7, 1) != first
    assert 20000 <= first < 32768


def test_the_job_s_log_copies_what_is_added_to_the_console(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console = tmp_path / "logs" / "console.log"
    console.parent.mkdir()
    console.write_text("of an earlier job\n")
    with Echo(console):
        with open(console, "a") as rank_0:
            rank_0.write("step 1\n")
        print_lines(["launch: é"])
    assert capsys.readouterr().out == "step 1\nlaunch: é\n"


def test_only_sigterm_says_that_slurm_ends_the_job() -> None:
    from cluster.slurm_job import JobState, OwnJob

    job, asked = OwnJob({"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"}), Asked()
    asked.receive(signal.SIGUSR1, None)
    assert (job.name, asked.ending) == ("7.1", False)
    asked.receive(signal.SIGTERM, None)
    assert asked.ending
    now = as_scheduler(JobState(state="RUNNING", restarts=1), asked, restarts=job.restarts, warning_s=120.0)
    assert (now.running, now.requeued, now.warned) == (True, False, True)
    later = as_scheduler(JobState(state="RUNNING", restarts=2), asked, restarts=job.restarts, warning_s=120.0)
    assert (later.running, later.requeued) == (False, True), "a later start of the job is another one"


def test_a_job_that_was_warned_of_its_limit_starts_no_further_attempt(site: Path) -> None:
    says = "echo 'srun: error: Unable to create step' >&2"
    failing = f"#!/bin/bash\ntrap '' USR1\nkill -USR1 $PPID\nsleep 1\n{says}\nexit 1\n"
    write_program(site / "bin" / "srun", failing)
    run = submit(site)
    job = start_script(run)
    text, _ = job.communicate(timeout=60)
    assert "launch: node lost: Unable to create step" in text
    assert "asking Slurm to queue this job again" in text, text
    assert "requeue 7" in (site / "calls").read_text()
    assert not (run / "logs/job-7.0.2").exists()


def test_an_attempt_that_may_help_is_made_in_the_job_a_few_times(site: Path) -> None:
    write_program(site / "bin" / "srun", "#!/bin/bash\necho 'srun: error: x' >&2\nexit 1\n")
    run = submit(site)
    script = run / "job.sh"
    patched = "-c 'import launcher.cli.supervisor as s, sys; s._BACK_OFF_S = 0.0; sys.exit(s.main())'"
    script.write_text(script.read_text().replace("-m launcher.cli.supervisor", patched))
    text, _ = start_script(run).communicate(timeout=60)
    assert text.count("starting again in this job") == 3, text
    assert text.count("asking Slurm to queue this job again") == 1
    assert sorted(path.name for path in (run / "logs").glob("job-*")) == [
        f"job-7.0.{n}" for n in (1, 2, 3, 4)
    ]
