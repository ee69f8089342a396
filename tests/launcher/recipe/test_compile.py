"""A recipe is read, overridden, checked, cited and written without loss, importing nothing that trains."""

import subprocess
import sys
from pathlib import Path

import pytest

from launcher.errors import UserError
from launcher.recipe.compile import compile_recipe, dump_recipe, load_recipe

HERE = Path(__file__).parent
SMALL = (HERE / "small.yaml").read_text()
RECIPES = sorted((HERE.parents[2] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_survives_being_written_and_read(path: Path) -> None:
    recipe = load_recipe(str(path)).recipe
    text = dump_recipe(recipe)
    again = compile_recipe(text, "dump").recipe
    assert again == recipe
    assert dump_recipe(again) == text


def test_written_recipe_has_every_key_and_every_override() -> None:
    text = dump_recipe(compile_recipe(SMALL, "r", ["optim.lr=1.1e-7"], nodes=1, nproc_per_node=4).recipe)
    assert "eps: 1.0e-08" in text
    assert "lr: 1.1e-07" in text
    assert "nproc_per_node: 4" in text


def test_floats_survive_being_written() -> None:
    awkward = (0.1 + 0.2, 5e-324, 1 / 3, 1e-5, 123456789.123456789)
    for value in awkward:
        recipe = compile_recipe(SMALL, "r", [f"optim.lr={value!r}"]).recipe
        assert recipe.optim.lr == value
        assert compile_recipe(dump_recipe(recipe), "dump").recipe.optim.lr == value


@pytest.mark.parametrize(("written", "value"), [("1.5k", 1500), ("2e3", 2000), ("1_000", 1000), ("012", 12)])
def test_whole_numbers_are_read_as_people_write_them(written: str, value: int) -> None:
    assert compile_recipe(SMALL.replace("steps: 100", f"steps: {written}"), "r").recipe.train.steps == value


def test_text_that_looks_like_a_count_stays_text_where_text_is_wanted() -> None:
    loaded = compile_recipe(SMALL, "r", ["cluster.env={SIZE: 500M}", "cluster.partition=2k"])
    assert loaded.recipe.cluster.env == {"SIZE": "500M"}
    assert loaded.recipe.cluster.partition == "2k"


def test_overrides_set_values_items_and_sections_in_order() -> None:
    overrides = ["optim.betas.1=0.99", "parallel={strategy: single}", "train.steps=7", "train.steps=40"]
    loaded = compile_recipe(
        SMALL, "r", [*overrides, "cluster.nproc_per_node=1", "track.mlflow.enabled=false"]
    )
    assert loaded.recipe.optim.betas == (0.9, 0.99)
    assert loaded.recipe.parallel.strategy == "single"
    assert loaded.recipe.train.steps == 40
    assert loaded.recipe.cluster.nproc_per_node == 1
    assert not loaded.recipe.track.mlflow.enabled
    assert loaded.source.overrides[:4] == tuple(overrides)


def test_override_may_fix_a_recipe() -> None:
    broken = SMALL.replace("steps: 100", "steps: x").replace("lr: 4e-3", "lr: -1")
    assert compile_recipe(broken, "r", ["train.steps=20", "optim.lr=1"]).recipe.train.steps == 20


def test_value_with_an_equals_sign_is_kept_whole() -> None:
    loaded = compile_recipe(SMALL, "r", ["cluster.sbatch_options=[--exclude=n1]"])
    assert loaded.recipe.cluster.sbatch_options == ("--exclude=n1",)


def test_flags_win_over_file_and_overrides() -> None:
    loaded = compile_recipe(SMALL, "r", ["cluster.nodes=3", "cluster.type=auto"], nodes=2, nproc_per_node=4)
    assert (loaded.recipe.cluster.nodes, loaded.recipe.cluster.nproc_per_node) == (2, 4)
    assert loaded.place("cluster.nodes") == "--nodes"


def test_a_range_of_nodes_sets_both_ends_and_a_number_takes_it_back() -> None:
    by_hand = ("cluster.rendezvous=n1:29400",)
    text = dump_recipe(compile_recipe(SMALL, "r", by_hand, nodes=(1, 2)).recipe)
    again = compile_recipe(text, "r")
    assert (again.recipe.cluster.min_nodes, again.recipe.cluster.nodes) == (1, 2)
    fixed = compile_recipe(text, "r", nodes=2).recipe.cluster
    assert (fixed.min_nodes, fixed.nodes) == (None, 2)


def test_places_lead_to_file_override_flag_or_section() -> None:
    loaded = compile_recipe(SMALL, "r", ["train.steps=20"], nproc_per_node=2)
    assert loaded.place("optim.betas.1") == "r:18:16"
    assert loaded.place("train.steps") == "override 'train.steps=20'"
    assert loaded.place("cluster.nproc_per_node") == "--nproc-per-node"
    assert loaded.place("train.validate_every") == "r:25:1"  # a default: its section
    assert loaded.place("nothing") == "r:1:1"


def test_citations_show_value_and_origin() -> None:
    loaded = compile_recipe(SMALL, "r", ["train.steps=20"])
    assert loaded.cite("train.steps") == "train.steps = 20 (override 'train.steps=20')"
    assert loaded.cite("optim.betas.0") == "optim.betas.0 = 0.9 (r:18:11)"
    assert loaded.cite("train.validate_every") == "train.validate_every = null (default)"


def test_missing_file_suggests_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "s4d-small.yaml").write_text(SMALL)
    (tmp_path / "other.yaml").write_text(SMALL)
    with pytest.raises(
        UserError, match=r"s4d-smal.yaml: no such recipe\n    did you mean .*/s4d-small.yaml\?"
    ):
        load_recipe(str(tmp_path / "s4d-smal.yaml"))
    with pytest.raises(UserError, match=r"no such recipe\n    recipes in .*: other.yaml, s4d-small.yaml"):
        load_recipe(str(tmp_path / "zzz.yaml"))


def test_wrong_paths_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        load_recipe(str(tmp_path / "nowhere" / "a.yaml"))
    with pytest.raises(UserError, match=r"is a folder, not a recipe\n    there are no recipes in"):
        load_recipe(str(tmp_path))
    (tmp_path / "latin.yaml").write_bytes("name: é".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin.yaml:1:7: byte 0xe9 is not UTF-8"):
        load_recipe(str(tmp_path / "latin.yaml"))
    with pytest.raises(UserError, match="is not a path"):
        load_recipe("a\0b")


IMPORTS_NOTHING_HEAVY = """
import sys
from launcher.errors import UserError
from launcher.recipe.compile import dump_recipe, load_recipe
dump_recipe(load_recipe(sys.argv[1]).recipe)
try:
    load_recipe(sys.argv[1], ["train.stpes=3"])
except UserError:
    heavy = {"torch", "numpy", "deepspeed", "mlflow", "fsspec", "matplotlib"} & set(sys.modules)
    sys.exit(f"imported {heavy}" if heavy else 0)
sys.exit("the wrong recipe was accepted")
"""


def test_reading_a_recipe_imports_nothing_that_trains() -> None:
    command = [sys.executable, "-c", IMPORTS_NOTHING_HEAVY, str(HERE / "small.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
