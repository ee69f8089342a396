import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.config import ClusterConfig
from cluster.devices import quota_cpus
from cluster.job import Job
from cluster.local import LocalCluster
from tests.cluster.jobs import NASTY, assert_bash_reads, small_job, write_program
from tests.golden.check import check_golden

SHOW = f"""#!{sys.executable}
import json, os, sys
print(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]))
"""
SUBMIT = """
import sys; from pathlib import Path
from cluster.config import ClusterConfig; from cluster.local import LocalCluster
print("before")
LocalCluster(ClusterConfig()).submit(Path(sys.argv[1]))
"""


def test_the_usual_script() -> None:
    script = LocalCluster(ClusterConfig(nproc_per_node=2)).render(small_job())
    assert_bash_reads(script)
    check_golden("local.sh", script)


def test_set_up_lines_and_variables_come_before_the_agent() -> None:
    config = ClusterConfig(
        setup=("module load cuda/12.8",), env={"NCCL_DEBUG": "WARN", "OMP_NUM_THREADS": "8"}
    )
    script = LocalCluster(config).render(small_job(env={"LAUNCH_ATTEMPT": "1"}))
    assert_bash_reads(script)
    check_golden("local-setup.sh", script)


def test_several_nodes_are_refused() -> None:
    with pytest.raises(ValueError, match="got 3 nodes; this machine is 1 node"):
        LocalCluster(ClusterConfig()).render(small_job(nodes=3))


@pytest.mark.parametrize(("fewest", "nodes"), [(None, "3:3"), (2, "2:3")])
def test_one_script_for_every_node_that_is_started_by_hand(fewest: int | None, nodes: str) -> None:
    config = ClusterConfig(nodes=3, rendezvous="n1:29400")
    job = replace(small_job(nodes=3, run_dir="/runs/a b"), min_nodes=fewest)
    script = LocalCluster(config).render(job)
    assert_bash_reads(script)
    assert f"--nnodes={nodes} " in script
    assert re.search("--rdzv-endpoint=n1:29400 --rdzv-id=[0-9a-f]{16} --rdzv-conf=", script)


def test_nodes_that_are_started_by_hand_share_the_run_folder() -> None:
    config = ClusterConfig(nodes=3, rendezvous="n1:29400")
    with pytest.raises(ValueError, match="must be a path that all nodes share"):
        LocalCluster(config).render(small_job(nodes=3, run_dir="s3://bucket/run"))


@pytest.mark.parametrize(
    ("cpu_max", "quota_us", "period_us", "cpus"),
    [
        ("max 100000\n", "", "", None),
        ("200000 100000\n", "", "", 2),
        ("150000 100000\n", "", "", 1),
        ("50000 100000\n", "", "", 1),
        ("", "-1\n", "100000\n", None),
        ("", "400000\n", "100000\n", 4),
        ("", "", "", None),
    ],
)
def test_the_quota_of_a_container_counts(
    cpu_max: str, quota_us: str, period_us: str, cpus: int | None
) -> None:
    assert quota_cpus(cpu_max, quota_us, period_us) == cpus


@pytest.mark.parametrize(("given", "threads"), [(None, "4"), ("3", "3")])
def test_the_users_own_threads_count_more_than_the_guess(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, threads: str
) -> None:
    if given is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    python = write_program(tmp_path / "python", SHOW)
    script = LocalCluster(ClusterConfig()).render(small_job(cwd="/", python=str(python)))
    done = subprocess.run(["bash"], input=script, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)[1]["OMP_NUM_THREADS"] == threads


def test_every_word_reaches_the_agent_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    python = write_program(tmp_path / NASTY / "python", SHOW)
    job = small_job(
        cwd=str(python.parent), python=str(python), command=("-m", NASTY, "--x", ""), env={"A": NASTY}
    )
    script = LocalCluster(ClusterConfig(env={"B": NASTY})).render(job)
    done = subprocess.run(["bash"], input=script, capture_output=True, text=True, check=True)
    arguments, env, cwd = json.loads(done.stdout)
    assert arguments[:2] == ["-m", "torch.distributed.run"]
    assert arguments[-4:] == ["-m", NASTY, "--x", ""]
    assert (env["A"], env["B"], env["OMP_NUM_THREADS"], cwd) == (NASTY, NASTY, "4", str(python.parent))


def test_a_failing_set_up_line_stops_the_script(tmp_path: Path) -> None:
    python = write_program(tmp_path / "python", SHOW)
    script = LocalCluster(ClusterConfig(setup=("false",))).render(small_job(cwd="/", python=str(python)))
    done = subprocess.run(["bash"], input=script, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")


def submit(tmp_path: Path, job: Job) -> subprocess.Popen[str]:
    script = tmp_path / "launch.sh"
    script.write_text(LocalCluster(ClusterConfig()).render(job))
    return subprocess.Popen(
        [sys.executable, "-c", SUBMIT, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_submit_becomes_the_agent_so_that_signals_and_exit_status_are_its_own(tmp_path: Path) -> None:
    agent = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: os._exit(42))
print("agent", os.getpid(), flush=True)
signal.pause()
"""
    python = write_program(tmp_path / "python", f"#!{sys.executable}\n{agent}")
    process = submit(tmp_path, small_job(cwd="/", python=str(python)))
    assert process.stdout is not None
    assert process.stdout.readline() == "before\n"  # what was printed before is not lost
    assert process.stdout.readline() == f"agent {process.pid}\n"
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 42


def test_torchrun_starts_every_process_and_prints_no_banner(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    names = "RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR OMP_NUM_THREADS"
    # each line in one write: the processes share the pipe, and print() writes a word at a time
    line = f'" ".join(os.environ[name] for name in {names.split()}) + "\\n"'
    program.write_text(f"import os; os.write(1, ({line}).encode())\n")
    process = submit(
        tmp_path, small_job(cwd="/", python=sys.executable, command=(str(program),), nproc_per_node=2)
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    threads = os.environ.get("OMP_NUM_THREADS", "4")
    assert sorted(out.splitlines()) == [f"0 0 2 127.0.0.1 {threads}", f"1 1 2 127.0.0.1 {threads}", "before"]
    assert err == ""
