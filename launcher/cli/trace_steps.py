"""`launch trace RECIPE|RUN`: train a few steps of a recipe, only to see what its processors do in them."""

from collections.abc import Sequence

from launcher.cli.arguments import add_overrides, add_profile, add_shape, parse, positive, with_profile
from launcher.cli.parser import Parser
from launcher.cli.recipe_or_run import A_RECIPE, load_recipe_or_run
from launcher.cli.run import new_places, start_run

_FIRST = 4
"""Steps before it compile, allocate, and find the fastest algorithms."""
_ONLY_SEEN = (
    "schedule={type: constant}",
    "train.validate_every=null",
    "train.validation_sequences=0",
    "train.init_from=null",
    "check={}",
    "provenance=null",
    "track.log_every=1",
    "track.diagnosis=null",
    "track.mlflow={enabled: false}",
    "track.tensorboard=null",
    "track.wandb=null",
)
"""Whatever is not a step of training."""


def trace_steps(arguments: Sequence[str]) -> int:
    """Start a run of a few steps, in a folder of its own."""
    parser = Parser(
        prog="launch trace",
        description="Train a few steps in a run of their own, runs/NAME-trace-TIME, on the machines and with "
        "the sharding of the recipe, and record each rank's operators, kernels, memory and communication in "
        "RUN/traces: for ui.perfetto.dev, with a table of operators and phases. Weights are new ones, no "
        "metrics are sent, and the last step is saved as in every run. To trace a run itself, from some "
        "step on: track.trace in its recipe, or on resume.",
    )
    parser.add_argument("recipe", help=A_RECIPE)
    add_overrides(parser)
    parser.add_argument("--steps", type=positive, default=5, metavar="N", help="how many; default 5")
    add_shape(parser)
    add_profile(parser)
    parser.add_argument("--run-dir", metavar="URL", help="folder of the run; default runs/NAME-trace-TIME")
    options = parse(parser, arguments)
    changes = [
        *with_profile(options.overrides, options.profile),
        *_ONLY_SEEN,
        f"train.steps={_FIRST + options.steps}",
        f"track.trace={{from_step: {_FIRST}, steps: {options.steps}, memory: true}}",
    ]
    loaded = load_recipe_or_run(
        options.recipe, changes, nodes=options.nodes, nproc_per_node=options.nproc_per_node
    )
    return start_run(loaded, new_places(options.run_dir, f"{loaded.recipe.name}-trace"), options.recipe)
