import json
import sys
from pathlib import Path

import pytest

from cluster.config import ClusterConfig, ContainerConfig
from cluster.job import SubmitError
from cluster.slurm import SlurmCluster
from tests.cluster.jobs import NASTY, SHOW, assert_bash_reads, run_script, small_job, write_program
from tests.golden.check import check_golden

SUPERVISOR = ("-m", "launcher.cli.supervisor", "--run-dir", "/runs/quickstart")


def test_the_usual_script() -> None:
    config = ClusterConfig(nodes=2, nproc_per_node=2)
    script = SlurmCluster(config).render(small_job(nodes=2, supervisor=SUPERVISOR))
    assert_bash_reads(script)
    check_golden("slurm.sh", script)


def test_everything_that_a_recipe_can_ask_for() -> None:
    config = ClusterConfig(
        nodes=8,
        nproc_per_node=4,
        time_min=600,
        partition="gpu",
        account="physics",
        qos="high",
        gpus_per_node=4,
        cpus_per_node=48,
        gpus_as="gres",
        gpu_type="h100",
        memory="0",
        exclude="n[3-4]",
        interface="ib0",
        scratch="$SLURM_TMPDIR/launch",
        container=ContainerConfig(runtime="pyxis", image="/images/a b.sqsh", mounts=("/data",)),
        sbatch_options=("--hint=nomultithread", "--comment=two words"),
        srun_options=("--mpi=none",),
        setup=("module load cuda/12.8",),
        env={"NCCL_DEBUG": "WARN"},
    )
    cluster = SlurmCluster(config)
    script = cluster.render(
        small_job(nodes=8, nproc_per_node=4, threads=cluster.threads(4), supervisor=SUPERVISOR)
    )
    assert_bash_reads(script)
    check_golden("slurm-full.sh", script)


@pytest.mark.parametrize("run_dir", ["s3://bucket/run", "runs/here", "/runs/a\\b"])
def test_a_run_folder_that_slurm_cannot_log_to_is_refused(run_dir: str) -> None:
    with pytest.raises(ValueError, match="run_dir is"):
        SlurmCluster(ClusterConfig()).render(small_job(run_dir=run_dir))


def test_every_word_reaches_the_agents_as_it_was_given(tmp_path: Path) -> None:
    python = write_program(tmp_path / NASTY / "python", f"#!{sys.executable}\n{SHOW}")
    job = small_job(
        cwd=str(python.parent), python=str(python), command=("-m", NASTY, ""), env={"A": NASTY}, nodes=2
    )
    done = run_script(SlurmCluster(ClusterConfig()).render(job), tmp_path)
    assert done.returncode == 0, done.stderr
    arguments, env, cwd = json.loads(done.stdout)
    assert arguments == [
        *("-m", "torch.distributed.run", "--rdzv-endpoint=10.0.0.7:20001", "--rdzv-id=24001.0.1"),
        *("--rdzv-conf=is_host=0,read_timeout=600", "--nnodes=2", "--nproc-per-node=2", "--max-restarts=0"),
        *("--rdzv-backend=c10d", "-m", NASTY, ""),
    ]
    assert (env["A"], cwd) == (NASTY, str(python.parent))


def test_a_node_with_an_ipv6_address_is_written_in_brackets(tmp_path: Path) -> None:
    python = write_program(tmp_path / "python", f"#!{sys.executable}\n{SHOW}")
    job = small_job(cwd=str(tmp_path), python=str(python), nodes=2)
    script = SlurmCluster(ClusterConfig()).render(job)
    done = run_script("export SRUN_ADDRESS=fd00::7\n" + script, tmp_path)
    assert "--rdzv-endpoint=[fd00::7]:20001" in json.loads(done.stdout)[0]


def test_set_up_runs_on_every_node_and_a_failure_there_leaves_word(tmp_path: Path) -> None:
    python = write_program(tmp_path / "python", f"#!{sys.executable}\n{SHOW}")
    setup = ('test "$SLURMD_NODENAME" != n8',)  # true in the batch script, false in the task
    job = small_job(cwd=str(tmp_path), python=str(python), nodes=2)
    done = run_script(SlurmCluster(ClusterConfig(setup=setup)).render(job), tmp_path)
    assert done.returncode == 1
    text = (tmp_path / "setup-n8").read_text()
    assert text == 'test "$SLURMD_NODENAME" != n8: ended with 1\n'


