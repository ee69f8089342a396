"""Every ending that a real Slurm has for a job: each ends in a finished run, or in one clear line."""

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from launcher.track.journal import step_records
from tests.slurm_lab.lab import SlurmLab
from tests.slurm_lab.runs import STEPS, LabRun, environment, reference, submit
from tests.small_run import losses

pytestmark = pytest.mark.slurm


@pytest.fixture(autouse=True)
def _clean(slurm_lab: SlurmLab) -> Iterator[None]:
    yield
    slurm_lab.run(["bash", "-c", "squeue -h -o %i | xargs -r scancel -f; true"])
    deadline = time.monotonic() + 20
    while slurm_lab.run(["squeue", "-h"]).stdout.strip() and time.monotonic() < deadline:
        time.sleep(0.2)
    for node in ("n1", "n2", "n3", "n4"):
        slurm_lab.repair(node)


def preempt(lab: SlurmLab) -> str:
    """Submit a job that needs all nodes, and preempts others."""
    words = ["sbatch", "--parsable", "-p", "prod", "-N", "4", "--exclusive", "-o", "/dev/null"]
    return lab.run([*words, "--wrap", "sleep 3"]).stdout.strip()


@pytest.mark.parametrize(
    "partition",
    [
        "grace",
        pytest.param("nograce", marks=pytest.mark.slow),
        pytest.param("cancel", marks=pytest.mark.slow),
        pytest.param("kill", marks=pytest.mark.slow),
    ],
)
def test_a_preempted_run_finishes(slurm_lab: SlurmLab, tmp_path: Path, partition: str) -> None:
    run = submit(slurm_lab, tmp_path, f"cluster.partition={partition}")
    run.wait_for_step(60)
    preempt(slurm_lab)
    assert run.wait_until_over() == "COMPLETED", run.log()
    run.require_finished()
    if partition in ("grace", "cancel"):
        assert run.ends() == ["preempted", "done"]
        assert run.starts()[1] > 60, "saved in the grace, and not only every 40 steps"
        (*_, ledger) = [record for record in run.journal() if record["event"] == "ledger"]
        assert ledger["lost_work_s"] == 0.0


