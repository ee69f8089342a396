"""Hints on the screen: every verb that trains a recipe, or plans to, shows each of them once."""

from collections.abc import Iterable

from launcher.errors import Problem


def tell_hints(hints: Iterable[Problem]) -> None:
    """Print each hint once. They go with what is about to start, not with errors: stdout."""
    for hint in dict.fromkeys(hints):
        print(f"hint: {hint}", flush=True)
