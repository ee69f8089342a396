"""Errors for users: what is wrong, where, and what to do. Imports none of our modules."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem. `place` is "file:line:column", a path, an override, a flag or a name."""

    place: str
    message: str
    remedy: str = ""
    key: str = field(default="", kw_only=True)
    """The recipe key at fault, such as data.seq_len, until LoadedRecipe.locating finds its line."""
    rule: str = field(default="", kw_only=True)
    """Id of the recipe rule that is violated, as in docs/rules.md."""

    @classmethod
    def at(cls, key: str, message: str, remedy: str = "") -> "Problem":
        """A problem with the value of a recipe key, found by code that does not know where it was written."""
        return cls(key, message, remedy, key=key)

    def __str__(self) -> str:
        rule = f" [{self.rule}]" if self.rule else ""
        return f"{self.place}: {self.message}{rule}" + (f"\n    {self.remedy}" if self.remedy else "")


class UserError(Exception):
    """Something the user can fix. The command line prints it without a traceback and exits with 2."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems: Sequence[Problem] = problems


class StoreError(OSError):
    """A remote store refuses what it is asked, or cannot be reached: (errno, what it said, URL)."""


_CLOUD = ("botocore", "aiobotocore", "aiohttp", "s3fs", "gcsfs", "adlfs")
"""Clients of object stores, which raise errors of their own beside OSError."""


def is_cloud_error(error: BaseException) -> bool:
    """Whether an object store, or the way to it, has refused something."""
    return type(error).__module__.split(".")[0] in _CLOUD


def as_store_error(error: Exception, place: str) -> StoreError:
    """What a store or its client has raised, in one line."""
    number, said = (error.errno, error.strerror) if isinstance(error, OSError) else (None, None)
    text = said or f"{type(error).__name__}: {' '.join(str(error).split())}"
    return StoreError(number or errno.EIO, text, place)


@contextmanager
def about(key: str) -> Iterator[None]:
    """Assign a recipe key to each problem raised inside that does not have one."""
    try:
        yield
    except UserError as error:
        raise UserError(*(replace(found, key=found.key or key) for found in error.problems)) from None
