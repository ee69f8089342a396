"""A real Slurm of several nodes on this machine, for tests: lives in namespaces, leaves nothing behind.

Every node has its own host name, network and processes; files are shared, as on a cluster with NFS.
"""

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NUM_NODES = 4
BOOT_TIMEOUT_S = 60
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "iproute2")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "munged", "ip")
UNSHARE = ("unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child")
OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedJob:
    """How a job ended: Slurm's word for it, and the exit code of its script."""

    state: str
    exit_code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmLab:
    """A running cluster. Its submit host is reached by `run`."""

    folder: Path
    pid: int

    def run(
        self,
        command: Sequence[str],
        *,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        timeout_s: float = 120,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the submit host, and return its output as text."""
        enter = ["nsenter", f"--target={self.pid}", "--net", "--mount", "--uts"]
        enter += [f"--pid=/proc/{self.pid}/ns/pid_for_children", f"--wd={cwd or Path.cwd()}", "--"]
        done = subprocess.run(
            [*enter, *command],
            env={**(os.environ if env is None else env), "SLURM_CONF": str(self.folder / "slurm.conf")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def wait(self, job_id: str, timeout_s: float = 120) -> FinishedJob:
        """Wait until a job is over."""
        deadline = time.monotonic() + timeout_s
        while True:
            text = self.run(["scontrol", "show", "job", job_id]).stdout
            fields = dict(re.findall(r"(\w+)=(\S*)", text))
            if fields["JobState"] in OVER:
                return FinishedJob(
                    state=fields["JobState"], exit_code=int(fields["ExitCode"].partition(":")[0])
                )
            if time.monotonic() > deadline:
                self.run(["scancel", job_id])
                raise AssertionError(f"job {job_id} was not over after {timeout_s} s:\n{text}")
            time.sleep(0.2)

    def show(self, job_id: str) -> dict[str, str]:
        """What the controller says of a job; empty for one that it has forgotten."""
        done = self.run(["scontrol", "show", "job", job_id], check=False)
        return dict(re.findall(r"(\w+)=(\S*)", done.stdout))

    @contextlib.contextmanager
    def configured(self, *changes: tuple[str, str]) -> Iterator[None]:
        """With texts of slurm.conf replaced."""
        before = text = (self.folder / "slurm.conf").read_text()
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        try:
            self._configure(text)
            yield
        finally:
            self._configure(before)

    def _configure(self, text: str) -> None:
        # Started again, as a controller that is only told to reconfigure keeps its way of preemption.
        restart = "kill $(cat slurmctld.pid); while pgrep slurmctld; do sleep 0.1; done; slurmctld"
        (self.folder / "slurm.conf").write_text(text)
        self.run(["bash", "-c", f"{restart} && scontrol reconfigure"], cwd=self.folder)

    def crash(self, node: str) -> None:
        """A power failure of a node."""
        self.run(["bash", "-c", f"kill -9 $(cat {self.folder}/{node}.power)"])

    def cut(self, node: str) -> None:
        """Pull a node's network cable."""
        self.run(["ip", "link", "set", f"port{node.removeprefix('n')}", "down"])

    def repair(self, node: str) -> None:
        """Plug the cable in, or boot the node; it is idle when this returns."""
        if self._state(node) == "idle":
            return
        # Off and on: what a node that was cut off still runs would keep it busy for a minute.
        again = f"kill -9 $(cat {node}.power); bash {HERE}/node.sh {self.folder} {node}"
        self.run(["bash", "-c", again], cwd=self.folder)
        deadline = time.monotonic() + 90
        while self._state(node) != "idle":
            assert time.monotonic() < deadline, f"{node} is {self._state(node)}"
            time.sleep(0.5)

    def _state(self, node: str) -> str:
        return self.run(["sinfo", "-hN", "-p", "main", "-n", node, "-o", "%T"]).stdout.strip()

    def wait_for_files(self, *paths: Path, timeout_s: float = 120) -> None:
        """Wait until a job has written these files."""
        deadline = time.monotonic() + timeout_s
        while not all(path.exists() for path in paths):
            if time.monotonic() > deadline:
                raise AssertionError(f"not all of {paths} were there after {timeout_s} s")
            time.sleep(0.1)


def why_no_lab() -> str | None:
    """What this machine lacks for a lab, after an attempt to install it; None if nothing."""
    if os.geteuid() != 0:
        return "not root"
    if any(shutil.which(program) is None for program in PROGRAMS):
        reason = _install()
        if reason is not None:
            return reason
    needs = "ip link add switch type bridge && mount -t tmpfs tmpfs /tmp && mknod /tmp/gpu c 1 3"
    probe = subprocess.run([*UNSHARE, "sh", "-c", needs], capture_output=True, text=True)
    return f"not allowed: {probe.stderr.strip()}" if probe.returncode != 0 else None


def _install() -> str | None:
    # In containers only: elsewhere the packages would start services.
    if shutil.which("apt-get") is None or Path("/run/systemd/system").exists():
        return f"needs the Debian packages {' '.join(PACKAGES)}"
    with open(Path(tempfile.gettempdir()) / "slurm-lab-install.lock", "w") as lock:  # other test processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        if all(shutil.which(program) for program in PROGRAMS):
            return None
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
            done = subprocess.run(
                ["apt-get", "--quiet=2", *command],
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                capture_output=True,
                text=True,
            )
            if done.returncode != 0:
                return f"apt-get {command[0]}: {done.stderr.strip()[-300:]}"
    return None


def _write_configuration(folder: Path) -> None:
    conf = (HERE / "slurm.conf").read_text()
    conf = conf.replace("@LAB@", str(folder)).replace("@NUM_NODES@", str(NUM_NODES))
    (folder / "slurm.conf").write_text(conf)
    (folder / "gres.conf").write_text(f"NodeName=n[1-{NUM_NODES}] Name=gpu File={folder}/gpu[0-1]\n")
    # No control groups are used, but slurmd ends where it cannot guess their version.
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    hosts = ["127.0.0.1 localhost", "10.66.0.254 submit"]
    hosts += [f"10.66.0.{i} n{i}" for i in range(1, NUM_NODES + 1)]
    (folder / "hosts").write_text("\n".join(hosts) + "\n")
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(1024))


