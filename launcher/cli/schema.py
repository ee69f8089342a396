"""`launch schema`."""

import argparse
import json
from collections.abc import Sequence

from launcher.recipe.compile import recipe_schema


def print_schema(arguments: Sequence[str]) -> int:
    """Print the JSON Schema of recipes."""
    argparse.ArgumentParser(prog="launch schema", description="Print the JSON Schema of recipes.").parse_args(
        arguments
    )
    print(json.dumps(recipe_schema(), indent=2))
    return 0
