"""What an agent gives its ranks, and a rank's own arguments. Torch-free."""

import argparse
from collections.abc import Sequence

NODE_FOLDER = "LAUNCH_NODE_FOLDER"
"""Environment variable: a private folder of this node, where ranks say that they listen to signals."""
ENDS = "LAUNCH_ENDS"
"""Environment variable: a folder inside the run's, where ranks leave how they ended."""


def rank_arguments(words: Sequence[str]) -> argparse.Namespace:
    """Arguments of `python -m launcher.cli.rank`."""
    parser = argparse.ArgumentParser(prog="python -m launcher.cli.rank")
    parser.add_argument("--run-dir", required=True)
    return parser.parse_args(words)