def test_apptainer_starts_the_interpreter_in_the_image_with_its_folders(tmp_path: Path) -> None:
    python = write_program(tmp_path / "python", f"#!{sys.executable}\n{SHOW}")
    write_program(tmp_path / "bin" / "apptainer", "#!/bin/bash\nprintf '%s\\n' \"$@\"\n")
    container = ContainerConfig(runtime="apptainer", image="/a b.sif", mounts=("/data:/data",))
    job = small_job(cwd=str(tmp_path), python=str(python), nodes=2)
    script = SlurmCluster(ClusterConfig(container=container, gpus_per_node=2)).render(job)
    words = run_script(script, tmp_path).stdout.splitlines()
    binds = ["--bind=/runs/quickstart", f"--bind={tmp_path}", "--bind=/data:/data"]
    assert words[:8] == ["exec", "--nv", *binds, f"--pwd={tmp_path}", "/a b.sif", str(python)]


def fake_sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> Path:
    """Put an sbatch on PATH, and return a script to submit."""
    write_program(tmp_path / "bin" / "sbatch", f"#!/bin/bash\n{body}\n")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    run_dir = tmp_path / NASTY.replace("\\", "")
    run_dir.mkdir()
    script = run_dir / "launch.sh"
    script.write_text(SlurmCluster(ClusterConfig()).render(small_job(run_dir=str(run_dir))))
    return script


@pytest.mark.parametrize("answer", ["123", "123;cluster-b"])
def test_submit_hands_over_the_file_and_returns_the_job_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    script = fake_sbatch(
        tmp_path, monkeypatch, f'printf "%s\\n" "$@" >"{tmp_path}/arguments"; echo "{answer}"'
    )
    assert SlurmCluster(ClusterConfig()).submit(script) == "123"
    assert (tmp_path / "arguments").read_text().splitlines() == ["--parsable", str(script)]
    assert (script.parent / "logs").is_dir()
    assert SlurmCluster(ClusterConfig()).submit(script) == "123"  # again, with the logs there


def test_submit_does_not_hand_on_the_allocation_it_runs_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "7")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    script = fake_sbatch(tmp_path, monkeypatch, f'env >"{tmp_path}/env"; echo 1')
    SlurmCluster(ClusterConfig()).submit(script)
    names = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert {name for name in names if name.startswith("SLURM_")} == {"SLURM_CONF"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "echo 'sbatch: error: invalid partition specified: nope' >&2; exit 1",
            "invalid partition specified: nope",
        ),
        ("exit 255", "sbatch ended with 255 and said nothing"),
        ("echo Submitted", "sbatch answered 'Submitted\\\\n', which is not a job id"),
    ],
)
def test_a_refusal_is_reported_in_the_words_of_sbatch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    script = fake_sbatch(tmp_path, monkeypatch, body)
    with pytest.raises(SubmitError, match=message):
        SlurmCluster(ClusterConfig()).submit(script)


def test_without_sbatch_submit_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = fake_sbatch(tmp_path, monkeypatch, "")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SubmitError, match="sbatch is not on PATH"):
        SlurmCluster(ClusterConfig()).submit(script)


def test_a_script_moved_to_another_folder_is_not_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = fake_sbatch(tmp_path, monkeypatch, "echo 1")
    moved = tmp_path / "elsewhere" / "launch.sh"
    moved.parent.mkdir()
    script.rename(moved)
    with pytest.raises(ValueError, match="not rendered for the run folder it is in"):
        SlurmCluster(ClusterConfig()).submit(moved)


def test_an_array_gives_each_task_its_index_and_limits_how_many_run(tmp_path: Path) -> None:
    python = write_program(tmp_path / "python", f"#!{sys.executable}\n{SHOW}")
    job = small_job(
        cwd=str(tmp_path), python=str(python), command=("-m", "x", "--points", NASTY), nproc_per_node=1
    )
    script = SlurmCluster(ClusterConfig(partition="gpu")).render_array(job, 12, 3)
    assert_bash_reads(script)
    assert "#SBATCH --array=0-11%3" in script
    assert "#SBATCH --output=/runs/quickstart/logs/slurm-%A_%a.log" in script
    assert "slurm-%j.log" not in script
    done = run_script("export SLURM_ARRAY_TASK_ID=7\n" + script, tmp_path)
    assert json.loads(done.stdout)[0] == ["-m", "x", "--points", NASTY, "--index", "7"]
