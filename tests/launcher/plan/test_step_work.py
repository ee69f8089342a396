"""What a device can do is known by its name, or not at all."""

import pytest

from launcher.plan.plan import make_plan
from launcher.plan.step_work import find_tflops, step_work
from launcher.recipe.compile import load_recipe

QUICKSTART = "recipes/s4d-lm-quickstart.yaml"


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", None),
        ("x86_64", None),
    ],
)
def test_a_device_is_known_by_its_driver_s_name_or_not_at_all(device: str, expected: float | None) -> None:
    assert find_tflops(device, "bf16") == expected


def test_a_step_s_work_is_that_of_one_rank() -> None:
    recipe = load_recipe(QUICKSTART, nproc_per_node=2).recipe
    plan = make_plan(recipe, 2)
    work = step_work(recipe, plan, "x86_64")
    assert 2 * (work.flops - plan.kernel_flops) == pytest.approx(
        plan.flops_per_token * plan.batch.tokens_per_step
    )
    assert sum(work.sizes.values()) == plan.parameters.num_parameters
    assert work.peak_flops is None


def test_figures_of_the_recipe_win() -> None:
    hardware = ["cluster.hardware.memory_gib=80", "cluster.hardware.tflops=2"]
    recipe = load_recipe(QUICKSTART, hardware, nproc_per_node=1).recipe
    assert step_work(recipe, make_plan(recipe, 1), "NVIDIA A100-SXM4-80GB").peak_flops == 2e12
