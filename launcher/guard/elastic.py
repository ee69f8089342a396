"""torchrun's elastic agent, run in this process for one attempt. The door to torch's launcher."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import final

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import launch_agent
from torch.distributed.run import config_from_args, parse_args

_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))


@final
class Elastic:
    """torchrun's arguments, read once."""

    def __init__(self, words: Sequence[str]) -> None:
        self._arguments = parse_args(list(words))
        self.rank_words: Sequence[str] = self._arguments.training_script_args
        self.num_nodes = int(self._arguments.nnodes)
        self.one_node = self.num_nodes == 1
        self.per_node = int(self._arguments.nproc_per_node)
        self.id: str = self._arguments.rdzv_id
        """The same on all nodes of a job."""
        self.error = ""
        """Why the last attempt could not start, or was cut off."""

    def run(self) -> dict[int, int]:
        """Run all ranks of this node to their ends; exit codes of those that failed, by rank."""
        self.error = ""
        config, command, words = config_from_args(self._arguments)
        try:
            launch_agent(config, command, words)
        except ChildFailedError as error:
            return {rank: failure.exitcode for rank, failure in error.failures.items()}
        except (
            Exception
        ) as error:  # of the rendezvous: torch raises many kinds, also when another node is gone
            self.error = " ".join(f"{type(error).__name__}: {error}".split())
        return {}


def log_to(path: Path | None) -> None:
    """Send torch's own lines, up to 140 around one failure, to a file, or nowhere."""
    logger = logging.getLogger("torch.distributed.elastic")
    logger.handlers[:] = [logging.FileHandler(path, delay=True) if path else logging.NullHandler()]
    logger.propagate = False


def count_memory_kills() -> int:
    """Processes of this container that the kernel has killed for memory."""
    for path in _COUNTERS:
        if path.exists() and (found := re.search(r"^oom_kill (\d+)", path.read_text(), re.MULTILINE)):
            return int(found[1])
    return 0
