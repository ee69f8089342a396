"""What `launch doctor` makes of what was seen: findings, each with its remedy. Pure; torch-free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

from cluster.site import Partition, Site

Level = Literal["ok", "note", "bad"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    topic: str
    text: str
    remedy: str = ""


def ok(topic: str, text: str) -> Finding:
    """Nothing to do."""
    return Finding(level="ok", topic=topic, text=text)


def of_site(site: Site, partition: Partition) -> list[Finding]:
    """What Slurm's configuration means for a run."""
    config, found = site.config, list[Finding]()
    found.append(
        ok("slurm", f"{config.get('SLURM_VERSION', '?')}, cluster {site.name}, partition {partition.name}")
    )
    mode = partition.preempt_mode
    if mode in ("", "OFF"):
        found.append(ok("preemption", "jobs of this partition are not preempted"))
    elif partition.grace_s == 0 and mode != "SUSPEND":
        remedy = "lower checkpoint.every, or ask for a GraceTime that a step and a save fit in"
        text = f"{mode} without GraceTime: what was trained since the last checkpoint is lost"
        found.append(Finding(level="note", topic="preemption", text=text, remedy=remedy))
    else:
        found.append(
            ok("preemption", f"{mode}, GraceTime {partition.grace_s} s: it must fit a step and a save")
        )
    if config.get("JobRequeue") == "0":
        text = "JobRequeue=0: our jobs ask for requeue; where that is refused, another job is submitted"
        found.append(Finding(level="note", topic="requeue", text=text))
    kill_wait = config.get("KillWait", "30 sec").split()[0]
    found.append(ok("cancel", f"KillWait {kill_wait} s: what scancel leaves for a save"))
    if "none" in config.get("AccountingStorageType", "none"):
        text = "no accounting: Slurm forgets jobs after a few minutes"
        found.append(Finding(level="note", topic="accounting", text=text, remedy="RUN/jobs.jsonl keeps them"))
    lost_s = config.get("SlurmdTimeout", "300 sec").split()[0]
    found.append(
        ok("node failure", f"Slurm notices a lost node after {lost_s} s; the watchdog ends its ranks")
    )
    return found


def of_nodes(nodes: Sequence[Mapping[str, Any]], batch: Mapping[str, Any], wanted: int) -> list[Finding]:
    """What the probes have seen."""
    found = [_answered(nodes, wanted)]
    if not nodes:
        return found
    found += [*_network(nodes), *_folder(nodes), *_job(batch), *_gpus(nodes)]
    skew = max(abs(float(node["skew_s"])) for node in nodes)
    text = f"clocks differ by at most {skew:.3f} s"
    remedy = "have the nodes keep time by NTP: leases of remote runs and times in journals compare clocks"
    found.append(
        Finding(level="bad", topic="clocks", text=text, remedy=remedy) if skew > 2 else ok("clocks", text)
    )
    away = sorted({node["mlflow"] for node in nodes if node["mlflow"]})
    if away:
        remedy = "training does not wait for it; `launch replay RUN` sends what is missing"
        found.append(Finding(level="note", topic="mlflow", text=away[0], remedy=remedy))
    else:
        found.append(ok("mlflow", "reached from all nodes, or a local store"))
    return found


def _answered(nodes: Sequence[Mapping[str, Any]], wanted: int) -> Finding:
    text = f"{len(nodes)} of {wanted} nodes have answered"
    if len(nodes) == wanted:
        return ok("nodes", text)
    remedy = "the lines below, if any, say why; set-up runs on every node"
    return Finding(level="bad", topic="nodes", text=text, remedy=remedy)


