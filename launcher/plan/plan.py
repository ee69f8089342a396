"""Plan: every derived number of a run, computed once before the run starts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from launcher.errors import Problem, UserError
from launcher.optim.groups import state_size
from launcher.optim.optimizer_table import StateSize
from launcher.plan.batch import BatchShape, shape_batch
from launcher.plan.memory import Memory, Peak, find_peak, sharding_of, units_of
from launcher.plan.parameters import Parameters, describe_parameters
from launcher.plan.worlds import node_counts, planned_ranks
from launcher.recipe.extension import ExtensionFacts, extension_facts
from launcher.recipe.schema import Recipe
from models.build_model import (
    flops_by_part,
    flops_per_token,
    kernel_flops,
    model_footprint,
    recurrent_state_size,
)
from models.config import sequences_per_sample
from models.footprint import Pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every derived number of a run."""

    batch: BatchShape
    parameters: Parameters
    steps: int
    shard_size: int
    """Number of ranks over which one copy of the parameters is sharded."""
    memory: Memory
    """What lasts from step to step."""
    peak: Peak
    """The worst moment of a step."""
    flops_per_token: float
    """Forward and backward; each layer's docstring has its formula."""
    kernel_flops: float
    """Forward and backward, of all state-space kernels: of a step and rank, whatever the batch."""
    flops_by_part: Mapping[str, float]
    """Of flops_per_token: each kind of layer, encoder and readout."""
    checkpoint_bytes: float
    extensions: Mapping[str, ExtensionFacts]
    """Which code they are, by the recipe's names."""

    @property
    def total_tokens(self) -> int:
        """Positions trained on in the whole run."""
        return self.steps * self.batch.tokens_per_step

    @property
    def total_flops(self) -> float:
        """Floating-point operations of the whole run."""
        # recipes/transformer-lm-tiny.yaml: 6 FLOPs for each of the 425,984 weights of matrices and readout (2
        # in the forward pass, 4 in the backward pass), and 3 x 4 x 128 x 64.5 for each of 2 attention layers,
        # in which a position looks at 64.5 others on average: 2,754,048 a token. x 204,800 tokens = 5.64e11.
        # Embedding look-ups, norms and the optimizer are not counted.
        return self.total_tokens * self.flops_per_token


def make_plan(recipe: Recipe, world_size: int) -> Plan:
    """Derive every number of a run from its recipe and the number of ranks.

    Raises UserError if that is not the number of ranks in the recipe.
    """
    _check_world(recipe, world_size)
    train = recipe.train
    parameters = describe_parameters(recipe.model, recipe.mup, recipe.optim, seq_len=recipe.data.seq_len)
    shard_size = find_shard_size(recipe, world_size)
    weights = 4.0 * parameters.num_parameters  # float32 masters
    state = count_state(recipe, parameters)
    # One state per sequence of the global batch, in float32. recipes/s4d-lm-tiny.yaml: 2 layers x 128
    # channels x 16 numbers = 4096 a sequence, hence 128 KiB over all ranks for a batch of 8.
    carries = train.truncated_bptt
    carried = 4.0 * train.global_batch_size * recurrent_state_size(recipe.model) if carries else 0.0
    memory = replace(measure_memory(recipe, weights, state, world_size), carried=carried / world_size)
    batch = shape_batch(
        train.global_batch_size,
        train.micro_batch_size,
        world_size,
        recipe.data.seq_len,
        sequences_per_sample(recipe.model),
    )
    passes = 1 if recipe.optim.sharpness is None else 2
    by_part = flops_by_part(recipe.model, recipe.data.seq_len)
    return Plan(
        batch=batch,
        parameters=parameters,
        steps=train.steps,
        shard_size=shard_size,
        memory=memory,
        peak=estimate_peak(recipe, batch, parameters, memory, shard_size),
        flops_per_token=passes * flops_per_token(recipe.model, recipe.data.seq_len, carries=carries),
        kernel_flops=passes * kernel_flops(recipe.model, step_of(recipe, batch)),
        flops_by_part={part: passes * flops for part, flops in by_part.items()},
        # Whatever the sharding: 4 bytes a parameter and 8 for Adam's two moments. 462,336 parameters: 5.29
        # MiB.
        checkpoint_bytes=weights + 4.0 * (state.sharded + state.whole) + carried,
        extensions={name: extension_facts(name) for name in recipe.extensions},
    )


