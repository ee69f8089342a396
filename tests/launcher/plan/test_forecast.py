"""What the plan says of devices, traffic, time and cost, by hand."""

import math
from dataclasses import replace

import pytest

from launcher.plan.forecast import (
    CONTEXT_GIB,
    DEVICES,
    GIB,
    SLACK,
    find_traffic,
    largest_micro_batch,
    make_forecast,
    needs_gib,
    smallest_change,
    with_micro_batch,
)
from launcher.plan.plan import Plan, make_plan
from launcher.plan.plan_text import plan_text
from launcher.plan.worlds import planned_ranks
from launcher.recipe.compile import load_recipe
from launcher.recipe.schema import Recipe

LARGE = "recipes/s4-lm-1b.yaml"
FIGURES = (
    "cluster.hardware={memory_gib: 79.1, tflops: 989, mfu: [0.2, 0.4], storage_gb_per_s: 10, "
    "node_mtbf_hours: 5000, watts: 900, co2_g_per_kwh: 300, price_per_hour: 2.5}"
)


def planned(*overrides: str, nodes: int = 8) -> tuple[Recipe, Plan]:
    recipe = load_recipe(LARGE, list(overrides), nodes=nodes).recipe
    return recipe, make_plan(recipe, planned_ranks(recipe))


def test_traffic_of_hsdp_is_gathers_within_a_node_and_a_reduction_across() -> None:
    recipe, plan = planned()
    whole, found = 4.0 * plan.parameters.num_parameters, find_traffic(recipe, plan)
    # Gathered twice in bfloat16, reduced once in float32, over 8 ranks; then an eighth over 8 nodes.
    assert found.within == pytest.approx(2 * whole * 7 / 8)
    assert found.across == pytest.approx(2 * whole / 8 * 7 / 8)


def test_traffic_of_fsdp2_over_nodes_is_as_slow_as_the_network() -> None:
    recipe, plan = planned("parallel.strategy=fsdp2", "parallel.shard_size=null", nodes=2)
    whole, found = 4.0 * plan.parameters.num_parameters, find_traffic(recipe, plan)
    assert found.within == 0
    assert found.across == pytest.approx((0.5 * 2 * plan.batch.num_micro + 1) * whole * 15 / 16)


def test_ddp_sends_two_thirds_of_fsdp2_in_float32() -> None:
    ddp = find_traffic(*planned("parallel.strategy=ddp", "parallel.shard_size=null", nodes=1))
    sharded = find_traffic(
        *planned("parallel.precision=fp32", "train.micro_batch_size=64", nodes=1),
    )
    assert ddp.within / sharded.within == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", DEVICES)
def test_the_largest_micro_batch_fits_and_the_next_does_not(name: int) -> None:
    recipe, plan = planned("train.micro_batch_size=32", "train.global_batch_size=2048")
    gib, found = DEVICES[name], largest_micro_batch(recipe, plan, DEVICES[name])
    assert needs_gib(with_micro_batch(recipe, plan, found)) <= gib
    assert found == 32 or needs_gib(with_micro_batch(recipe, plan, 2 * found)) > gib


def test_what_a_device_needs_is_more_than_what_is_allocated() -> None:
    _, plan = planned()
    assert needs_gib(plan.peak) == pytest.approx(plan.peak.total / GIB * SLACK + CONTEXT_GIB)


def test_recomputation_is_offered_where_one_sample_does_not_fit() -> None:
    recipe, plan = planned("data.seq_len=16384", "train.micro_batch_size=1", "train.global_batch_size=64")
    assert largest_micro_batch(recipe, plan, DEVICES[80]) == 0 or needs_gib(plan.peak) <= DEVICES[80]
    gib = needs_gib(plan.peak) - 1
    assert smallest_change(recipe, plan, gib).startswith("parallel.activation_checkpointing=full")
    assert smallest_change(recipe, plan, 1.0) == ""


def test_time_and_cost_follow_from_the_figures() -> None:
    recipe, plan = planned(FIGURES)
    found, batch = make_forecast(recipe, plan), plan.batch
    assert found is not None
    flops = plan.flops_per_token * batch.tokens_per_step / 64 + plan.kernel_flops
    fastest = flops / (989e12 * 0.4)
    assert found.bound == "computation"
    assert found.tokens_per_s[1] == pytest.approx(batch.tokens_per_step / fastest)
    assert found.hours[1] == pytest.approx(plan.steps * fastest / 3600)
    assert found.hours[0] > 2 * found.hours[1]
    assert found.price is not None
    assert found.price[1] == pytest.approx(found.hours[1] * 64 * 2.5)
    assert found.energy_kwh is not None
    assert found.co2_kg is not None
    assert found.co2_kg[0] == pytest.approx(found.hours[0] * 64 * 0.9 * 0.3)
    assert found.save_s == pytest.approx(plan.checkpoint_bytes / 10e9)
    mtbf_s = 5000 * 3600 / 8
    assert found.best_interval_s == pytest.approx(math.sqrt(2 * plan.checkpoint_bytes / 10e9 * mtbf_s))


def test_without_figures_there_is_no_forecast() -> None:
    assert make_forecast(*planned()) is None


def test_the_plan_says_what_would_fit() -> None:
    recipe, plan = planned(FIGURES, "train.micro_batch_size=32", "train.global_batch_size=2048")
    text = plan_text(recipe, plan, full=False)
    assert "do not fit on 79.1 GiB: it would with train.micro_batch_size=16" in text
    assert "tokens/s, bound by computation" in text
    assert all(len(line) <= 160 for line in text.splitlines())
    assert len(text.splitlines()) <= 45, "one screen"


def test_peak_does_not_grow_with_nodes() -> None:
    recipe, plan = planned()
    many = make_plan(load_recipe(LARGE, ["train.global_batch_size=4096"], nodes=64).recipe, 512)
    assert many.peak.total == pytest.approx(plan.peak.total)
    assert replace(many.peak, moment=plan.peak.moment) == plan.peak


def test_offloading_leaves_only_what_is_gathered_and_active_on_the_device() -> None:
    _, plan = planned()
    recipe, offloaded = planned("parallel.cpu_offload=true")
    assert offloaded.peak.lasting == 0
    lasting = plan.memory.parameters + plan.memory.optimizer
    assert offloaded.peak.total == pytest.approx(plan.peak.total - lasting)
    assert (
        "parameters"
        not in [line for line in plan_text(recipe, offloaded).splitlines() if "at work" in line][0]
    )
