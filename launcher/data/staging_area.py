"""A data set copied to a disk of this node before the first step, digests compared. Torch-free."""

import fcntl
import hashlib
import os
from pathlib import Path

from launcher import files
from launcher.data.token_set import DATASET, TOKEN_BYTES, TokenSet
from launcher.errors import Problem, UserError

_PIECE = 4 << 20


def staged(url: str, token_set: TokenSet, stage: str) -> str:
    """The local folder of the copy. The first process of a node to come makes it, the others wait.

    Raises UserError for a shard with another content than was written, and where the disk has no room.
    """
    folder = Path(stage).expanduser().absolute() / token_set.fingerprint
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / DATASET).exists():
                _copy(url, token_set, folder)
    except OSError as error:
        message = f"cannot hold the data: {error.strerror or error}"
        raise UserError(Problem.at("data.stage", message, "choose another disk, or leave it out")) from None
    return str(folder)


def _copy(url: str, token_set: TokenSet, folder: Path) -> None:
    """Every file, dataset.json last; what an earlier copy left whole is kept."""
    for split in token_set.splits.values():
        for shard in split.shards:
            _copy_file(url, f"{shard.name}.bin", shard.sha256, folder)
            _copy_file(url, f"{shard.name}.idx", shard.index_sha256, folder)
    for name in (TOKEN_BYTES, DATASET):
        if files.is_file(files.join(url, name)):
            files.write_bytes(str(folder / name), files.read_bytes(files.join(url, name)))


def _copy_file(url: str, name: str, sha256: str, folder: Path) -> None:
    if (folder / name).exists():  # it got its name when it was whole
        return
    digest = hashlib.sha256()
    partial = folder / f".partial-{name}"
    with files.open_binary(files.join(url, name)) as source, open(partial, "wb") as target:
        while piece := source.read(_PIECE):
            digest.update(piece)
            target.write(piece)
    if digest.hexdigest() != sha256:
        partial.unlink()
        message = "has other content than was written"
        remedy = "see what is damaged: launch data verify, then copy it again"
        raise UserError(Problem(files.join(url, name), message, remedy, key="data.source"))
    os.replace(partial, folder / name)