def estimate_peak(
    recipe: Recipe, batch: BatchShape, parameters: Parameters, memory: Memory, shard_size: int
) -> Peak:
    """The worst moment of a step, beside what lasts."""
    units = units_of(parameters.shapes, recipe.model.num_layers)
    sharding = sharding_of(recipe, units, shard_size, batch.world_size, batch.num_micro)
    gathered = shard_size > 1 and sharding.unit_share < 1
    step = replace(step_of(recipe, batch), gathered=gathered)
    return find_peak(memory, model_footprint(recipe.model, step), units, sharding, recipe, batch.num_micro)


def step_of(recipe: Recipe, batch: BatchShape) -> Pass:
    """A rank's micro batch, as one of its step."""
    return Pass(
        sequences=batch.micro_batch_size * batch.num_sequences,
        length=batch.seq_len,
        half=recipe.parallel.precision == "bf16",
        num_micro=batch.num_micro,
        carries=recipe.train.truncated_bptt,
    )


def _check_world(recipe: Recipe, world_size: int) -> None:
    per_node, counts = recipe.cluster.nproc_per_node, node_counts(recipe)
    if world_size in [count * per_node for count in counts]:
        return
    message = (
        f"{world_size} started, but the plan is for {planned_ranks(recipe)} = cluster.nodes {counts[-1]} x "
        f"cluster.nproc_per_node {per_node}; for others: launch resume RUN --nproc-per-node N"
    )
    raise UserError(Problem("ranks", message))


def find_shard_size(recipe: Recipe, world_size: int) -> int:
    """Number of ranks over which one copy of the parameters is sharded."""
    # ZeRO 1 and 2 shard moments and gradients, but every rank has all parameters. hsdp on 2 nodes of 8: each
    # node has one copy, on 8 ranks, unless shard_size says otherwise.
    if recipe.parallel.engine == "deepspeed":
        return world_size if recipe.parallel.zero_stage == 3 else 1
    match recipe.parallel.strategy:
        case "single" | "ddp":
            return 1
        case "fsdp2":
            return world_size
        case "hsdp":
            return recipe.parallel.shard_size or recipe.cluster.nproc_per_node


def measure_memory(recipe: Recipe, weights: float, state: StateSize, world_size: int) -> Memory:
    """Bytes per rank for `weights` bytes of parameters, as many of gradients, and the optimizer's state."""
    # In float32, whatever the precision of the forward pass. N parameters under Adam take 4N bytes for
    # weights, 4N for gradients and 8N for two moments. recipes/transformer-lm-tiny.yaml has N = 462,336;
    # fsdp2 on 2 ranks shards all of it: 903 KiB + 903 KiB + 1806 KiB = 3.53 MiB a rank. `whole` is what each
    # rank keeps in full.
    stage, moments, whole = recipe.parallel.zero_stage, 4.0 * state.sharded, 4.0 * state.whole
    if recipe.parallel.engine == "torch" or not stage:
        size = find_shard_size(recipe, world_size)
        kept = 0.0 if recipe.optim.sharpness is None else weights / size  # the weights, during a step
        return Memory(
            parameters=weights / size, gradients=weights / size, optimizer=moments / size + whole + kept
        )
    # ZeRO's optimizer updates a second copy of the weights, which is sharded (arXiv 1910.02054, section 3.1,
    # at one precision). N = 1e9 under Adam on 8 ranks, in GB per rank: stage 1 has 0.5 + 4 for parameters, 4
    # for gradients and 1 for moments, 9.5 in all; stage 2 shards gradients too, 6; stage 3 all of them, 2.5.
    return Memory(
        parameters=weights / world_size + (weights / world_size if stage == 3 else weights),
        gradients=weights / world_size if stage >= 2 else weights,
        optimizer=moments / world_size + whole,
    )


def count_state(recipe: Recipe, parameters: Parameters) -> StateSize:
    """Number of values in the optimizer's state for one copy of the parameters."""
    sizes = [
        state_size(recipe.optim, group.update, parameters.shapes[name])
        for group in parameters.groups
        for name in group.parameters
    ]
    return StateSize(sharded=sum(s.sharded for s in sizes), whole=sum(s.whole for s in sizes))
