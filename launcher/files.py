"""The only access to storage: files and folders at any fsspec URL. A plain path is a local file."""

import contextlib
import math
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.core import url_to_fs
from fsspec.utils import glob_translate

from launcher.errors import Problem, StoreError, UserError, as_store_error, is_cloud_error
from launcher.json_text import load_json


@contextlib.contextmanager
def _asking(url: str) -> Iterator[None]:
    """Raise StoreError for all that a remote store says, but that something is missing or there already."""
    try:
        yield
    except (StoreError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError):
        raise
    except Exception as error:
        if local_path(url) is not None or not (isinstance(error, OSError) or is_cloud_error(error)):
            raise
        raise as_store_error(error, url) from error


def _open_filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return (filesystem, path inside it). Raises UserError for an unknown or uninstalled protocol."""
    # fsspec takes `::` in a path for a chain of protocols; a folder on a disk may be called so.
    if (local := local_path(url)) is not None:
        return fsspec.filesystem("file"), str(local)
    try:
        filesystem, path = url_to_fs(url, **storage_options(url))
    except (ValueError, ImportError) as error:
        raise UserError(
            Problem(url, f"cannot be opened: {error}", "use a local path or an fsspec URL")
        ) from None
    if is_s3(url):
        filesystem.retries = _S3_TRIES
    return filesystem, path


_S3_TRIES = 2
"""By s3fs, of connections that break; each request inside has the tries below."""
_S3_CONFIG = {"retries": {"mode": "standard", "total_max_attempts": 4}}
"""About five seconds of waiting, then the store has refused. By default it is a minute for each request."""


def storage_options(url: str) -> Mapping[str, Any]:
    """What fsspec is told beside a URL, unless its own configuration says it."""
    if is_s3(url) and "config_kwargs" not in fsspec.config.conf.get("s3", {}):
        return {"config_kwargs": _S3_CONFIG}
    return {}


def is_s3(url: str) -> bool:
    """Whether a URL leads to a store that talks S3."""
    return url.startswith(("s3://", "s3a://"))


def local_path(url: str) -> Path | None:
    """The absolute local path of a URL, or None if it is not local."""
    if "://" in url and not url.startswith("file://"):
        return None
    return Path(url.removeprefix("file://")).expanduser().absolute()


def absolute(url: str) -> str:
    """The same URL, independent of the working folder."""
    local = local_path(url)
    return str(local) if local else url.rstrip("/")


def shortest(url: str) -> str:
    """A local path relative to the working folder if it is inside it; any other URL as it is."""
    local = local_path(url)
    if local is None or not local.is_relative_to(Path.cwd()):
        return url
    return str(local.relative_to(Path.cwd()))


def join(url: str, *parts: str) -> str:
    """Join path parts to a URL."""
    return "/".join([url.rstrip("/"), *parts])


def exists(url: str) -> bool:
    """Whether a file or folder exists."""
    with _asking(url):
        filesystem, path = _open_filesystem(url)
        return bool(filesystem.exists(path))


def list_sizes(url: str) -> dict[str, int | None]:
    """Bytes of each file directly inside a folder, None for other things; empty where there is no folder."""
    local = local_path(url)
    if local is not None:
        entries = list(os.scandir(local)) if local.is_dir() else []
        return {entry.name: entry.stat().st_size if entry.is_file() else None for entry in entries}
    filesystem, path = _open_filesystem(url)
    filesystem.invalidate_cache()
    try:
        with _asking(url):
            found = filesystem.ls(path, detail=True)
    except FileNotFoundError:
        return {}
    return {
        entry["name"].rstrip("/").rsplit("/", 1)[-1]: entry["size"] if entry["type"] == "file" else None
        for entry in found
    }


def size(url: str) -> int:
    """Bytes in one file."""
    with _asking(url):
        filesystem, path = _open_filesystem(url)
        return int(filesystem.size(path))


def stamp(url: str) -> tuple[int, str]:
    """Bytes of one file, and a text that changes when the file does."""
    local = local_path(url)
    if local is not None:
        found = local.stat()
        return found.st_size, str(found.st_mtime_ns)
    with _asking(url):
        filesystem, path = _open_filesystem(url)
        # Answered from the listing that found the file, where the store's client keeps one.
        info = filesystem.info(path)
    keys = ("ETag", "etag", "mtime", "LastModified", "created")
    return int(info["size"]), str(next((info[key] for key in keys if info.get(key)), ""))


def list_names(url: str) -> list[str]:
    """Sorted names directly inside a folder; empty if there is no such folder."""
    with _asking(url):
        filesystem, path = _open_filesystem(url)
        # fsspec caches listings of object stores, and would not show what another process has written since.
        filesystem.invalidate_cache()
        try:
            found = filesystem.ls(path, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(entry.rstrip("/").rsplit("/", 1)[-1] for entry in found)


def is_file(url: str) -> bool:
    """Whether there is a file, and not a folder."""
    with _asking(url):
        filesystem, path = _open_filesystem(url)
        return bool(filesystem.isfile(path))


def find(url: str) -> list[str]:
    """Sorted URLs of all files matching a glob, below a folder, or the one file itself.

    In local folders, links are followed and hidden files left out. Raises UserError for a link that leads
    nowhere.
    """
    fixed = fixed_part(url)
    if (root := local_path(fixed)) is not None:
        return sorted(_find_local(root, url[len(fixed) :].strip("/")))
    filesystem, path = _open_filesystem(url)
    with _asking(url):
        found = filesystem.find(path) if fixed == url else filesystem.glob(path)
    return sorted(filesystem.unstrip_protocol(name) for name in found if not filesystem.isdir(name))


def fixed_part(url: str) -> str:
    """The folder above the first wildcard; the URL itself where there is none."""
    parts = url.split("/")
    wild = next((at for at, part in enumerate(parts) if any(c in part for c in "*?[")), len(parts))
    return "/".join(parts[:wild])


def _find_local(root: Path, pattern: str) -> list[str]:
    # Not fsspec's: it leaves linked folders out without a word, and would take a working folder called v[12]
    # for a pattern.
    depth = math.inf if "**" in pattern or not pattern else pattern.count("/") + 1
    found = list(_walk(str(root), depth, frozenset())) if root.is_dir() else [str(root)] * root.is_file()
    if pattern:
        wanted = re.compile(glob_translate(pattern))
        found = [name for name in found if wanted.match(name[len(str(root)) :].strip("/"))]
    return found


def _walk(folder: str, depth: float, above: frozenset[str]) -> Iterator[str]:
    """Files below a folder, at most `depth` levels down, also in linked folders; none that is hidden."""
    above |= {os.path.realpath(folder)}
    try:
        entries = list(os.scandir(folder))
    except PermissionError as error:
        raise UserError(Problem(folder, f"cannot be read: {error.strerror}")) from None
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            if not entry.is_file() and entry.is_symlink():
                raise UserError(Problem(entry.path, "is a link that leads nowhere", "fix it or remove it"))
            yield entry.path
        elif depth > 1 and os.path.realpath(entry.path) not in above:  # a link upwards has no end
            yield from _walk(entry.path, depth - 1, above)


def open_binary(url: str) -> IO[bytes]:
    """Open one file for reading bytes. Raises UserError for a local folder or pipe."""
    local = local_path(url)
    if local is not None:
        if local.exists() and not local.is_file():  # a pipe would be read for ever
            what = "a folder" if local.is_dir() else "a pipe or device"
            raise UserError(Problem(shortest(url), f"is {what}, and should be a file", "put the file back"))
        return open(local, "rb")
    filesystem, path = _open_filesystem(url)
    with _asking(url):
        return filesystem.open(path, "rb")


def read_bytes(url: str) -> bytes:
    """The whole content of one file."""
    if local_path(url) is None:
        # One request: a file that is replaced between two of them, as a journal is, would be refused.
        with _asking(url):
            filesystem, path = _open_filesystem(url)
            return bytes(filesystem.cat_file(path))
    with open_binary(url) as stream:
        return stream.read()


def read_spans(spans: Sequence[tuple[str, int, int]]) -> list[bytes]:
    """Bytes [begin, end) of remote files, all of one store, asked for at once."""
    if not spans:
        return []
    urls, begins, ends = zip(*spans, strict=True)
    with _asking(urls[0]):
        filesystem, _ = _open_filesystem(urls[0])
        paths = [_open_filesystem(url)[1] for url in urls]
        return [
            bytes(found) for found in filesystem.cat_ranges(paths, list(begins), list(ends), on_error="raise")
        ]


def read_text(url: str) -> str:
    """The whole content of one UTF-8 file."""
    return read_bytes(url).decode()


def read_record(url: str) -> dict[str, Any]:
    """The object in a file of JSON; empty where there is none, or it is damaged."""
    try:
        found = load_json(read_bytes(url)) if exists(url) else {}
    except (ValueError, RecursionError, UserError):
        return {}
    return found if isinstance(found, dict) else {}


def write_bytes(url: str, content: bytes) -> None:
    """Publish one file whole: a reader sees the old content or the new, never a part.

    Local files go through a temporary name, fsync and rename; object stores publish a put at its end.
    """
    local = local_path(url)
    if local is None:
        filesystem, path = _open_filesystem(url)
        with _asking(url):
            filesystem.pipe_file(path, content)
        return
    # A rename within one folder is atomic. fsync before it, or a power loss could leave the new name on an
    # empty file; fsync of the folder after it, or the rename itself could be lost. The unique name lets two
    # writers work at once.
    local.parent.mkdir(parents=True, exist_ok=True)
    temporary = local.with_name(f".{local.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, local)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(local.parent)


def write_text(url: str, text: str) -> None:
    """Publish one UTF-8 file whole; see write_bytes."""
    write_bytes(url, text.encode())


def create_remote(url: str, text: str) -> bool:
    """Write a file of a remote folder unless there is one; False if there is.

    Atomic where the store has a conditional put (S3, memory://); elsewhere two writers may both succeed.
    """
    with _asking(url):
        filesystem, path = _open_filesystem(url)
        try:
            filesystem.pipe_file(path, text.encode(), mode="create")
        except FileExistsError:
            return False
        except (NotImplementedError, TypeError, ValueError):  # a store whose client has no such mode
            if filesystem.exists(path):
                return False
            filesystem.pipe_file(path, text.encode())
        return True


def sync_folder(folder: Path) -> None:
    """Make a rename inside a local folder survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(url: str) -> None:
    """Make a folder and its parents. Raises UserError if that is not allowed."""
    filesystem, path = _open_filesystem(url)
    if has_no_folders(filesystem):
        return
    try:
        filesystem.makedirs(path, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(Problem(url, f"cannot be written: {reason}", "choose another --run-dir")) from None


def has_no_folders(filesystem: fsspec.AbstractFileSystem) -> bool:
    """Whether it is an object store, where a folder is part of a name, and "making" one makes a bucket."""
    protocols = {filesystem.protocol} if isinstance(filesystem.protocol, str) else set(filesystem.protocol)
    return bool(protocols & {"s3", "s3a", "gs", "gcs", "abfs", "az", "r2"})


def free_bytes(url: str) -> int | None:
    """Free space where a file would go; None for a remote place, or where nobody knows."""
    local = local_path(url)
    if local is None:
        return None
    folder = next((place for place in (local, *local.parents) if place.is_dir()), None)
    try:
        return shutil.disk_usage(folder).free if folder is not None else None
    except OSError:
        return None


def check_writable(url: str) -> None:
    """Raise UserError unless a file can be written in the folder."""
    make_folder(url)
    probe = join(url, f".probe-{uuid.uuid4().hex}")
    try:
        write_bytes(probe, b"")
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(Problem(url, f"cannot be written: {reason}", "choose another --run-dir")) from None
    remove(probe)


def remove(url: str) -> None:
    """Remove a file, or a folder with its content; does nothing if there is none."""
    with _asking(url):
        filesystem, path = _open_filesystem(url)
        with contextlib.suppress(FileNotFoundError):
            filesystem.rm(path, recursive=True)


def abort_uploads(url: str) -> int:
    """End the uploads in parts below a folder that a killed process has left, which cost as files do.

    For S3 only, and where the account may. Returns how many there were.
    """
    with _asking(url):
        if not is_s3(url):
            return 0
        filesystem, path = _open_filesystem(url)
        bucket, _, prefix = path.partition("/")
        found = filesystem.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/")
        uploads = found.get("Uploads", [])
        for upload in uploads:
            filesystem.call_s3(
                "abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
            )
        return len(uploads)


def move(source: str, target: str) -> None:
    """Rename a folder or file within one filesystem."""
    filesystem, path = _open_filesystem(source)
    with _asking(source):
        filesystem.mv(path, _open_filesystem(target)[1], recursive=True)
