"""No dead hint: every `launch ...` that the product prints names a verb and flags that there are."""

import ast
import contextlib
import io
import re
from functools import cache
from pathlib import Path

import pytest

from launcher.cli.main import VERBS, main

ROOT = Path(__file__).parents[1]
# Text in a message, not a command: "launch: x is wrong", "the launch command".
COMMAND = re.compile(r"(?<![\w/`.-])launch ((?:--)?[\w./{}-]+)((?: [^\s`'\",;:()]+)*)")
DATA_VERBS = ("build", "train-tokenizer", "inspect", "show", "verify")
# Words of sentences in which `launch` is a noun or what the product is called.
PROSE = {
    "a",
    "to",
    "and",
    "was",
    "is",
    "that",
    "has",
    "says",
    "of",
    "itself",
    "sets",
    "can",
    "did",
    "started",
    # in the scripts of `launch completion`
    "complete",
    "-a",
}


def strings() -> list[tuple[str, str]]:
    """(place, text) of every string of the packages that is not a docstring; what is filled in is X."""
    found = []
    for room in ("launcher", "cluster", "models"):
        for path in sorted((ROOT / room).rglob("*.py")):
            tree = ast.parse(path.read_text())
            documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            inside = {
                id(part)
                for node in ast.walk(tree)
                if isinstance(node, ast.JoinedStr)
                for part in ast.walk(node)
                if part is not node
            }
            for node in ast.walk(tree):
                if id(node) in documents or id(node) in inside:
                    continue
                if isinstance(node, ast.JoinedStr):
                    parts = [p.value if isinstance(p, ast.Constant) else "X" for p in node.values]
                    found.append((f"{path.relative_to(ROOT)}:{node.lineno}", "".join(map(str, parts))))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append((f"{path.relative_to(ROOT)}:{node.lineno}", node.value))
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            code = re.findall(r"`(launch [^`]*)`", line) + re.findall(r"^ {4}(?:\$ )?(launch .*)", line)
            found += [(f"{path.relative_to(ROOT)}:{number}", text) for text in code]
    return found


def commands() -> list[tuple[str, str, list[str]]]:
    """(place, verb or recipe, words after it) of every command in them."""
    found = []
    for place, text in strings():
        for match in COMMAND.finditer(text):
            if match[1] not in PROSE:
                found.append((place, match[1], match[2].split()))
    return found


@cache
def flags_of(*words: str) -> set[str]:
    """Flags in the help of a verb."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return set(re.findall(r"(?<![\w-])(--?[a-zA-Z][\w-]*)", text.getvalue()))


def test_there_are_hints_to_look_at() -> None:
    verbs = {verb for _, verb, _ in commands()}
    assert len(commands()) > 40
    assert {"resume", "status", "check", "verify", "replay"} <= verbs


def wrong_with(verb: str, words: list[str]) -> str | None:
    """Why a command cannot be typed; None if it can. X stands for what is filled in."""
    if verb in ("RECIPE", "RUN/recipe.yaml", "X", "VERB") or verb.endswith(".yaml") or verb.startswith("--"):
        return None
    if verb not in VERBS:
        shipped = (ROOT / f"recipes/{verb}.yaml").exists()
        return None if shipped else f"launch {verb} is not a verb"
    below = words[:1] if verb in ("data", "profile") else []
    if below and below[0] in ("X", "VERB"):
        return None
    if verb == "data" and not set(below) <= set(DATA_VERBS):
        return f"launch data {below} is not a verb"
    known = flags_of(verb, *below)
    unknown = [word for word in words if re.match(r"--[a-z]", word) and word.partition("=")[0] not in known]
    return f"launch {verb} has no {unknown}" if unknown else None


@pytest.mark.parametrize("room", ["launcher/cli/", "launcher/", "cluster/", "docs/", "README.md"])
def test_every_command_that_is_shown_can_be_typed(room: str) -> None:
    dead = []
    for place, verb, words in commands():
        if place.startswith(room) and (room != "launcher/" or not place.startswith("launcher/cli/")):
            dead += [f"{place}: {why}" for why in [wrong_with(verb, words)] if why is not None]
    assert not dead, "\n".join(dead)


@pytest.mark.parametrize(
    ("verb", "words"),
    [("resmue", []), ("resume", ["RUN", "--fersh"]), ("data", ["shwo"]), ("data", ["show", "--setp"])],
)
def test_a_dead_hint_is_found(verb: str, words: list[str]) -> None:
    assert wrong_with(verb, words) is not None
