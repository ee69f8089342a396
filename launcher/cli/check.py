"""`launch check`."""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.check.gate import check_record, default_folder, hash_identity, write_record
from launcher.check.shrink import choose_widths, describe_shrinking
from launcher.cli.arguments import add_overrides, json_alone, parse, show_hints
from launcher.cli.parser import Parser
from launcher.cli.recipe_or_run import load_recipe_or_run
from launcher.data.source_table import check_sources
from launcher.recipe.hints import find_hints

if TYPE_CHECKING:
    from launcher.check.run_check import CheckResult


def check_recipe(arguments: Sequence[str]) -> int:
    """Check a recipe's parametrization and model at small widths. Returns 0 if everything passes, else 1."""
    parser = Parser(
        prog="launch check",
        description="Train proxy models of a recipe for a few steps, here on the CPU, and test that nothing "
        "depends on width that should not: whole, and sharded as the recipe is.",
    )
    parser.add_argument("recipe", help="recipe file")
    add_overrides(parser)
    parser.add_argument(
        "--widths",
        type=_widths,
        metavar="A,B,C,D",
        help="at least four; default from 128 on, with ssd from 256",
    )
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="of the models that are not sharded"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="default runs/checks/IDENTITY")
    parser.add_argument("--json", action="store_true", help="print check.json; all else is on stderr")
    options = parse(parser, arguments)
    with json_alone(options.json):
        passed, record = _check(options)
    if options.json:
        print(record.read_text())
    return 0 if passed else 1


def _check(options: argparse.Namespace) -> tuple[bool, Path]:
    """Whether everything passes, and where that is recorded."""
    loaded = load_recipe_or_run(options.recipe, options.overrides)
    recipe = loaded.recipe
    with loaded.locating():
        check_sources(recipe.data)
        widths = choose_widths(recipe, options.widths)
    folder = (options.out or default_folder(recipe)).absolute()
    show_hints(find_hints(loaded))
    print(f"{recipe.name}: {describe_shrinking(recipe, widths)}", flush=True)

    from launcher.check.check_text import check_text
    from launcher.check.run_check import run_check

    start = time.monotonic()
    with loaded.locating():
        result = run_check(recipe, widths, _say(start), options.device)
    identity = hash_identity(recipe)
    record = write_record(folder, check_record(result, identity))
    if folder != default_folder(recipe):
        # `launch RECIPE` looks for a record only here: with --out alone, the recipe would count as unchecked.
        write_record(default_folder(recipe), check_record(result, identity))
    print(check_text(result))
    print(f"\nrecord: {record} ({time.monotonic() - start:.0f} s)")
    print(_draw(folder, result))
    return result.passed, record


def _widths(text: str) -> list[int]:
    widths = [int(part) for part in text.split(",")]
    if any(width < 1 for width in widths):
        raise argparse.ArgumentTypeError(f"{text!r} has a width below 1")
    return widths


def _say(start: float) -> Callable[[str], None]:
    """A function that prints a stage with the seconds since `start`."""
    return lambda text: print(f"[{time.monotonic() - start:3.0f} s] {text}", flush=True)


def _draw(folder: Path, result: "CheckResult") -> str:
    """Draw the pictures. Returns a line that says where they are, or what is missing to draw them."""
    from launcher.report.figure import can_draw

    if not can_draw():
        return "no pictures: matplotlib is not installed (pip install 'mulaunch[plot]')"
    from launcher.report.coordinate_plot import draw_coordinates, draw_slopes

    paths = draw_coordinates(folder / "coordinates.png", result), draw_slopes(folder / "slopes.png", result)
    return f"pictures: {paths[0]}, {paths[1]}"
