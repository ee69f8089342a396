"""The plan as plain data: RUN/plan.json."""

from dataclasses import asdict

from launcher.plan.parameters import Parameters
from launcher.plan.plan import Plan


def plan_record(plan: Plan) -> dict[str, object]:
    """The content of RUN/plan.json."""
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
        "flops_by_part": dict(plan.flops_by_part),
        "kernel_flops": plan.kernel_flops,
        "memory_per_rank_bytes": asdict(plan.memory),
        "peak_bytes": plan.peak.total,
        "peak": asdict(plan.peak),
        "checkpoint_bytes": plan.checkpoint_bytes,
        "extensions": {name: asdict(facts) for name, facts in plan.extensions.items()},
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
