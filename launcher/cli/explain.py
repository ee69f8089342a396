"""`launch explain RECIPE`, `launch shapes RECIPE`, `launch schema`: what a recipe means and may contain."""

from collections.abc import Sequence

from launcher import files
from launcher.cli.arguments import add_overrides, parse
from launcher.cli.parser import Parser
from launcher.cli.recipe_or_run import A_RECIPE, load_recipe_or_run
from launcher.errors import Problem, UserError
from launcher.json_text import dump_json
from launcher.recipe.compile import recipe_schema


def explain_recipe(arguments: Sequence[str]) -> int:
    """Print what every parameter of a recipe is, how it scales and trains, and why."""
    parser = Parser(
        prog="launch explain", description="Print every parameter's role, width, init, rate, decay, and why."
    )
    parser.add_argument("recipe", help=A_RECIPE)
    add_overrides(parser)
    parser.add_argument("--json", action="store_true", help="print plain data instead of a table")
    options = parse(parser, arguments)
    loaded = load_recipe_or_run(options.recipe, options.overrides)
    recipe = loaded.recipe
    from launcher.plan.parameter_table import explain_record, explain_text
    from launcher.plan.parameters import describe_parameters

    with loaded.locating():
        parameters = describe_parameters(recipe.model, recipe.mup, recipe.optim, seq_len=recipe.data.seq_len)
    if options.json:
        print(dump_json(explain_record(recipe, parameters), indent=1))
    else:
        print(explain_text(recipe, parameters))
    return 0


def write_shapes(arguments: Sequence[str]) -> int:
    """Write the base shapes of a recipe, for mup.base_shapes of other recipes and for the mup package."""
    parser = Parser(
        prog="launch shapes",
        description="Write a recipe's base shapes as a .bsh file (the mup package's format).",
    )
    parser.add_argument("recipe", help=A_RECIPE)
    add_overrides(parser)
    parser.add_argument("-o", "--output", metavar="FILE", help="default: print them")
    parser.add_argument("--json", action="store_true", help="JSON instead of .bsh")
    options = parse(parser, arguments)
    loaded = load_recipe_or_run(options.recipe, options.overrides)
    recipe = loaded.recipe
    if recipe.mup.type != "mup":
        message = f"{loaded.cite('mup.type')} has no base shapes"
        remedy = "give the width at which the rates were tuned: mup.type=mup mup.base_width=N"
        raise UserError(Problem(loaded.place("mup.type"), message, remedy))
    from launcher.mup.bsh import dump_base_shapes
    from launcher.plan.parameters import describe_parameters

    with loaded.locating():
        parameters = describe_parameters(recipe.model, recipe.mup, recipe.optim, seq_len=recipe.data.seq_len)
    text = dump_base_shapes(parameters.base_shapes)
    if options.json:
        shapes = {name: list(dims) for name, dims in parameters.base_shapes.items()}
        text = dump_json({"hash": parameters.base_shapes_hash, "base_shapes": shapes}, indent=1) + "\n"
    if options.output is None:
        print(text, end="")
    else:
        try:
            files.write_text(files.absolute(options.output), text)
        except OSError as error:
            raise UserError(Problem(options.output, f"cannot be written: {error.strerror}")) from None
        print(f"{options.output}: {len(parameters.base_shapes)} parameters, {parameters.base_shapes_hash}")
    return 0


def print_schema(arguments: Sequence[str]) -> int:
    """Print the JSON Schema of recipes."""
    parser = Parser(prog="launch schema", description="Print the JSON Schema of recipes.")
    parser.add_argument("extensions", nargs="*", metavar="EXTENSION", help="with what these add")
    print(dump_json(recipe_schema(parser.parse_args(arguments).extensions), indent=2))
    return 0
