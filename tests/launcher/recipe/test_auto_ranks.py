"""`cluster.nproc_per_node: auto` becomes a number before anything else looks at the recipe."""

import pytest

import launcher.recipe.compile as compile_module
from launcher.errors import UserError
from launcher.recipe.compile import compile_recipe, dump_recipe, load_recipe
from tests.small_run import RECIPE

AUTO = "cluster.nproc_per_node=auto"


def machine(monkeypatch: pytest.MonkeyPatch, gpus: int, cpus: int) -> None:
    monkeypatch.setattr(compile_module, "visible_gpus", lambda: gpus)
    monkeypatch.setattr(compile_module, "usable_cpus", lambda: cpus)


@pytest.mark.parametrize(
    ("gpus", "cpus", "words", "ranks"),
    [
        (0, 1, (), 1),
        (0, 2, (), 2),
        (0, 64, (), 2),
        (1, 64, (), 1),
        (8, 64, (), 8),
        (8, 64, ("train.global_batch_size=12",), 6),  # 8 do not divide 12, nor 7
        (4, 64, ("train.global_batch_size=40", "train.micro_batch_size=8"), 1),  # 20, 10: no whole ones
        (3, 64, ("train.global_batch_size=1", "train.micro_batch_size=1"), 1),
        (0, 2, ("cluster.type=auto", "cluster.gpus_per_node=4"), 4),
    ],
)
def test_as_many_as_the_machine_has_room_for_and_the_batch_divides_over(
    gpus: int, cpus: int, words: tuple[str, ...], ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, gpus, cpus)
    recipe = compile_recipe(RECIPE, "small.yaml", [AUTO, "parallel.strategy=ddp", *words]).recipe
    assert recipe.cluster.nproc_per_node == ranks
    # another machine must not change what was frozen
    machine(monkeypatch, 5, 5)
    frozen = compile_recipe(dump_recipe(recipe), "recipe.yaml").recipe
    assert frozen.cluster.nproc_per_node == ranks


def test_slurm_has_no_machine_to_look_at() -> None:
    with pytest.raises(UserError) as error:
        compile_recipe(RECIPE, "small.yaml", [AUTO, "cluster.type=slurm"])
    (problem,) = error.value.problems
    assert "gpus_per_node" in problem.message


def test_a_flag_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 8, 64)
    recipe = load_recipe("recipes/s4d-lm-quickstart.yaml", nproc_per_node=1).recipe
    assert recipe.cluster.nproc_per_node == 1


@pytest.mark.parametrize("gpus", [0, 1, 8])
def test_the_quickstart_runs_on_any_machine(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpus, 1)
    assert load_recipe("recipes/s4d-lm-quickstart.yaml").recipe.cluster.nproc_per_node == max(gpus, 1)
