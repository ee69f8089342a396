"""Errors that are part of the product: what is wrong, where, and what to do. Imports nothing."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong. `place` is "file:line:column", a path, an override or a flag."""

    place: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" + (f"\n    {self.remedy}" if self.remedy else "")


class UserError(Exception):
    """Something the user can fix. The command line prints it without a traceback and exits with 2."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems: Sequence[Problem] = problems
