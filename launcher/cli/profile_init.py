"""`launch profile init`."""

from collections.abc import Sequence
from pathlib import Path

from cluster.site import ask_site, profile_text
from cluster.slurm_job import QueueError
from launcher import files
from launcher.cli.parser import Parser
from launcher.errors import Problem, UserError
from launcher.recipe.profile import FOLDER


def write_profile(arguments: Sequence[str]) -> int:
    """Ask Slurm what this cluster is like, and write it as a profile for recipes."""
    parser = Parser(
        prog="launch profile",
        description="Ask Slurm what this cluster is like, and write it as a profile: what recipes leave out "
        "of their `cluster` section, for `launch RECIPE --profile NAME`.",
    )
    parser.add_argument("action", choices=["init"])
    parser.add_argument("name", nargs="?", help="of the profile; default: the cluster's own")
    parser.add_argument("--partition", help="where jobs are to go; default: Slurm's default")
    options = parser.parse_args(arguments)
    try:
        site = ask_site()
    except QueueError as error:
        remedy = "call it on a host of a Slurm cluster"
        raise UserError(Problem("launch profile init", str(error), remedy)) from None
    partition = site.find(options.partition)
    if partition is None:
        names = ", ".join(known.name for known in site.partitions)
        raise UserError(Problem(f"--partition {options.partition}", "is not one here", f"there are {names}"))
    path = Path(FOLDER) / f"{options.name or site.name}.yaml"
    if path.exists():
        raise UserError(Problem(str(path), "is there already", "give another name, or remove it"))
    files.write_text(str(path), profile_text(site, partition))
    print(f"wrote {path}: look through it; then")
    print(f"  launch doctor --cluster --profile {path.stem}")
    print(f"  launch RECIPE --profile {path.stem} --nodes 2")
    return 0
