"""From a checked recipe to a started run: plan, render, freeze, submit. Imports torch, for the plan."""

import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.job import Cluster, Job, JobError, SubmitError
from cluster.kinds import choose_cluster, sbatch_available
from cluster.shell import user_threads
from cluster.snapshot import describe_environment, read_diff
from launcher import files, run_folder
from launcher.data.token_set import TOKENIZER, tokenizer_of
from launcher.errors import Problem, UserError
from launcher.mup.bsh import dump_base_shapes
from launcher.plan.plan import Plan, make_plan
from launcher.plan.plan_record import plan_record
from launcher.plan.worlds import node_counts, planned_ranks
from launcher.recipe.compile import dump_recipe, seal_recipe
from launcher.recipe.schema import Recipe
from launcher.run_jobs import record_job
from launcher.spool import Spool

PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run that is ready to start; nothing is written yet."""

    recipe: Recipe
    run_url: str
    submission: str
    """Folder of a resume inside the run's; empty for a new run."""
    plan: Plan
    cluster: Cluster
    job: Job
    script: str


def prepare(
    recipe: Recipe, run_url: str, *, env: Mapping[str, str], submission: str = "", only_show: bool = False
) -> Prepared:
    """Plan a run and render its script; `env` is for its processes.

    `only_show`: the script is for another machine, so this one need not have sbatch.
    """
    plan = make_plan(recipe, planned_ranks(recipe))
    try:
        cluster = choose_cluster(recipe.cluster, has_sbatch=only_show or sbatch_available())
        if not only_show:
            cluster.require_devices(recipe.cluster.nproc_per_node)
        job = _make_job(recipe, run_url, cluster, env, submission)
        script = cluster.render(job)
    except JobError as error:
        raise UserError(Problem(error.key or "job", str(error), key=error.key)) from None
    return Prepared(
        recipe=recipe,
        run_url=run_url,
        submission=submission,
        plan=plan,
        cluster=cluster,
        job=job,
        script=script,
    )


def _make_job(recipe: Recipe, run_url: str, cluster: Cluster, env: Mapping[str, str], submission: str) -> Job:
    shape = recipe.cluster
    before = first_launch(run_url)
    # The order of sums depends on the number of threads, and relative paths depend on the folder. A resume
    # keeps both from the first attempt. With another number of processes per node, sums change in any case.
    same_shape = before.get("nproc_per_node") == shape.nproc_per_node
    threads = user_threads() or (before.get("threads") if same_shape else None)
    return Job(
        name=recipe.name,
        run_dir=run_url,
        cwd=first_folder(run_url) or str(Path.cwd()),
        nodes=shape.nodes,
        min_nodes=None if shape.min_nodes is None else node_counts(recipe)[0],
        nproc_per_node=shape.nproc_per_node,
        python=sys.executable,
        agent=("-m", "launcher.cli.agent"),
        command=(
            *("-m", "launcher.cli.rank", "--run-dir", run_url),
            *(("--submission", submission) if submission else ()),
        ),
        env=env,
        supervisor=(
            *("-m", "launcher.cli.supervisor", "--run-dir", run_url),
            *(("--submission", submission) if submission else ()),
        ),
        threads=threads if isinstance(threads, int) else cluster.threads(shape.nproc_per_node),
    )


def check_space(prepared: Prepared) -> Iterator[Problem]:
    """A hint where the disk has no room for all checkpoints; raises UserError where it has none for one."""
    free, one = files.free_bytes(prepared.run_url), prepared.plan.checkpoint_bytes
    if free is None:
        return
    place, kept = files.shortest(prepared.run_url), prepared.recipe.checkpoint.keep + 1
    sizes = f"{free / 1e9:.3g} GB are free, and a checkpoint has {one / 1e9:.3g} GB"
    if free < one:
        raise UserError(Problem(place, sizes, "make room, or choose another --run-dir"))
    if free < kept * one:  # a new one is complete before the oldest goes
        yield Problem(place, f"{sizes}: up to {kept} at a time", "make room, or lower checkpoint.keep")


def first_launch(run_url: str) -> dict[str, object]:
    """How a run was started first; nothing for one that was not."""
    # Each resume keeps the folder and the threads of the first launch, and writes them beside its own recipe.
    attempts = [f"attempts/{name}" for name in files.list_names(files.join(run_url, "attempts"))]
    for place in ("", *attempts):
        url = files.join(run_url, *([place] if place else []), run_folder.ENVIRONMENT)
        if isinstance(launch := files.read_record(url).get("launch"), dict):
            return launch
    return {}


def first_folder(run_url: str) -> str | None:
    """The folder in which a run's relative paths begin; None for a new run, or one that was moved away."""
    found = first_launch(run_url).get("cwd")
    return found if isinstance(found, str) and Path(found).is_dir() else None


def freeze_and_submit(prepared: Prepared, *, source: str | None) -> int:
    """Write the run folder, then train in this process (and never return) or submit the script."""
    job = prepared.job
    launch = {
        "cwd": job.cwd,
        "threads": job.threads,
        "nproc_per_node": job.nproc_per_node,
        "nodes": job.nodes,
        "submitted": time.time(),
    }
    files.make_folder(files.join(prepared.run_url, "logs"))
    if job.nodes > 1:
        run_folder.make_secret(prepared.run_url)
    _keep_tokenizer(prepared)
    folder = files.join(prepared.run_url, *([prepared.submission] if prepared.submission else []))
    script_url = run_folder.freeze(
        folder,
        recipe=seal_recipe(dump_recipe(prepared.recipe)),
        source=source,
        plan=plan_record(prepared.plan),
        shapes=dump_base_shapes(prepared.plan.parameters.base_shapes),
        script=prepared.script,
        environment=describe_environment(PACKAGE) | {"launch": launch},
        diff=read_diff(PACKAGE),
    )
    print(f"run: {prepared.run_url}", flush=True)
    try:
        job_id = prepared.cluster.submit(_local_script(script_url, prepared.script))
    except SubmitError as error:
        # As if it had not been called: the same command, when that is fixed, finds the folder free.
        files.remove(folder)
        raise _refused(error) from None
    record_job(prepared.run_url, "submitted", job_id, {"script": script_url})
    print(f"job: {job_id}\nlog: {prepared.run_url}/logs/slurm-{job_id}.log")
    print(f"how it stands: launch status {shlex.quote(files.shortest(prepared.run_url))}")
    print(f"submit again to resume: sbatch {shlex.quote(script_url)}")
    return 0


def _keep_tokenizer(prepared: Prepared) -> None:
    """A copy in the run's folder, so that its model speaks text wherever the data are."""
    kept, url = files.join(prepared.run_url, TOKENIZER), tokenizer_of(prepared.recipe.data)
    if url is not None and not files.exists(kept):
        files.write_bytes(kept, files.read_bytes(url))


def ask_scheduler(prepared: Prepared) -> Iterator[Problem]:
    """Hints on how the scheduler takes the script; raises UserError where it would refuse it."""
    try:
        for line in prepared.cluster.check(prepared.script):
            yield Problem("sbatch", line)
    except SubmitError as error:
        raise _refused(error) from None


def _refused(error: SubmitError) -> UserError:
    return UserError(Problem(error.key or "sbatch", str(error), error.remedy, key=error.key))


def _local_script(script_url: str, text: str) -> Path:
    """The script as a local file: for a remote run folder, a copy in a temporary one."""
    local = files.local_path(script_url)
    if local is not None:
        return local
    path = Spool().folder / run_folder.SCRIPT  # this process becomes the script's
    path.write_text(text)
    return path
