"""Who can talk to a run: nobody from elsewhere on one node, and only who knows its secret on several."""

import base64
import contextlib
import os
import pickle
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend

from launcher.guard.elastic import SignedBackend
from launcher.run_folder import make_secret, read_secret
from launcher.signed import ForgedError, sign, unsign
from launcher.signed_store import SignedStore
from launcher.track.journal import read_journal
from tests.launch import ENVIRONMENT, LAUNCH
from tests.small_run import RECIPE
from tests.wait import wait_for

SECRET = b"s" * 32


class Payload:
    """Leaves a file wherever it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@contextlib.contextmanager
def launched(folder: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """`launch` and all that it starts, in a session of its own; output in out.txt."""
    (folder / "small.yaml").write_text(RECIPE)
    with open(folder / "out.txt", "wb") as out:
        process = subprocess.Popen(
            [*LAUNCH, "small.yaml", *words, "--run-dir", "run"],
            cwd=folder,
            env={**os.environ, **ENVIRONMENT},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def listening(pid: int) -> list[str]:
    """Local addresses, as in /proc/net, of the sockets on which a process listens."""
    inodes = set()
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                inodes.add(os.readlink(path).removeprefix("socket:[").removesuffix("]"))
    rows = [
        row.split()
        for kind in ("tcp", "tcp6")
        for row in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]
    ]
    return [row[1] for row in rows if row[3] == "0A" and row[9] in inodes]


@pytest.mark.parametrize(
    "engine",
    [
        "parallel={engine: torch, strategy: fsdp2}",
        "parallel={engine: deepspeed, zero_stage: 3}",
        pytest.param("parallel={engine: torch, strategy: ddp}", marks=pytest.mark.slow),
        pytest.param("parallel={engine: deepspeed, zero_stage: 1}", marks=pytest.mark.slow),
    ],
)
def test_a_run_on_one_node_can_be_reached_from_this_machine_only(tmp_path: Path, engine: str) -> None:
    journal = tmp_path / "run/journal.jsonl"

    def has_saved() -> bool:
        return journal.exists() and any(r["event"] == "checkpoint" for r in read_journal(journal))

    words = ("cluster.nproc_per_node=2", "train.steps=100000", "model.dropout=0", engine)
    with launched(tmp_path, *words) as process:
        wait_for(has_saved, lambda: (tmp_path / "out.txt").read_text())
        agent = psutil.Process(process.pid)
        pids = [p.pid for p in (agent, *agent.children(recursive=True))]
        found = [address for pid in pids for address in listening(pid)]
    assert len(pids) == 3, "the agent and two ranks"
    assert found, "gloo listens, or this test looks at the wrong place"
    loopback = "0100007F"
    assert {address.split(":")[0] for address in found} == {loopback}


def test_a_stranger_at_the_nodes_meeting_can_end_it_and_his_code_does_not_run(tmp_path: Path) -> None:
    from tests.launcher.cli.test_elastic import free_port

    port = free_port()
    words = ("--nodes", "2", f"cluster.rendezvous=127.0.0.1:{port}", "parallel.strategy=ddp")
    with launched(tmp_path, *words) as process:
        wait_for(lambda: "nodes meet at" in (tmp_path / "out.txt").read_text())
        store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=60))
        script = (tmp_path / "run/job.sh").read_text()
        (job_id,) = re.findall(r"--rdzv-id=(\w+)", script)
        key = f"torch.rendezvous.{job_id}"
        store.wait([key])
        payload = pickle.dumps(Payload(tmp_path / "ran"))
        deadline = time.monotonic() + 60
        # Again and again: the agent may be about to write its own. When it has ended, its store is gone.
        with contextlib.suppress(RuntimeError):
            while process.poll() is None and time.monotonic() < deadline:
                store.set(key, base64.b64encode(payload).decode())
                time.sleep(0.1)
        assert process.wait(60) == 13
    said = (tmp_path / "out.txt").read_text()
    assert "node lost: ForgedError: the nodes' meeting was written by somebody who does not know" in said
    assert not (tmp_path / "ran").exists()
    assert (tmp_path / "run/secret").stat().st_mode & 0o777 == 0o600


def test_a_state_that_was_signed_is_read_and_any_other_is_not_even_unpickled(tmp_path: Path) -> None:
    store = FileStore(str(tmp_path / "store"), 2)
    plain = C10dRendezvousBackend(store, "run")
    signed = SignedBackend(C10dRendezvousBackend(store, "run"), SECRET)
    assert signed.get_state() is None
    written = signed.set_state(b"state")
    assert written is not None
    assert (written[0], written[2]) == (b"state", True)
    assert signed.get_state() == written[:2]
    token = plain.get_state()
    assert token is not None
    payload = pickle.dumps(Payload(tmp_path / "ran"))
    assert plain.set_state(payload, token[1]) is not None
    with pytest.raises(ForgedError, match="does not know this run's secret"):
        signed.get_state()
    assert not (tmp_path / "ran").exists()
    pickle.loads(payload)
    assert (tmp_path / "ran").exists(), "the payload would have run"


def test_an_address_that_a_stranger_has_left_is_not_used(tmp_path: Path) -> None:
    store = FileStore(str(tmp_path / "store"), 2)
    signed = SignedStore(store, SECRET)
    signed.set("0//cpu//0/1", b"address")
    assert signed.get("0//cpu//0/1") == b"address"
    for forged in (b"his", b"", sign(b"x" * 32, "0//cpu//0/1", b"his"), sign(SECRET, "0//cpu//0/0", b"his")):
        store.set("0//cpu//0/1", forged.hex())
        with pytest.raises(ForgedError):
            signed.get("0//cpu//0/1")
    store.set("0//cpu//0/1", "not hex")
    with pytest.raises(ForgedError):
        signed.get("0//cpu//0/1")


def test_a_signature_is_for_one_name_one_secret_and_one_message() -> None:
    signed = sign(SECRET, "name", b"message")
    assert unsign(SECRET, "name", signed) == b"message"
    moved = sign(SECRET, "nam", b"emessage")
    for secret, name, message in (
        (b"t" * 32, "name", signed),
        (SECRET, "eman", signed),
        (SECRET, "name", signed[:-1]),
        (SECRET, "name", signed[:10]),
        (SECRET, "name", moved),
    ):
        with pytest.raises(ForgedError):
            unsign(secret, name, message)


def test_a_runs_secret_is_made_once_and_is_for_its_user_only(tmp_path: Path) -> None:
    assert read_secret(str(tmp_path)) is None
    make_secret(str(tmp_path))
    first = read_secret(str(tmp_path))
    assert first is not None
    assert len(first) == 32
    make_secret(str(tmp_path))
    assert read_secret(str(tmp_path)) == first
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
