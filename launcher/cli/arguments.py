"""What several verbs have in common: arguments, and the hints they print."""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence

from launcher.cli.parser import Parser
from launcher.errors import Problem
from launcher.recipe.overrides import Nodes

A_RUN = "its folder, its name in runs/, the beginning of that, or latest"
"""Help of the argument by which `find_run` finds a run."""


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """key=value words after the recipe or run."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="values that replace the recipe's, such as optim.lr=3e-4; ~optim.betas drops a key",
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


def add_profile(parser: argparse.ArgumentParser) -> None:
    """--profile, which `with_profile` turns into an override."""
    parser.add_argument(
        "--profile",
        metavar="NAME",
        help="a site's facts about its cluster: cluster-profiles/NAME.yaml, or a path; see docs/slurm.md",
    )


def with_profile(overrides: Sequence[str], profile: str | None) -> list[str]:
    """The overrides, and cluster.profile where --profile was given."""
    return [*overrides, *([] if profile is None else [f"cluster.profile={json.dumps(profile)}"])]


def node_range(text: str) -> Nodes:
    """Argument type of --nodes."""
    fewest, colon, most = text.partition(":")
    try:
        return (int(fewest), int(most)) if colon else int(fewest)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}; write a number, or a range such as 2:4") from None


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse with flags allowed between and after the key=value words."""
    return parser.parse_intermixed_args(list(arguments))


@contextlib.contextmanager
def json_alone(wanted: bool) -> Iterator[None]:
    """What is printed meanwhile is on stderr, where stdout is to hold nothing but JSON."""
    with contextlib.redirect_stdout(sys.stderr) if wanted else contextlib.nullcontext():
        yield


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


def parse_supervised(words: Sequence[str]) -> tuple[argparse.Namespace, Sequence[str]]:
    """Arguments of `python -m launcher.cli.supervisor`, and the command after `--`."""
    parser = Parser(prog="python -m launcher.cli.supervisor")
    parser.add_argument("--run-dir", required=True)
    parser.add_argument("--submission", default="", help="folder of a resume inside the run's")
    at = list(words).index("--")
    return parser.parse_args(words[:at]), words[at + 1 :]


def endpoint_of(words: Sequence[str]) -> tuple[str, int]:
    """Host and port of --rdzv-endpoint among an agent's arguments."""
    parser = Parser(prog="agent")
    parser.add_argument("--rdzv-endpoint", required=True)
    host, _, port = parser.parse_known_args(words)[0].rdzv_endpoint.rpartition(":")
    return host.strip("[]"), int(port)


def parse_point(words: Sequence[str]) -> argparse.Namespace:
    """Arguments of `python -m launcher.cli.point`."""
    parser = Parser(prog="python -m launcher.cli.point")
    parser.add_argument("--points", required=True, help="file of a sweep's frozen points")
    parser.add_argument("--index", type=int, required=True, help="line in it, from 0")
    return parser.parse_args(words)
