"""`launch doctor [--cluster]`: what a run will find here and on the nodes, each finding with its remedy."""

import os
import shutil
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.config import ClusterConfig
from cluster.job import Job, SubmitError
from cluster.kinds import sbatch_available
from cluster.site import ask_site
from cluster.slurm import SlurmCluster
from cluster.slurm_job import QueueError, ask_job, cancel_job
from cluster.snapshot import describe_environment
from launcher import files
from launcher.cli.arguments import add_profile, positive, with_profile
from launcher.cli.findings import Finding, of_nodes, of_site, ok
from launcher.cli.node_probe import reach_mlflow
from launcher.cli.parser import Parser
from launcher.cli.tracking import run_environment
from launcher.errors import Problem, UserError
from launcher.json_text import dump_json, load_json
from launcher.recipe.compile import compile_recipe
from launcher.table import table_lines

_ANY_RECIPE = """\
version: 1
name: doctor
seed: 1
schedule: {type: constant}
checkpoint: {every: 1}
track: {log_every: 1}
model: {type: lm, vocab_size: 256, d_model: 8, num_layers: 1, pattern: [s4d], s4d: {d_state: 4}}
data: {source: {type: python-stdlib}, seq_len: 8}
optim: {type: adamw, lr: 1e-3}
mup: {type: sp}
parallel: {engine: torch, strategy: single}
train: {steps: 1, global_batch_size: 1, micro_batch_size: 1}
"""
"""Only its `cluster` section counts, which a profile gives."""


def run_doctor(arguments: Sequence[str]) -> int:
    """Look around; returns 1 if something is bad."""
    parser = Parser(
        prog="launch doctor",
        description="What a run will find on this machine and, with --cluster, on nodes: a short job looks "
        "around there. Each finding comes with its remedy.",
    )
    parser.add_argument("--cluster", action="store_true", help="ask Slurm, and submit a short job")
    add_profile(parser)
    parser.add_argument("--nodes", type=positive, default=2, metavar="N", help="nodes of the job; default 2")
    parser.add_argument(
        "--wait", type=positive, default=300, metavar="S", help="longest wait for it; default 300 s"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    options = parser.parse_args(arguments)
    findings = look_here()
    if options.cluster:
        findings += look_at_cluster(options.profile, options.nodes, options.wait, say=not options.json)
    if options.json:
        print(dump_json([asdict(finding) for finding in findings], indent=1))
    else:
        print("\n".join(finding_lines(findings)))
    return int(any(finding.level == "bad" for finding in findings))


def finding_lines(findings: Sequence[Finding]) -> list[str]:
    """A line for each, its remedy below it."""
    rows = table_lines([[finding.level, finding.topic, finding.text] for finding in findings])
    lines = []
    for row, finding in zip(rows, findings, strict=True):
        lines += [row, *([f"      {finding.remedy}"] if finding.remedy else [])]
    return lines


def look_here() -> list[Finding]:
    """This machine: packages, GPUs, disk, the tracking server."""
    environment: Any = describe_environment(Path(__file__).parents[2])
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items() if version)
    found = [ok("versions", f"python {environment['python']}, {packages}")]
    found.append(_gpus_here())
    free = shutil.disk_usage(Path.cwd()).free
    found.append(ok("disk", f"{free / 1e9:.3g} GB are free in this folder"))
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if problem := reach_mlflow(uri):
        remedy = "training does not wait for it; `launch replay RUN` sends what is missing"
        found.append(Finding(level="note", topic="mlflow", text=problem, remedy=remedy))
    return found


def _gpus_here() -> Finding:
    driver = Path("/proc/driver/nvidia/version")
    if not driver.exists():
        return ok("gpus", "no NVIDIA driver on this machine: runs here use CPUs")
    import torch

    count = torch.cuda.device_count()
    text = f"torch for CUDA {torch.version.cuda} sees {count}; {driver.read_text().splitlines()[0]}"
    if count:
        return ok("gpus", text)
    remedy = "install a torch whose CUDA the driver supports"
    return Finding(level="bad", topic="gpus", text=text, remedy=remedy)


