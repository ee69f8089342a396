"""One save on its way to storage, in a thread beside training. All ranks run theirs together.

The order of its writes, and why a crash at any point leaves a run that can be resumed:
  1. journal  synced by the loop before the save, so that no checkpoint is newer than its journal lines.
  2. clear    rank 0 empties the step's folder: the manifest will list files of this save only.
  3. write    every rank writes its shards, and computes their digests as they pass, then DCP its index. No
              manifest yet, so not a checkpoint.
  4. publish  the manifest appears by one rename or put: a resume now finds it.
  5. delete   old checkpoints are deleted last. Before 4, a failed save would leave nothing to resume.
Between them all ranks agree that each has succeeded. What storage refuses ends the save, and nothing else.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import final

import torch
from pydantic import TypeAdapter

from launcher import files
from launcher.checkpoint.catalog import Outcome, clear_place, delete_old
from launcher.checkpoint.config import CheckpointConfig
from launcher.checkpoint.manifest import MANIFEST, FileEntry, Manifest, manifest_text
from launcher.checkpoint.storage import write_tensors
from launcher.errors import is_cloud_error
from launcher.fence import Fence
from launcher.run_folder import LocalMirror
from launcher.world import World

_REASON = TypeAdapter[str | None](str | None)
_FILES = TypeAdapter(dict[str, FileEntry])


@final
class Save:
    """A save in progress. Started at once."""

    def __init__(
        self,
        world: World,
        tensors: Mapping[str, torch.Tensor],
        manifest: Manifest,
        *,
        url: str,
        mirror: LocalMirror,
        config: CheckpointConfig,
        fence: Fence | None,
        known: dict[int, float | None],
    ) -> None:
        self._world, self._tensors, self._manifest = world, tensors, manifest
        self._url, self._mirror, self._config = url, mirror, config
        self._fence, self._known = fence, known
        self._files: Mapping[str, FileEntry] = {}
        self._end: tuple[str | None, str, float] | BaseException | None = None
        # A daemon: a process that must end does not wait for a storage that hangs.
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether `outcome` has nothing to wait for."""
        return not self._thread.is_alive()

    def wait(self, limit_s: float) -> None:
        """Wait for the end, but not for ever."""
        self._thread.join(limit_s)

    def outcome(self) -> Outcome:
        """Wait for the end; raises what was not the storage's fault."""
        self._thread.join()
        assert self._end is not None
        if isinstance(self._end, BaseException):
            raise self._end
        url, reason, write_s = self._end
        step = self._manifest.step
        return Outcome(step=step, url=url, reason=reason, write_s=write_s)

    def _run(self) -> None:
        began = time.monotonic()
        try:
            unclear = self._agree(self._clear)
            problem = unclear or self._agree(self._write) or self._agree(self._publish())
            if problem is None:
                self._known[self._manifest.step] = self._manifest.schedule.state.get("validation_loss")
                url, reason = self._url, self._retire() if self._world.is_main else ""
            else:
                url, reason = None, problem
                if self._world.is_main and not unclear:
                    attempt(lambda: files.remove(self._url))
                    attempt(lambda: files.abort_uploads(self._url))
            self._end = url, reason, time.monotonic() - began
        except BaseException as error:  # raised again where the loop waits
            self._end = error

    def _agree(self, action: Callable[[], None]) -> str | None:
        """What storage has refused, on any rank."""
        told = self._world.gather(attempt(action), _REASON)
        return next((f"{reason}{_on(rank, told)}" for rank, reason in enumerate(told) if reason), None)

    def _clear(self) -> None:
        self._mirror.require_place()
        if self._world.is_main:
            clear_place(self._mirror.run_url, self._url)

    def _write(self) -> None:
        self._files = write_tensors(self._url, self._tensors, self._world.group)

    def _publish(self) -> Callable[[], None]:
        parts = self._world.gather(dict(self._files), _FILES)

        def write() -> None:
            if self._fence is not None:
                self._fence.check()
            if self._world.is_main:
                found = {name: entry for part in parts for name, entry in sorted(part.items())}
                text = manifest_text(self._manifest.model_copy(update={"files": found}))
                files.write_text(files.join(self._url, MANIFEST), text)

        return write

    def _retire(self) -> str:
        """Delete what is old, and copy the journal; what is refused here does not undo the save."""
        return "; ".join(
            reason
            for reason in (
                attempt(lambda: delete_old(self._mirror.run_url, self._config, self._known)),
                attempt(self._mirror.publish),
            )
            if reason
        )


def attempt(action: Callable[[], object]) -> str | None:
    """What storage has refused in an action; raises what is not about storage."""
    try:
        action()
    except OSError as error:
        where = f": {files.shortest(str(error.filename))}" if error.filename else ""
        return f"{error.strerror or error}{where}"
    except Exception as error:
        if not is_cloud_error(error):
            raise
        return f"{type(error).__name__}: {error}"
    return None


def _on(rank: int, told: list[str | None]) -> str:
    return f" (rank {rank})" if len(told) > 1 else ""
