"""What an agent gives its ranks, and a rank's own arguments. Torch-free."""

import argparse
from collections.abc import Sequence

from launcher import files
from launcher.cli.parser import Parser
from launcher.run_folder import RECIPE

NODE_FOLDER = "LAUNCH_NODE_FOLDER"
"""Environment variable: a private folder of this node, where ranks say that they listen to signals."""
ENDS = "LAUNCH_ENDS"
"""Environment variable: a folder inside the run's, where ranks leave how they ended."""
LOGS = "LAUNCH_LOGS"
"""Environment variable: the folder of an attempt's logs and words, where a supervisor waits for them."""
SHOWN = "LAUNCH_SHOWN"
"""Environment variable: the console log, if an agent shows it, so that ranks do not print."""
PLAIN = "LAUNCH_PLAIN"
"""Environment variable of users: no panel on a terminal, lines only."""
REPLACED = "LAUNCH_REPLACED_JOB"
"""Environment variable: the scheduler's job in whose place this one is."""


def recipe_url(options: argparse.Namespace) -> str:
    """The recipe that these arguments of a rank are about."""
    inside = [options.submission] if options.submission else []
    return files.join(files.absolute(options.run_dir), *inside, RECIPE)


def rank_arguments(words: Sequence[str]) -> argparse.Namespace:
    """Arguments of `python -m launcher.cli.rank`."""
    parser = Parser(prog="python -m launcher.cli.rank")
    parser.add_argument("--run-dir", required=True)
    parser.add_argument("--submission", default="", help="folder of a resume inside the run's")
    return parser.parse_args(words)