@pytest.mark.slow
def test_a_requeue_by_hand_finishes(slurm_lab: SlurmLab, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow = ("track.mlflow.enabled=true", f"track.mlflow.tracking_uri={store}")
    run = submit(slurm_lab, tmp_path, *mlflow, name="it's a run, 100% é")
    run.wait_for_step(60)
    slurm_lab.run(["scontrol", "requeue", run.job])
    assert run.wait_until_over() == "COMPLETED", run.log()
    run.require_finished()
    client = MlflowClient(store)
    (sent,) = client.search_runs([client.get_experiment_by_name("mulaunch").experiment_id])
    assert sent.info.status == "FINISHED"
    history = client.get_metric_history(sent.info.run_id, "loss")
    assert sorted({point.step for point in history}) == list(range(1, STEPS + 1)), (
        "one run over both attempts"
    )
    assert run.ends() == ["preempted", "done"]


@pytest.mark.slow
def test_four_nodes_are_preempted_and_finish(slurm_lab: SlurmLab, tmp_path: Path) -> None:
    words = ("--nodes", "4", "train.micro_batch_size=2", "cluster.partition=grace")
    run = submit(slurm_lab, tmp_path, *words)
    run.wait_for_step(60)
    preempt(slurm_lab)
    assert run.wait_until_over() == "COMPLETED", run.log()
    assert run.ends() == ["preempted", "done"]
    trained = step_records(run.folder / "journal.jsonl")
    # Four ranks sum in another order than the two of the reference.
    assert losses(trained)[:100] == pytest.approx(reference()[:100], rel=1e-4)
    assert len(trained) == STEPS


@pytest.mark.slow
def test_a_suspended_run_is_not_taken_for_a_hang(slurm_lab: SlurmLab, tmp_path: Path) -> None:
    run = submit(slurm_lab, tmp_path)
    run.wait_for_step(60)
    slurm_lab.run(["scontrol", "suspend", run.job])
    time.sleep(12)  # guard.stall_s is 8
    slurm_lab.run(["scontrol", "resume", run.job])
    assert run.wait_until_over() == "COMPLETED", run.log()
    run.require_finished()
    assert run.ends() == ["done"]


@pytest.mark.slow
def test_a_run_that_preemption_suspends_continues(slurm_lab: SlurmLab, tmp_path: Path) -> None:
    # Sites choose it for the whole cluster, and partitions then have no grace.
    with slurm_lab.configured(("PreemptMode=REQUEUE\nSched", "PreemptMode=SUSPEND,GANG\nSched")):
        run = submit(slurm_lab, tmp_path, "cluster.partition=suspend")
        run.wait_for_step(60)
        words = ["sbatch", "--parsable", "-p", "prod", "-N", "4", "-n", "64", "-o", "/dev/null"]
        other = slurm_lab.run([*words, "--wrap", "sleep 12"]).stdout.strip()  # guard.stall_s is 8
        run.wait(lambda: slurm_lab.show(run.job)["JobState"] == "SUSPENDED", 30)
        assert slurm_lab.show(other)["JobState"] == "RUNNING"
        assert run.wait_until_over() == "COMPLETED", run.log()
    run.require_finished()
    assert run.ends() == ["done"]


@pytest.mark.slow
def test_a_time_limit_is_saved_before_and_the_run_continues(slurm_lab: SlurmLab, tmp_path: Path) -> None:
    steps = "train.steps=6000"
    run = submit(slurm_lab, tmp_path, steps, "cluster.time_min=1", "cluster.warning_s=30")
    run.wait(lambda: len(run.starts()) > 1, 180)
    slurm_lab.run(["scancel", run.job])
    assert run.wait_until_over() == "CANCELLED"
    ends, starts = run.ends(), run.starts()
    assert ends[0] == "time limit"
    last = max(r["step"] for r in run.journal() if r["event"] == "step" and r["attempt"] == 1)
    assert starts[1] == last, "nothing lost"


def test_a_cancelled_run_is_saved_and_never_restarted(slurm_lab: SlurmLab, tmp_path: Path) -> None:
    run = submit(slurm_lab, tmp_path)
    run.wait_for_step(60)
    slurm_lab.run(["scancel", run.job])
    assert run.wait_until_over() == "CANCELLED"
    run.wait(lambda: run.ends() == ["stopped by user"])
    assert run.job == run.first_job
    last = [record for record in run.journal() if record["event"] == "checkpoint"][-1]["step"]
    assert last == run.steps(), "saved at its last step"
    time.sleep(8)  # a requeued job starts again after 6 s
    assert slurm_lab.show(run.job)["JobState"] == "CANCELLED"


@pytest.mark.slow
@pytest.mark.parametrize("node", ["n1", "n2"])
@pytest.mark.parametrize("how", ["crash", "cut"])
def test_a_lost_node_costs_what_was_not_saved(
    slurm_lab: SlurmLab, tmp_path: Path, how: str, node: str
) -> None:
    run = submit(slurm_lab, tmp_path)
    run.wait_for_step(60)
    assert slurm_lab.show(run.job)["NodeList"] == "n[1-2]"
    getattr(slurm_lab, how)(node)
    assert run.wait_until_over(300) == "COMPLETED", run.log()
    run.require_finished()
    assert node not in slurm_lab.show(run.job)["NodeList"].replace("n[3-4]", "")
    assert len(run.ends()) == 2


@pytest.mark.slow
def test_a_killed_rank_is_started_again_in_the_job(slurm_lab: SlurmLab, tmp_path: Path) -> None:
    run = submit(slurm_lab, tmp_path)
    run.wait_for_step(60)
    # As the kernel does it where memory is short. The agent's command line has the rank's in its middle.
    rank = f"python[0-9.]* -u -m launcher.cli.rank --run-dir {run.folder}"
    slurm_lab.run(["pkill", "-KILL", "-o", "-f", rank])
    assert run.wait_until_over() == "COMPLETED", run.log()
    run.require_finished()
    assert run.ends() == ["node lost", "done"], run.log()
    assert slurm_lab.show(run.job)["Restarts"] == "0"


@pytest.mark.slow
@pytest.mark.parametrize("node", ["n1", "n2"])
def test_where_slurm_notices_late_the_others_do_not_wait_for_it(
    slurm_lab: SlurmLab, tmp_path: Path, node: str
) -> None:
    with slurm_lab.configured(("SlurmdTimeout=10", "SlurmdTimeout=120")):
        run = submit(slurm_lab, tmp_path)
        run.wait_for_step(60)
        slurm_lab.crash(node)
        assert run.wait_until_over(400) == "COMPLETED", run.log()
    run.require_finished()
    if node == "n2":  # the supervisor is on n1
        assert run.job != run.first_job
        assert "n2" not in slurm_lab.show(run.job)["NodeList"]
        assert slurm_lab.show(run.job)["ExcNodeList"] == "n2"


def one_screen(run: LabRun) -> list[str]:
    """The log of the job: at most a screen, without a traceback."""
    text = (run.folder / f"logs/slurm-{run.first_job}.log").read_text()
    assert "Traceback" not in text, text
    assert len(text.splitlines()) <= 20, text
    return text.splitlines()


@pytest.mark.slow
def test_data_that_a_node_lacks_is_one_screen_and_never_retried(slurm_lab: SlurmLab, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number in range(4):
        (data / f"{number}.txt").write_text(f"{number} words " * 5000)
    # The folder is there when it is submitted, and when the job starts it is gone.
    run = submit(
        slurm_lab,
        tmp_path,
        f"data.source={{type: files, url: '{data}'}}",
        "data.validation_fraction=0.2",
        "cluster.sbatch_options=[--hold]",
    )
    shutil.rmtree(data)
    slurm_lab.run(["scontrol", "release", run.job])
    assert run.wait_until_over() == "FAILED"
    assert slurm_lab.show(run.job)["ExitCode"] == "2:0", run.log()
    lines = one_screen(run)
    assert len([line for line in lines if str(data) in line]) == 1, lines


@pytest.mark.slow
def test_a_rank_that_raises_is_one_screen_with_its_class_and_never_retried(
    slurm_lab: SlurmLab, tmp_path: Path
) -> None:
    diverges = ("optim.lr=1e30", "guard.max_skips=1", "guard.max_rollbacks=0", "schedule.warmup_steps=0")
    run = submit(slurm_lab, tmp_path, *diverges)
    assert run.wait_until_over() == "FAILED"
    assert slurm_lab.show(run.job)["ExitCode"] == "11:0", run.log()
    text = (run.folder / f"logs/slurm-{run.first_job}.log").read_text()
    assert "Traceback" not in text
    told = [line for line in text.splitlines() if not line.startswith("step")]
    assert len(told) <= 20, text
    assert len([line for line in told if line.startswith("launch: non-finite: ")]) == 1, text
    assert run.ends() == ["non-finite"]


@pytest.mark.slow
def test_a_set_up_that_fails_on_one_node_is_one_line(slurm_lab: SlurmLab, tmp_path: Path) -> None:
    fails = 'cluster.setup=["test $(hostname) != n2"]'
    run = submit(slurm_lab, tmp_path, fails)
    assert run.wait_until_over() == "FAILED"
    assert slurm_lab.show(run.job)["ExitCode"] == "2:0", run.log()
    (line,) = [line for line in one_screen(run) if line.startswith("launch:")]
    assert line == "launch: n2: failed before training: test $(hostname) != n2: ended with 1"


@pytest.mark.slow
def test_a_port_that_is_taken_is_passed_over(slurm_lab: SlurmLab, tmp_path: Path) -> None:
    run = submit(slurm_lab, tmp_path, "train.steps=20", "cluster.sbatch_options=[--hold]")
    port = 20000 + (int(run.job) * 17 + 1) % 12000
    listen = f"import socket, time; s = socket.create_server(('', {port})); time.sleep(60)"
    taken = ["srun", "-w", "n1", "-p", "main", "python3", "-c", listen]
    slurm_lab.run(["bash", "-c", f'{" ".join(taken[:-1])} "{listen}" >/dev/null 2>&1 &'])
    time.sleep(3)
    slurm_lab.run(["scontrol", "release", run.job])
    assert run.wait_until_over() == "COMPLETED", run.log()
    assert run.steps() == 20


@pytest.mark.slow
def test_node_names_that_mean_nothing_do_no_harm(slurm_lab: SlurmLab, tmp_path: Path) -> None:
    hosts = slurm_lab.folder / "hosts"
    before = hosts.read_text()
    hosts.write_text("127.0.0.1 localhost\n10.66.0.254 submit\n")
    try:
        run = submit(slurm_lab, tmp_path)
        assert run.wait_until_over() == "COMPLETED", run.log()
    finally:
        hosts.write_text(before)
    run.require_finished()


@pytest.mark.slow
def test_the_same_script_again_is_one_line_and_the_first_job_continues(
    slurm_lab: SlurmLab, tmp_path: Path
) -> None:
    run = submit(slurm_lab, tmp_path)
    run.wait_for_step(20)
    words = ["sbatch", "--parsable", "-p", "main", str(run.folder / "job.sh")]
    second = slurm_lab.run(words, cwd=tmp_path, env=environment()).stdout.strip()
    run.wait(lambda: slurm_lab.show(second).get("JobState") == "FAILED")
    assert slurm_lab.show(second)["ExitCode"] == "2:0"
    text = (run.folder / f"logs/slurm-{second}.log").read_text()
    assert re.fullmatch(r"launch: \S+: is being trained by job \d+ on n\[1-2\]\n +wait.*\n", text), text
    assert run.wait_until_over() == "COMPLETED"
    run.require_finished()
    assert run.ends() == ["done"]


@pytest.mark.slow
def test_a_site_that_forbids_requeue_gets_another_job(slurm_lab: SlurmLab, tmp_path: Path) -> None:
    run = submit(slurm_lab, tmp_path, "cluster.partition=grace")
    run.wait_for_step(60)
    slurm_lab.run(["scontrol", "update", f"jobid={run.job}", "requeue=0"])
    preempt(slurm_lab)
    assert run.wait_until_over() == "COMPLETED", run.log()
    assert run.job != run.first_job
    run.require_finished()


def test_what_slurm_refuses_leaves_nothing_and_names_the_key(slurm_lab: SlurmLab, tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as refused:
        submit(slurm_lab, tmp_path, "cluster.partition=mian")
    text = str(refused.value)
    assert "ended with 2" in text
    assert "cluster.partition=mian" in text
    assert "did you mean 'main'? partitions are cancel, grace, kill, main, nograce, prod, suspend" in text
    assert not (tmp_path / "run").exists()
    with pytest.raises(AssertionError, match="sinfo -o .* lists them"):
        submit(slurm_lab, tmp_path, "--nodes", "8", "train.micro_batch_size=1")
    assert not (tmp_path / "run").exists()


def test_variables_of_sbatch_do_not_win_without_a_word(slurm_lab: SlurmLab, tmp_path: Path) -> None:
    env = {"SBATCH_PARTITION": "nope", "SBATCH_NO_REQUEUE": "1"}
    run = submit(slurm_lab, tmp_path, "cluster.partition=main", "cluster.sbatch_options=[--hold]", env=env)
    shown = slurm_lab.show(run.job)
    assert (shown["Partition"], shown["Requeue"]) == ("main", "1")
    slurm_lab.run(["scancel", run.job])


@pytest.mark.slow
@pytest.mark.parametrize("second", range(0, 16, 3))
def test_a_run_cancelled_in_any_moment_of_a_requeue_stays_cancelled(
    slurm_lab: SlurmLab, tmp_path: Path, second: int
) -> None:
    run = submit(slurm_lab, tmp_path, "cluster.partition=grace")
    run.wait_for_step(60)
    preempt(slurm_lab)
    time.sleep(0.7 * second)
    slurm_lab.run(["scancel", run.job])
    run.wait_until_over()
    time.sleep(8)
    assert slurm_lab.show(run.job)["JobState"] in ("CANCELLED", "FAILED", "COMPLETED"), run.log()
    assert run.steps() < STEPS