def _logs(folder: Path) -> str:
    logs = [*folder.glob("*.log"), *folder.glob("*.out")]
    return "\n".join(f"--- {log.name}\n{log.read_text()[-2000:]}" for log in logs)


def _end(process: subprocess.Popen[bytes]) -> None:
    # Kill the namespace's process 1, not `unshare`: the kernel then lets `unshare` go only when all are gone.
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    if not children:
        process.kill()
    process.wait(timeout=30)


@pytest.fixture(scope="session")
def slurm_lab() -> Iterator[SlurmLab]:
    """A cluster of four nodes with 16 CPUs and 2 GPUs each (made up). Skips where there cannot be one."""
    reason = why_no_lab()
    if reason is not None:
        pytest.skip(f"no Slurm here: {reason}")
    # Not pytest's own folder: a socket's path may have 107 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="slurm-lab-"))
    folder.chmod(0o755)  # munged refuses a socket that not all can reach
    _write_configuration(folder)
    with open(folder / "boot.log", "wb") as log:
        process = subprocess.Popen(
            # Should this process be killed, the kernel ends the lab.
            [
                "setpriv",
                "--pdeathsig=KILL",
                *UNSHARE,
                "bash",
                HERE / "boot.sh",
                folder,
                str(NUM_NODES),
                HERE / "node.sh",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        while not (folder / "ready").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the Slurm lab did not boot:\n{_logs(folder)}")
            time.sleep(0.05)
        yield SlurmLab(folder=folder, pid=process.pid)
    finally:
        if process.poll() is None:
            _end(process)
        shutil.rmtree(folder)
