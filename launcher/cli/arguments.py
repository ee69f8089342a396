"""What several verbs have in common: arguments, and the hints they print."""

import argparse
from collections.abc import Iterable, Sequence

from launcher.errors import Problem
from launcher.recipe.overrides import Nodes


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """key=value words after the recipe or run."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="values that replace the recipe's, such as optim.lr=3e-4",
    )


def add_shape(parser: argparse.ArgumentParser) -> None:
    """--nodes and --nproc-per-node."""
    parser.add_argument(
        "--nodes",
        type=node_range,
        metavar="N|MIN:MAX",
        help="number of nodes, instead of cluster.nodes; a range for nodes that are started by hand, and may "
        "be lost and come back",
    )
    parser.add_argument(
        "--nproc-per-node",
        type=int,
        metavar="M",
        help="processes per node, instead of cluster.nproc_per_node",
    )


def node_range(text: str) -> Nodes:
    """Argument type of --nodes."""
    fewest, colon, most = text.partition(":")
    return (int(fewest), int(most)) if colon else int(fewest)


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse with flags allowed between and after the key=value words."""
    return parser.parse_intermixed_args(list(arguments))


def positive(text: str) -> int:
    """Argument type of a count: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def show_hints(hints: Iterable[Problem]) -> None:
    """Print each hint once, on stdout: hints are about what is starting, and are not errors."""
    for hint in dict.fromkeys(hints):
        print(f"hint: {hint}", flush=True)
