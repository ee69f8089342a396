"""`launch validate`, `recipes` and `diff`."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from launcher.recipe.differences import diff_rows
from tests.launch import launch
from tests.small_run import RECIPE, make_run, small_recipe

ROOT = Path(__file__).parents[3]


def test_many_recipes_are_checked_at_once_with_all_their_problems(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(RECIPE)
    bad = RECIPE.replace("dropout: 0.1", "dropout: 0,1").replace("steps: 20", "stepz: 20")
    (tmp_path / "bad.yaml").write_text(bad)
    done = launch("validate", "good.yaml", "bad.yaml", folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == "good.yaml: ok\nbad.yaml: 2 problem(s)\n"
    assert re.search(r"^launch: bad.yaml:10:12: model.dropout is '0,1'", done.stderr, re.MULTILINE), (
        done.stderr
    )
    found = json.loads(launch("validate", "good.yaml", "bad.yaml", "--json", folder=tmp_path).stdout)
    assert found["good.yaml"] == []
    assert [problem["remedy"] for problem in found["bad.yaml"]] == [
        "write 0.1 with a decimal point",
        "did you mean 'steps'?",
    ]
    assert launch("validate", "good.yaml", "train.steps=soon", folder=tmp_path).returncode == 2


def test_all_recipes_are_valid_and_listed_and_no_torch_is_imported() -> None:
    recipes = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "recipes").glob("*.yaml"))
    done = launch("validate", *recipes, folder=ROOT)
    assert done.stdout.splitlines() == [f"{path}: ok" for path in recipes]
    listed = launch("recipes", folder=ROOT).stdout.splitlines()
    assert [line.split()[0] for line in listed[1:]] == recipes
    assert re.search(r"s4-lm-1b.yaml +s4\+ffn 38 x 2048 +dataset +20,000 +A language", "\n".join(listed))
    program = f"import sys; from launcher.cli.main import main; main(['validate', *{recipes!r}])"
    check = f"{program}; print('torch' in sys.modules, 'numpy' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.splitlines()[-1] == "False False"


def test_a_run_is_compared_with_another_and_with_its_source(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    make_run(tmp_path / "one", small_recipe())
    make_run(tmp_path / "two", small_recipe("optim.lr=1e-3", "schedule={type: constant}"))
    same = launch("diff", "one", "small.yaml", folder=tmp_path)
    assert (same.returncode, "are the same recipe" in same.stdout) == (0, True)
    done = launch("diff", "one", "two", folder=tmp_path)
    assert done.returncode == 1
    assert re.search(r"^optim.lr +0.008 +0.001$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^schedule.type +cosine +constant$", done.stdout, re.MULTILINE)
    assert re.search(r"^schedule.min_lr_ratio +0.1 +-$", done.stdout, re.MULTILINE)
    assert "model.d_model" not in done.stdout
    (tmp_path / "one/recipe.source.yaml").write_text(f"# {tmp_path}/small.yaml\n{RECIPE}")
    assert launch("diff", "one", folder=tmp_path).returncode == 0
    shutil.copytree(tmp_path / "one", tmp_path / "runs/night")
    for word in ("night", "latest"):
        assert launch("diff", word, folder=tmp_path).returncode == 0, "a run by its name"
    (tmp_path / "small.yaml").write_text(RECIPE.replace("seed: 7", "seed: 8"))
    assert re.search(r"^seed +7 +8$", launch("diff", "one", folder=tmp_path).stdout, re.MULTILINE)


def test_rows_are_those_values_that_differ() -> None:
    first, second = {"a": {"b": 1, "c": None}, "d": [1]}, {"a": {"b": 1, "c": "x"}, "e": {}}
    assert diff_rows(first, second) == [["a.c", "null", "x"], ["d", "[1]", "-"], ["e", "-", "{}"]]
