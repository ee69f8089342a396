"""The plan as plain data: RUN/plan.json, and what a checkpoint's manifest keeps of it."""

from collections.abc import Mapping
from dataclasses import asdict

from launcher.plan.parameters import Parameters
from launcher.plan.plan import Plan
from launcher.recipe.compile import dump_recipe
from launcher.recipe.schema import Recipe
from models.config import max_chars


def plan_record(plan: Plan) -> dict[str, object]:
    """RUN/plan.json."""
    parameters = plan.parameters
    return {
        "num_parameters": parameters.num_parameters,
        "steps": plan.steps,
        "tokens_per_step": plan.batch.tokens_per_step,
        "total_tokens": plan.total_tokens,
        "flops_per_token": plan.flops_per_token,
        "total_flops": plan.total_flops,
        "batch": asdict(plan.batch),
        "shard_size": plan.shard_size,
        "memory_per_rank_bytes": asdict(plan.memory),
        "checkpoint_bytes": plan.checkpoint_bytes,
        "base_shapes_hash": parameters.base_shapes_hash,
        "multipliers": asdict(parameters.multipliers),
        "groups": [asdict(group) for group in parameters.groups],
        "parameters": {name: _parameter_record(parameters, name) for name in parameters.shapes},
    }


def _parameter_record(parameters: Parameters, name: str) -> dict[str, object]:
    return {
        "shape": list(parameters.shapes[name]),
        "role": str(parameters.facts[name].role),
        "width": asdict(parameters.width_multipliers[name]),
        **asdict(parameters.scalings[name]),
    }


def scaling_records(parameters: Parameters) -> dict[str, object]:
    """Every parameter's factors, as a manifest keeps and compares them."""
    return {
        name: {
            "init": scaling.init,
            "forward": scaling.forward,
            "gradient": scaling.gradient,
            "lr": scaling.lr,
            "weight_decay": scaling.weight_decay,
            "eps": scaling.eps,
        }
        for name, scaling in parameters.scalings.items()
    }


def checkpoint_record(
    recipe: Recipe,
    plan: Plan,
    *,
    step: int,
    attempt: int,
    fingerprint: str,
    schedule_state: Mapping[str, float | int | None],
) -> dict[str, object]:
    """What a manifest keeps besides step and files: all that a resume needs or checks, and who made it."""
    return {
        "tokens": step * plan.batch.tokens_per_step,
        "attempt": attempt,
        "engine": recipe.parallel.engine,
        "strategy": recipe.parallel.strategy if recipe.parallel.engine == "torch" else None,
        "zero_stage": recipe.parallel.zero_stage,
        "world_size": plan.batch.world_size,
        "recipe": dump_recipe(recipe),
        "base_shapes": {name: list(dims) for name, dims in plan.parameters.base_shapes.items()},
        "base_shapes_hash": plan.parameters.base_shapes_hash,
        "scalings": scaling_records(plan.parameters),
        "data": data_record(recipe, plan, fingerprint) | {"position": step * plan.batch.global_batch_size},
        # Random numbers are drawn anew each step from (seed, step, rank): these two are their whole state.
        "rng": {"seed": recipe.seed, "step": step},
        "schedule": recipe.schedule.model_dump(mode="json")
        | {"total_steps": plan.steps, "state": dict(schedule_state)},
    }


def data_record(recipe: Recipe, plan: Plan, fingerprint: str) -> dict[str, object]:
    """What the samples and their order depend on."""
    options = {"truncated_bptt": recipe.train.truncated_bptt or None, "max_chars": max_chars(recipe.model)}
    return {
        "fingerprint": fingerprint,
        "seed": recipe.seed,
        "global_batch_size": plan.batch.global_batch_size,
        "seq_len": plan.batch.seq_len,
    } | {key: value for key, value in options.items() if value is not None}
