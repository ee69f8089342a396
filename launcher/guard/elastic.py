"""torchrun's elastic agent, run in this process for one attempt at a time. The door to torch's launcher."""

import contextlib
import logging
import re
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousGracefulExitError,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousTimeoutError,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import create_backend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import (
    RendezvousBackend,
    Token,
    create_handler,
)
from torch.distributed.launcher.api import LaunchConfig, launch_agent
from torch.distributed.run import config_from_args, parse_args

from launcher.network import address_of
from launcher.plan.worlds import most_that_fit
from launcher.signed import ForgedError, sign, unsign

_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))
NEW_STORES = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Otherwise the ranks of each meeting find the keys and addresses of the one before."""
_POLL_S = 1.0
_STATE = "the nodes' meeting"


class MeetingError(Exception):
    """The nodes could not meet. `closed`: another node has ended the job."""

    def __init__(self, message: str, *, closed: bool = False) -> None:
        super().__init__(message)
        self.closed = closed


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """Nodes that have found each other, and train until one is lost or joins."""

    name: str
    """The same on all of them, and new each time."""
    num_present: int
    num_nodes: int
    """Those that train. The others stand by."""
    node: int
    """Number of this one among them."""
    info: RendezvousInfo


@final
class Elastic:
    """torchrun's arguments, read once, and the connection to where nodes meet.

    `folder`: of this node and this user only. The agent of a single node meets its ranks in a file there.
    """

    def __init__(self, words: Sequence[str], folder: Path) -> None:
        self._folder = folder
        self.secret: bytes | None = None
        """Of the run, with which its nodes sign what they tell each other."""
        self._arguments = parse_args(list(words))
        self._arguments.log_dir = str(folder / "torch")  # else torch leaves one in /tmp for each attempt
        self.rank_words: Sequence[str] = self._arguments.training_script_args
        fewest, colon, most = self._arguments.nnodes.rpartition(":")
        self.one_node = most == "1"
        self.may_change = bool(colon) and not self.one_node
        """Whether lost nodes may come back, and fewer nodes continue; the environment has NEW_STORES."""
        self.fewest, self.most = int(fewest or most), int(most)
        self.per_node = int(self._arguments.nproc_per_node)
        self.endpoint: str = self._arguments.rdzv_endpoint
        self.error = ""
        """Why the last attempt was cut off."""
        self.address = ""
        """Of this node, as the others reach it; empty for a single node."""
        self._handler: RendezvousHandler | None = None
        self._counts: Sequence[int] = [self.most]
        if not self.one_node:
            self._arguments.local_addr = self._arguments.local_addr or address_of(self.endpoint)
            self.address = self._arguments.local_addr

    def meet(self, counts: Sequence[int]) -> Meeting:
        """Wait for one of these numbers of nodes, and to be one of them. Raises MeetingError."""
        self._counts = counts
        config, _, _ = config_from_args(self._arguments)
        try:
            if self._handler is None:
                self._handler = self._open_handler(config)
            while True:
                info = self._handler.next_rendezvous()
                num_nodes = most_that_fit(counts, info.world_size)
                if info.rank < num_nodes:
                    break
                while not self._handler.num_nodes_waiting():  # stands by
                    if self._handler.is_closed():
                        raise RendezvousClosedError
                    time.sleep(_POLL_S)
            if info.rank == 0:
                info.store.set("name", f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}")
            name = info.store.get("name").decode()
            if not re.fullmatch(r"[0-9a-f-]{1,40}", name):  # it becomes a folder's name
                raise ForgedError(f"the nodes' meeting is called {name!r}")
        except (RendezvousClosedError, RendezvousGracefulExitError):
            raise MeetingError("another node has ended the job", closed=True) from None
        except MeetingError:
            raise
        except RendezvousTimeoutError:
            raise MeetingError(f"fewer than {self.fewest} nodes have come to {self.endpoint}") from None
        except Exception as error:  # torch raises many kinds
            raise MeetingError(self._describe(error)) from error
        assert info.bootstrap_store_info is not None
        met = RendezvousInfo(info.store, info.rank, num_nodes, info.bootstrap_store_info)
        return Meeting(name=name, num_present=info.world_size, num_nodes=num_nodes, node=info.rank, info=met)

    def run(self, meeting: Meeting, on_more: Callable[[], None]) -> dict[int, int]:
        """Run all ranks of this node to their ends; exit codes of those that failed, by rank.

        Calls `on_more` when nodes wait with which more could train.
        """
        assert self._handler is not None
        self.error = ""
        config, command, words = config_from_args(self._arguments)
        met = _Met(meeting, self._handler, lambda: on_more() if self.can_grow(meeting) else None)
        config.rdzv_backend = met.name
        rendezvous_handler_registry.register(met.name, lambda _parameters: met)
        try:
            launch_agent(config, command, words)
        except ChildFailedError as error:
            return {rank: failure.exitcode for rank, failure in error.failures.items()}
        except Exception as error:  # of the rendezvous: many kinds, also when another node is gone
            self.error = self._describe(error)
        finally:
            if not self.may_change:
                self.close()
        return {}

    def is_regrouping(self, meeting: Meeting) -> bool:
        """After a run: whether other nodes may have asked all ranks to leave because some have joined."""
        with contextlib.suppress(Exception):
            return not self.error and self.can_grow(meeting)
        return False

    def can_grow(self, meeting: Meeting) -> bool:
        """Whether nodes wait with which more could train. Raises what torch does where they met is gone."""
        if not self.may_change or self._handler is None:
            return False
        present = meeting.num_present + self._handler.num_nodes_waiting()
        return most_that_fit(self._counts, present) > meeting.num_nodes

    def close(self) -> None:
        """End the job for all nodes: those that wait, or stand by, leave."""
        if self._handler is not None:
            with contextlib.suppress(Exception):  # the node that they meet on may be gone
                self._handler.shutdown()
        self._handler = None

    def _open_handler(self, config: LaunchConfig) -> RendezvousHandler:
        options, endpoint = dict(config.rdzv_configs), config.rdzv_endpoint
        if self.one_node:
            # A new file each time: torch does not take up one that has been used.
            options, endpoint = {"store_type": "file"}, str(self._folder / f"meeting-{uuid.uuid4().hex}")
        elif self.secret is None:
            raise MeetingError("RUN/secret is missing, with which nodes sign; launch resume RUN writes it")
        here = self.may_change and _is_here(self.endpoint)
        # Where it is said who is the host, the others wait for it here, not in torch.
        if not here and (self.may_change or str(options.get("is_host", "1")) == "0"):
            _wait_for(self.endpoint)
        # On the node where they meet, the first agent opens the store and any other on it finds it open.
        for is_host in [True, False] if here else [False]:
            if self.may_change:
                options["is_host"] = is_host
            parameters = RendezvousParameters(
                backend=config.rdzv_backend,
                endpoint=endpoint,
                run_id=config.run_id,
                min_nodes=config.min_nodes,
                max_nodes=config.max_nodes,
                local_addr=config.local_addr,
                **options,
            )
            try:
                backend, store = create_backend(parameters)
            except RendezvousConnectionError:
                if not is_host:
                    raise
            else:
                signed = backend if self.secret is None else SignedBackend(backend, self.secret)
                return create_handler(store, signed, parameters)
        raise AssertionError("the last of several tries returns or raises")

    def _describe(self, error: Exception) -> str:
        if isinstance(error, RendezvousConnectionError) and self.may_change:
            return f"no connection to {self.endpoint}, where the nodes meet"
        return " ".join(f"{type(error).__name__}: {error}".split())


@final
class SignedBackend(RendezvousBackend):
    """The state of a rendezvous, signed. torch keeps it as a pickle in a store that anyone can write to."""

    def __init__(self, backend: RendezvousBackend, secret: bytes) -> None:
        self._backend, self._secret = backend, secret

    @property
    def name(self) -> str:
        """See the base class."""
        return self._backend.name

    def get_state(self) -> tuple[bytes, Token] | None:
        """See the base class. Raises ForgedError."""
        found = self._backend.get_state()
        return found and (unsign(self._secret, _STATE, found[0]), found[1])

    def set_state(self, state: bytes, token: Token | None = None) -> tuple[bytes, Token, bool] | None:
        """See the base class. Raises ForgedError."""
        found = self._backend.set_state(sign(self._secret, _STATE, state), token)
        return found and (unsign(self._secret, _STATE, found[0]), found[1], found[2])


@final
class _Met(RendezvousHandler):
    """A rendezvous that has taken place, as torch's agent asks for it."""

    def __init__(self, meeting: Meeting, handler: RendezvousHandler, look: Callable[[], None]) -> None:
        self.name = f"met-{meeting.name}"
        """As a backend in torch's registry."""
        self._info, self._handler, self._look = meeting.info, handler, look

    @property
    def use_agent_store(self) -> bool:
        """See the base class."""
        return self._handler.use_agent_store

    def get_backend(self) -> str:
        """See the base class."""
        return self.name

    def get_run_id(self) -> str:
        """See the base class."""
        return self._handler.get_run_id()

    def next_rendezvous(self) -> RendezvousInfo:
        """See the base class."""
        return self._info

    def num_nodes_waiting(self) -> int:
        """None, for torch's agent: it would end the ranks at once, and they could not save."""
        self._look()
        return 0

    def is_closed(self) -> bool:
        """See the base class."""
        return self._handler.is_closed()

    def set_closed(self) -> None:
        """Nothing: only the end of the run closes it."""

    def shutdown(self) -> bool:
        """Nothing: only the end of the run closes it."""
        return True


def _is_here(endpoint: str) -> bool:
    """Whether the host of HOST:PORT is this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((endpoint.rpartition(":")[0], 0))
        except OSError:
            return False
        return True


def _wait_for(endpoint: str) -> None:
    """Wait until HOST:PORT answers. In Python, where a signal is noticed; torch waits without looking up."""
    host, _, port = endpoint.rpartition(":")
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=5.0):
                return
        except OSError:
            time.sleep(_POLL_S)


def log_to(path: Path | None) -> None:
    """Send torch's own lines, up to 140 around one failure, to a file, or nowhere."""
    logger = logging.getLogger("torch.distributed.elastic")
    logger.handlers[:] = [logging.FileHandler(path) if path else logging.NullHandler()]
    logger.propagate = False


def count_memory_kills() -> int:
    """Processes of this container that the kernel has killed for memory."""
    for path in _COUNTERS:
        if path.exists() and (found := re.search(r"^oom_kill (\d+)", path.read_text(), re.MULTILINE)):
            return int(found[1])
    return 0