def look_at_cluster(profile: str | None, num_nodes: int, wait_s: int, *, say: bool) -> list[Finding]:
    """Slurm's configuration, and the answers of a job's nodes."""
    if not sbatch_available():
        remedy = "call it on a host of a Slurm cluster"
        return [Finding(level="bad", topic="slurm", text="sbatch is not on PATH", remedy=remedy)]
    config = cluster_of(profile)
    try:
        site = ask_site()
    except QueueError as error:
        return [Finding(level="bad", topic="slurm", text=str(error), remedy="is slurmctld up?")]
    partition = site.find(config.partition)
    if partition is None:
        names = ", ".join(known.name for known in site.partitions)
        text = f"there is no partition {config.partition!r}"
        return [Finding(level="bad", topic="slurm", text=text, remedy=f"there are {names}")]
    found = of_site(site, partition)
    folder = Path(f"runs/.doctor-{uuid.uuid4().hex[:8]}").absolute()
    (folder / "logs").mkdir(parents=True)
    try:
        return [*found, *_probe(config, folder, num_nodes, wait_s, say=say)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def cluster_of(profile: str | None) -> ClusterConfig:
    """The `cluster` section that a profile alone gives. Raises UserError."""
    overrides = with_profile([], profile)
    return compile_recipe(_ANY_RECIPE, "doctor", overrides, nodes=1, nproc_per_node=1).recipe.cluster


def _probe(config: ClusterConfig, folder: Path, num_nodes: int, wait_s: int, *, say: bool) -> list[Finding]:
    cluster = SlurmCluster(config.model_copy(update={"nodes": num_nodes, "time_min": 3}))
    script = folder / "job.sh"
    try:
        text = cluster.render(_job(folder, num_nodes))
        notes = cluster.check(text)
        script.write_text(text)
        job = cluster.submit(script)
    except (SubmitError, ValueError) as error:
        remedy = getattr(error, "remedy", "") or "the profile asks for what this cluster has not"
        return [Finding(level="bad", topic="job", text=str(error), remedy=remedy)]
    found = [Finding(level="note", topic="sbatch", text=note) for note in notes]
    if say:
        print(f"job {job} looks around on {num_nodes} nodes, for at most {wait_s} s", flush=True)
    state = _wait(job, folder, wait_s)
    answers = [load_json(path.read_bytes()) for path in sorted(folder.glob("node-*.json"))]
    batch = load_json((folder / "batch.json").read_bytes()) if (folder / "batch.json").exists() else {}
    found += of_nodes(answers, batch, num_nodes)
    if len(answers) < num_nodes:
        found += [Finding(level="bad", topic="job", text=line) for line in _last_words(folder, job, state)]
    return found


def _job(folder: Path, num_nodes: int) -> Job:
    return Job(
        name="launch-doctor",
        run_dir=str(folder),
        cwd=str(Path.cwd()),
        nodes=num_nodes,
        nproc_per_node=1,
        python=sys.executable,
        agent=("-m", "launcher.cli.node_probe"),
        command=("-m", "launcher.cli.node_probe"),
        env=run_environment(),
        supervisor=("-m", "launcher.cli.probe_job", "--run-dir", str(folder)),
        threads=1,
    )


def _wait(job: str, folder: Path, wait_s: int) -> str:
    """Until the job is over, or too late: then it is cancelled. Returns how it stood."""
    deadline, state = time.monotonic() + wait_s, "unknown"
    while time.monotonic() < deadline:
        try:
            found = ask_job(job)
        except QueueError as error:
            state = str(error)
        else:
            state = f"{found.state} ({found.reason})" if found.reason not in ("", "None") else found.state
            if found.is_over or (folder / "batch.json").exists():
                return state
        time.sleep(0.5)
    try:
        cancel_job(job)
    except QueueError as error:
        raise UserError(Problem(f"job {job}", f"cannot be cancelled: {error}", f"scancel {job}")) from None
    return state


def _last_words(folder: Path, job: str, state: str) -> list[str]:
    """Why nodes have not answered, as far as that was written down."""
    lines = [f"job {job} is {state}"]
    for path in sorted(folder.glob("setup-*")):
        lines.append(f"{path.name.removeprefix('setup-')}: {path.read_text().strip()}")
    for path in [
        *sorted(folder.glob("logs/slurm-*.log")),
        folder / "srun.log",
        *sorted(folder.glob("node-*.log")),
    ]:
        text = files.read_text(str(path)).strip() if path.exists() else ""
        lines += [f"{path.name}: {line[:160]}" for line in text.splitlines()[-2:]]
    return lines[:8]