def _network(nodes: Sequence[Mapping[str, Any]]) -> list[Finding]:
    cut = [node["name"] for node in nodes if not node["reaches_first"]]
    if cut:
        text = f"{', '.join(cut)} cannot reach the first node at its address"
        remedy = "a firewall between nodes? ports 20000 to 31999 are used; `cluster.exclude` leaves nodes out"
        found = [Finding(level="bad", topic="rendezvous", text=text, remedy=remedy)]
    else:
        found = [ok("rendezvous", "all nodes reach the first one at its address")]
    unknown = sorted({name for node in nodes for name, address in node["resolves"].items() if not address})
    looped = sorted(
        {name for node in nodes for name, address in node["resolves"].items() if address.startswith("127.")}
    )
    if unknown or looped:
        text = f"names do not lead to nodes: {', '.join([*unknown, *looped][:8])}"
        found.append(Finding(level="note", topic="names", text=text, remedy="addresses are used instead"))
    else:
        found.append(ok("names", "all nodes know each other's names"))
    errors = [f"{node['name']}: {node['all_reduce_error']}" for node in nodes if node["all_reduce_error"]]
    if errors:
        remedy = "ranks would not reach each other either; `cluster.interface` chooses the network"
        found.append(Finding(level="bad", topic="all-reduce", text=errors[0], remedy=remedy))
    elif len(nodes) > 1:
        slowest = min(float(node["all_reduce_gb_s"]) for node in nodes)
        text = f"{slowest:.2f} GB/s bus bandwidth over one rank per node ({nodes[0]['backend']})"
        found.append(ok("all-reduce", text))
    common = set.intersection(*(set(node["interfaces"]) for node in nodes)) - {"lo"}
    found.append(ok("interfaces", f"on all nodes: {', '.join(sorted(common)) or 'none'} (cluster.interface)"))
    return found


def _folder(nodes: Sequence[Mapping[str, Any]]) -> list[Finding]:
    blind = [node["name"] for node in nodes if node["sees"] < len(nodes)]
    slowest = min(float(node["write_mib_s"]) for node in nodes)
    found = [ok("folder", f"all nodes see each other's files; the slowest writes {slowest:.0f} MiB/s")]
    if blind:
        text = f"{', '.join(blind)} do not see what other nodes write here"
        remedy = "choose a --run-dir on a file system that all nodes share"
        found = [Finding(level="bad", topic="folder", text=text, remedy=remedy)]
    if not all(node["lock"] for node in nodes):
        text = "locks (flock) do not hold between nodes here"
        remedy = "owner.json fences attempts all the same; do not start one run twice at the same moment"
        found.append(Finding(level="note", topic="locks", text=text, remedy=remedy))
    else:
        found.append(ok("locks", "a lock of one node holds for the others"))
    return found


def _job(batch: Mapping[str, Any]) -> list[Finding]:
    if not batch:
        return []
    if batch.get("slurm"):
        text = f"the job cannot ask Slurm: {batch['slurm']}"
        remedy = "its script must be able to run scontrol: without it, nothing is queued again by itself"
        return [Finding(level="bad", topic="slurm in jobs", text=text, remedy=remedy)]
    found = [ok("signals", "the script gets Slurm's warning (--signal=B:USR1)")]
    if not batch.get("signal"):
        text = "the script has not received a signal that Slurm has sent it"
        remedy = "time limits will cost what was trained since the last checkpoint; lower checkpoint.every"
        found = [Finding(level="bad", topic="signals", text=text, remedy=remedy)]
    if batch.get("requeue"):
        return [*found, ok("requeue", "the job may be queued again")]
    text = "the site does not let jobs be queued again: another job is submitted instead"
    return [*found, Finding(level="note", topic="requeue", text=text)]


def _gpus(nodes: Sequence[Mapping[str, Any]]) -> list[Finding]:
    found = []
    for node in nodes:
        gpus = node["gpus"]
        if not gpus:
            continue
        text = f"{node['name']}: torch sees {gpus['count']} GPUs, of {gpus['asked'] or 'none'} asked for"
        if gpus["asked"] and int(gpus["count"]) < int(gpus["asked"]):
            built, driver = gpus["torch_cuda"] or "none", gpus["driver"] or "none"
            remedy = f"torch is built for CUDA: {built}; the driver: {driver}"
            found.append(Finding(level="bad", topic="gpus", text=text, remedy=remedy))
        else:
            found.append(ok("gpus", f"{text}: {', '.join(gpus['names'])}, {gpus['driver']}"))
    return found
