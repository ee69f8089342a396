"""Flags and arguments of the verbs. What is wrong with them is a problem like any other."""

import argparse
import re
from typing import NoReturn, final

from launcher.cli.examples import help_end
from launcher.cli.problems import QUIET, VERBOSE
from launcher.errors import Problem, UserError
from launcher.recipe.suggest import close_matches, did_you_mean


@final
class Parser(argparse.ArgumentParser):
    """Raises UserError, with the flag that was most likely meant. Each verb has QUIET and VERBOSE, which
    launcher/cli/main.py acts on."""

    def __init__(self, *, prog: str, description: str = "") -> None:
        super().__init__(prog=prog, description=description)
        self.add_argument(*QUIET, action="store_true", help="print nothing but problems")
        self.add_argument(*VERBOSE, action="store_true", help="show where in the code a problem was found")

    def format_help(self) -> str:
        """argparse's own, with examples and exit codes below it."""
        return super().format_help() + help_end(self.prog)

    def error(self, message: str) -> NoReturn:
        """argparse's own way to say that a command line is wrong."""
        flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
        unknown = re.match(r"unrecognized arguments: (\S+)", message)
        if unknown is not None and unknown[1].startswith("-"):
            given = unknown[1].partition("=")[0]
            near = close_matches(given.lstrip("-"), [flag.lstrip("-") for flag in flags])
            own = [flag for flag in flags if flag not in (*QUIET, *VERBOSE)]
            remedy = did_you_mean(f"--{word}" for word in near) or f"flags are {', '.join(own)}"
            raise UserError(Problem(f"{self.prog} {given}", "unknown flag", remedy))
        if unknown is not None:
            raise UserError(Problem(f"{self.prog} {unknown[1]}", "is one argument too many", self._usage()))
        about = re.match(r"argument (\S+): (.*)", message)
        if about is not None:
            raise UserError(Problem(f"{self.prog} {about[1]}", about[2], self._usage()))
        raise UserError(Problem(self.prog, message, self._usage()))

    def _usage(self) -> str:
        return " ".join(self.format_usage().split())
