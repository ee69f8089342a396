"""The table of all rules between the fields of a recipe; docs/rules.md lists the same ones."""

from dataclasses import replace

from launcher.errors import Problem
from launcher.recipe.loaded import LoadedRecipe
from launcher.recipe.rules.batch_rules import BATCH_RULES
from launcher.recipe.rules.cluster_rules import CLUSTER_RULES
from launcher.recipe.rules.data_rules import DATA_RULES
from launcher.recipe.rules.mup_rules import MUP_RULES
from launcher.recipe.rules.parallel_rules import PARALLEL_RULES
from launcher.recipe.rules.refuse import Rule
from launcher.recipe.rules.schedule_rules import SCHEDULE_RULES
from launcher.recipe.rules.track_rules import TRACK_RULES

RULES: tuple[Rule, ...] = (
    *BATCH_RULES,
    *PARALLEL_RULES,
    *SCHEDULE_RULES,
    *MUP_RULES,
    *DATA_RULES,
    *CLUSTER_RULES,
    *TRACK_RULES,
)


def check_rules(loaded: LoadedRecipe) -> list[Problem]:
    """A problem for every violated rule, with the id of the rule."""
    return [replace(problem, rule=rule.id) for rule in RULES for problem in rule.check(loaded)]
