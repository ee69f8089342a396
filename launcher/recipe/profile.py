"""A site's facts about its cluster, in one file: values of `cluster` that a recipe leaves out.

cluster.profile names it: cluster-profiles/NAME.yaml in this folder, then in ~/.config/mulaunch, or a path.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from launcher.errors import Problem, UserError
from launcher.recipe.suggest import close_matches, did_you_mean
from launcher.recipe.tree import Node, child, put
from launcher.yaml_text import decode, parse_tree

FOLDER = "cluster-profiles"


def apply_profile(
    tree: Node, keys: Iterable[str], folders: tuple[Path, ...] | None = None
) -> tuple[Node, list[Problem]]:
    """The tree with what the profile says of `cluster`, where the recipe says nothing; and problems found.

    `keys`: all that the section has. A recipe that gives them all, as in a run folder, needs no file.
    """
    section = child(tree, "cluster")
    named = child(section, "profile") if section is not None else None
    if section is None or named is None or named.value is None:
        return tree, []
    if not isinstance(named.value, str) or not isinstance(section.value, dict):
        return tree, []  # its validation says more
    if set(keys) <= section.value.keys():
        return tree, []
    try:
        path = _find(named.value, profile_folders() if folders is None else folders)
        profile, problems = parse_tree(decode(path.read_bytes(), str(path)), str(path))
    except UserError as error:
        return tree, [replace(problem, place=problem.place or named.place) for problem in error.problems]
    except OSError as error:
        return tree, [Problem(named.place, f"profile {named.value!r} cannot be read: {error.strerror}")]
    if not isinstance(profile.value, dict):
        message = "a profile is `key: value` lines, the keys of a recipe's `cluster`"
        return tree, [*problems, Problem(profile.place, message)]
    for key, value in profile.value.items():
        if key == "profile":
            problems.append(Problem(value.place, "a profile cannot name another one"))
        elif key not in section.value:
            tree = put(tree, ("cluster", key), value)
    return tree, problems


def profile_folders() -> tuple[Path, ...]:
    """Where profiles are looked for: here, then where the user's configuration is."""
    return (Path(FOLDER), Path("~/.config/mulaunch").expanduser() / FOLDER)


def _find(name: str, folders: tuple[Path, ...]) -> Path:
    """The file of a profile. Raises UserError with those there are."""
    if "/" in name or name.endswith((".yaml", ".yml")):
        if (path := Path(name).expanduser()).is_file():
            return path
        raise UserError(Problem("", f"there is no profile {name!r}", "`launch profile` writes one"))
    for folder in folders:
        if (path := folder / f"{name}.yaml").is_file():
            return path
    known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    remedy = did_you_mean(close_matches(name, known)) or (
        f"profiles are {', '.join(known)}" if known else "`launch profile` writes one"
    )
    places = " or ".join(str(folder) for folder in folders)
    raise UserError(Problem("", f"there is no profile {name!r} in {places}", remedy))
