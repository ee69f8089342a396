"""A corpus of mistakes (mistakes.yaml): each is caught at its line and column, with what to do about it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.errors import UserError
from launcher.recipe.compile import compile_recipe

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
SOURCE = (HERE / "mistakes_recipe.yaml").read_text()
MISTAKES: list[dict[str, Any]] = yaml.safe_load((HERE / "mistakes.yaml").read_text())

READS_ALL = """
import json, sys
opened = []
sys.addaudithook(lambda event, words: opened.append(str(words[0])) if event == "open" else None)
from launcher.errors import UserError
from launcher.recipe.compile import compile_recipe
source, changes = json.load(sys.stdin)
opened.clear()
caught = 0
for old, new in changes:
    try:
        compile_recipe(source.replace(old, new, 1), "r.yaml")
    except UserError:
        caught += 1
modules = [name for name in ("torch", "numpy", "fsspec", "mlflow") if name in sys.modules]
print(json.dumps({"caught": caught, "modules": modules, "opened": opened}))
"""


def test_the_corpus_is_large_and_says_everything_once() -> None:
    assert len(MISTAKES) >= 150
    assert len({(row["write"], row["instead"]) for row in MISTAKES}) == len(MISTAKES)


@pytest.mark.parametrize("row", MISTAKES, ids=lambda row: repr(row["instead"])[:40])
def test_a_mistake_is_caught_at_its_place_with_its_remedy(row: dict[str, Any]) -> None:
    assert row["write"] in SOURCE
    with pytest.raises(UserError) as error:
        compile_recipe(SOURCE.replace(row["write"], row["instead"], 1), "r.yaml")
    problems = error.value.problems
    assert len(problems) == row.get("problems", 1)
    found = [(problem.place, problem.message, problem.remedy) for problem in problems]
    assert (f"r.yaml:{row['place']}", row["message"], row.get("remedy", "")) in found


def test_no_mistake_costs_torch_or_a_file_of_data() -> None:
    changes = [(row["write"], row["instead"]) for row in MISTAKES]
    done = subprocess.run(
        [sys.executable, "-c", READS_ALL],
        input=json.dumps([SOURCE, changes]),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["caught"] == len(MISTAKES)
    assert found["modules"] == []
    assert [path for path in found["opened"] if not path.endswith((".py", ".pyc", ".so"))] == []
