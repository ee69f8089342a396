"""Plan: every derived number of a run, computed once, before anything starts."""

from dataclasses import dataclass, replace

from launcher.errors import Problem, UserError
from launcher.optim.groups import state_size
from launcher.optim.optimizer_table import StateSize
from launcher.plan.batch import BatchShape, shape_batch
from launcher.plan.parameters import Parameters, describe_parameters
from launcher.recipe.schema import Recipe
from models.build_model import flops_per_token, recurrent_state_size
from models.config import sequences_per_sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes per rank of what a step keeps, activations not counted."""

    parameters: float
    gradients: float
    optimizer: float
    carried: float = 0.0
    """States that go on to the next step."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.parameters + self.gradients + self.optimizer + self.carried


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will run, in numbers."""

    batch: BatchShape
    parameters: Parameters
    steps: int
    shard_size: int
    """Ranks that hold one whole set of parameters between them."""
    memory: Memory
    flops_per_token: float
    """Forward and backward, by the formula of each layer's docstring."""
    checkpoint_bytes: float

    @property
    def total_tokens(self) -> int:
        """Positions trained on over the whole run."""
        return self.steps * self.batch.tokens_per_step

    @property
    def total_flops(self) -> float:
        """Floating-point operations of the whole run."""
        return self.total_tokens * self.flops_per_token


def make_plan(recipe: Recipe, world_size: int) -> Plan:
    """Derive every number of a run from its recipe and the number of its ranks.

    Raises UserError for a number of ranks that the recipe does not allow.
    """
    _check_world(recipe, world_size)
    train = recipe.train
    parameters = describe_parameters(recipe.model, recipe.mup, recipe.optim, seq_len=recipe.data.seq_len)
    shard_size = find_shard_size(recipe, world_size)
    weights = 4.0 * parameters.num_parameters  # float32 masters
    state = count_state(recipe, parameters)
    carries = train.truncated_bptt
    carried = 4.0 * train.global_batch_size * recurrent_state_size(recipe.model) if carries else 0.0
    memory = measure_memory(recipe, weights, state, world_size)
    return Plan(
        batch=shape_batch(
            train.global_batch_size,
            train.micro_batch_size,
            world_size,
            recipe.data.seq_len,
            sequences_per_sample(recipe.model),
        ),
        parameters=parameters,
        steps=train.steps,
        shard_size=shard_size,
        memory=replace(memory, carried=carried / world_size),
        flops_per_token=flops_per_token(recipe.model, recipe.data.seq_len, carries=carries),
        checkpoint_bytes=weights + 4.0 * (state.sharded + state.whole) + carried,
    )


def _check_world(recipe: Recipe, world_size: int) -> None:
    cluster = recipe.cluster
    if world_size == cluster.world_size:
        return
    message = (
        f"{world_size} started, but the plan is for {cluster.world_size} = cluster.nodes {cluster.nodes} x "
        f"cluster.nproc_per_node {cluster.nproc_per_node}; for others: launch resume RUN --nproc-per-node N"
    )
    raise UserError(Problem("ranks", message))


def find_shard_size(recipe: Recipe, world_size: int) -> int:
    """Ranks over which one copy of the parameters is spread."""
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
    """Share of one rank in bytes of all weights and moments; gradients are as large as weights."""
    stage, moments, whole = recipe.parallel.zero_stage, 4.0 * state.sharded, 4.0 * state.whole
    if recipe.parallel.engine == "torch" or not stage:
        size = find_shard_size(recipe, world_size)
        return Memory(parameters=weights / size, gradients=weights / size, optimizer=moments / size + whole)
    # ZeRO steps a second, sharded copy of the weights (arXiv 1910.02054, section 3.1, at one precision).
    return Memory(
        parameters=weights / world_size + (weights / world_size if stage == 3 else weights),
        gradients=weights / world_size if stage >= 2 else weights,
        optimizer=moments / world_size + whole,
    )


def count_state(recipe: Recipe, parameters: Parameters) -> StateSize:
    """Numbers that the optimizer keeps for one copy of the parameters."""
    sizes = [
        state_size(recipe.optim, group.update, parameters.shapes[name])
        for group in parameters.groups
        for name in group.parameters
    ]
    return StateSize(sharded=sum(s.sharded for s in sizes), whole=sum(s.whole for s in sizes))
