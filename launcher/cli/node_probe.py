"""What `launch doctor --cluster` runs on each node: it looks around, and leaves what it has seen as JSON.

`python -m launcher.cli.node_probe --rdzv-endpoint=HOST:PORT ...` in the place of an agent, so that set-up,
container and environment are those of a run.
"""

import contextlib
import fcntl
import os
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import IO

from launcher import files
from launcher.cli.arguments import endpoint_of
from launcher.cli.places import LOGS
from launcher.json_text import dump_json
from launcher.network import address_towards, interface_of, interfaces
from launcher.track.tracking_uri import mask_secrets

HOSTS, SECOND_PORT = "LAUNCH_PROBE_HOSTS", "LAUNCH_PROBE_PORT"
"""Environment variables: names of all nodes, in Slurm's order; a second free port of the first one."""
_REDUCED_MIB = {"nccl": 256, "gloo": 16}
_REPEATS = 5
WRITTEN_MIB = 64
_WAIT_S = 20.0


def main() -> int:
    """Look, and leave node-K.json."""
    folder, node = Path(os.environ[LOGS]), int(os.environ["SLURM_NODEID"])
    hosts, name = os.environ[HOSTS].split(","), os.environ["SLURMD_NODENAME"]
    host, port = endpoint_of(sys.argv[1:])
    seen: dict[str, object] = {"name": name, "host": socket.gethostname(), "python": sys.version.split()[0]}
    seen["interfaces"] = interfaces()
    seen["resolves"] = {other: resolve(other) for other in hosts}
    (folder / f"here-{node}").touch()
    with serving(port, node == 0), (folder / "lock").open("a") as lock:
        if node == 0:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (folder / "locked").touch()
        seen["reaches_first"], seen["skew_s"] = ask_time(host, port)
        seen["sees"] = count_others(folder, "here-*", len(hosts))
        seen["lock"] = node == 0 or try_lock(folder, lock)
        (folder / f"tried-{node}").touch()
        if node == 0:
            count_others(folder, "tried-*", len(hosts))
    seen["write_mib_s"] = write_speed(folder / f"speed-{node}")
    seen["mlflow"] = reach_mlflow(os.environ.get("MLFLOW_TRACKING_URI", ""))
    seen["gpus"] = describe_gpus()
    seen["all_reduce_gb_s"], seen["backend"], seen["all_reduce_error"] = try_all_reduce(
        host, node, len(hosts)
    )
    files.write_text(str(folder / f"node-{node}.json"), dump_json(seen) + "\n")
    return 0


def resolve(name: str) -> str:
    """The address of a node's name; empty where it has none."""
    try:
        return str(socket.getaddrinfo(name, 1, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return ""


@contextlib.contextmanager
def serving(port: int, is_host: bool) -> Iterator[None]:
    """On the first node: answer connections with the time."""
    if not is_host:
        yield
        return
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    with socket.create_server(("", port), family=family, dualstack_ipv6=dual, backlog=4096) as server:
        threading.Thread(target=_answer, args=(server,), daemon=True).start()
        yield


def _answer(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
            with connection:
                connection.sendall(repr(time.time()).encode())
        except OSError:
            return


def ask_time(host: str, port: int) -> tuple[bool, float]:
    """Whether the first node is reached, and by how much its clock is ahead of this one's, in seconds."""
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        try:
            begun = time.time()
            with socket.create_connection((host, port), timeout=5.0) as connection:
                theirs = float(connection.recv(64))
            return True, theirs - (begun + time.time()) / 2
        except (OSError, ValueError):
            time.sleep(0.2)
    return False, 0.0


def count_others(folder: Path, pattern: str, wanted: int) -> int:
    """How many nodes' files this one sees, after a wait for all."""
    deadline = time.monotonic() + _WAIT_S
    while (found := len(list(folder.glob(pattern)))) < wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def try_lock(folder: Path, lock: IO[str]) -> bool:
    """Whether a lock of the first node is one for this node, too."""
    count_others(folder, "locked", 1)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    fcntl.flock(lock, fcntl.LOCK_UN)
    return False


def write_speed(path: Path) -> float:
    """MiB/s of one file, until it is on the disk."""
    block, begun = os.urandom(1 << 20), time.monotonic()
    with open(path, "wb") as stream:
        for _ in range(WRITTEN_MIB):
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
    taken = time.monotonic() - begun
    path.unlink()
    return WRITTEN_MIB / taken


def reach_mlflow(uri: str) -> str:
    """Empty where the tracking server answers, or is not one; else why not."""
    if not uri.startswith(("http://", "https://")):
        return ""
    try:
        with urllib.request.urlopen(uri.rstrip("/") + "/health", timeout=5.0):
            return ""
    except urllib.error.HTTPError:
        return ""  # it answers: a password may be asked for
    except (OSError, ValueError) as error:
        return mask_secrets(f"{uri}: {error}")


def describe_gpus() -> dict[str, object]:
    """What torch sees of this node's GPUs; empty where Slurm has given none and there are none."""
    if not Path("/proc/driver/nvidia/version").exists() and not os.environ.get("SLURM_GPUS_ON_NODE"):
        return {}
    import torch

    driver = Path("/proc/driver/nvidia/version")
    return {
        "count": torch.cuda.device_count(),
        "names": sorted({torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}),
        "torch_cuda": torch.version.cuda or "",
        "driver": driver.read_text().splitlines()[0] if driver.exists() else "",
        "asked": os.environ.get("SLURM_GPUS_ON_NODE", ""),
    }


def try_all_reduce(host: str, node: int, num_nodes: int) -> tuple[float, str, str]:
    """Bus bandwidth of an all-reduce over one rank per node, in GB/s; its backend; and why there is none."""
    if num_nodes < 2:
        return 0.0, "", ""
    import torch
    import torch.distributed as dist

    backend = "nccl" if torch.cuda.is_available() else "gloo"
    device = torch.device("cuda", 0) if backend == "nccl" else torch.device("cpu")
    place = f"[{host}]" if ":" in host else host
    name = interface_of(address_towards(host, 1))
    if name is not None and "GLOO_SOCKET_IFNAME" not in os.environ:
        os.environ["GLOO_SOCKET_IFNAME"] = name
    try:
        dist.init_process_group(
            backend,
            init_method=f"tcp://{place}:{os.environ[SECOND_PORT]}",
            rank=node,
            world_size=num_nodes,
            timeout=timedelta(seconds=60),
        )
        data = torch.zeros(_REDUCED_MIB[backend] << 18, device=device)
        dist.all_reduce(data)  # the first one connects
        float(data[0])
        begun = time.monotonic()
        for _ in range(_REPEATS):
            dist.all_reduce(data)
        float(data[0])  # waits for the device
        seconds = (time.monotonic() - begun) / _REPEATS
        dist.destroy_process_group()
    except Exception as error:  # of the backend: many kinds
        return 0.0, backend, " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return 2 * (num_nodes - 1) / num_nodes * data.nbytes / seconds / 1e9, backend, ""


if __name__ == "__main__":
    sys.exit(main())
