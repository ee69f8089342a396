"""Which files a source reads, found before anything is loaded. Torch-free."""

import os
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher import files
from launcher.errors import Problem, UserError, about

# Not read: what some distributions leave out or package separately, because machines would differ;
# third-party code; tests; and generated tables (encodings, pydoc_data), which are not text.
_NOT_CORPUS = frozenset(
    {
        *("site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"),
        *("idlelib", "lib2to3", "distutils", "tkinter", "turtledemo", "ensurepip"),
        *("encodings", "pydoc_data"),
    }
)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a corpus. `name` is relative to the source, so that a corpus stays the same when moved."""

    name: str
    url: str


def require_files(wanted: Mapping[str, str]) -> None:
    """Raise UserError naming all missing files; `wanted` maps each URL to the recipe key that names it."""
    problems = [
        Problem(url, "there is no such file", _nearest(url), key=key)
        for url, key in wanted.items()
        if not files.is_file(url)
    ]
    if problems:
        raise UserError(*problems)


def require_apart(train: str, validation: str | None) -> None:
    """Raise UserError where a split to validate on is what is trained on, by another name."""
    places = [files.local_path(url) for url in (train, validation or "")]
    there = [place for place in places if place is not None and place.exists()] if validation else []
    if len(there) == 2 and there[0].samefile(there[1]):
        message = f"{validation} leads to what is trained on, {train}"
        raise UserError(Problem.at("data.source.validation", message, "use other data, or leave it out"))


def find_stdlib() -> list[SourceFile]:
    """Files of the standard library, sorted by name. Raises UserError where there are none."""
    root = Path(sysconfig.get_path("stdlib"))
    found: list[SourceFile] = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _NOT_CORPUS]
        for name in names:
            # Build settings and site customization belong to the machine, not to Python.
            if name.endswith(".py") and not name.startswith(("_sysconfigdata", "sitecustomize")):
                path = Path(folder, name)
                found.append(SourceFile(path.relative_to(root).as_posix(), str(path)))
    if not found:
        remedy = "install Python's library as source files, or use data.source.type=files"
        message = f"this Python has no *.py files of its standard library in {root}"
        raise UserError(Problem.at("data.source.type", message, remedy))
    return sorted(found, key=lambda file: file.name)


@about("data.source.url")
def find_files(url: str) -> list[SourceFile]:
    """Files under a folder or glob, except hidden ones, by name. Raises UserError where there are none."""
    root = files.absolute(files.fixed_part(url))
    found = []
    for file in files.find(url):
        name = _bare(file).removeprefix(_bare(root)).strip("/")
        hidden = any(part.startswith(".") for part in name.split("/"))
        if not hidden:
            found.append(SourceFile(name or _bare(file).rsplit("/", 1)[-1], file))
    if not found:
        raise UserError(Problem(url, "there are no files here", _nearest(root)))
    return sorted(found, key=lambda file: file.name)


def _bare(url: str) -> str:
    """A URL's path alone: `s3://b/x`, `s3a://b/x` and `memory:///b/x` name their files differently."""
    return url.rsplit("://", 1)[-1].strip("/")


def _nearest(url: str) -> str:
    """A remedy: the nearest folder that exists, and what is in it."""
    place = files.absolute(url)
    while not files.exists(place):
        above = place.rsplit("/", 1)[0]
        if above == place or not _bare(above) or above.endswith((":/", ":")):
            return "check the path"
        place = above
    names = files.list_names(place)
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"the nearest folder that exists is {place}, which holds {shown or 'nothing'}"
