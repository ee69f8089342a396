"""Rules of engines and sharding."""

from collections.abc import Iterator
from importlib.util import find_spec

from launcher.errors import Problem
from launcher.optim.optimizer_table import optimizer_kind
from launcher.plan.worlds import planned_ranks
from launcher.recipe.loaded import LoadedRecipe
from launcher.recipe.rules.refuse import Rule, describe_world, divides, only_for, refuse


def zero_stage_is_for_deepspeed(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`parallel.zero_stage` is only for DeepSpeed; the torch engine shards by `parallel.strategy`."""
    remedy = "remove it, and choose how parameters are sharded with parallel.strategy"
    return only_for(loaded, "parallel.zero_stage", "parallel.engine", ["deepspeed"], remedy)


def deepspeed_is_installed(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`parallel.engine: deepspeed` needs the package."""
    if loaded.recipe.parallel.engine == "deepspeed" and find_spec("deepspeed") is None:
        remedy = "pip install 'deepspeed>=0.19,<0.20', or use parallel.engine=torch"
        yield refuse(loaded, "parallel.engine", "<parallel.engine>, but it is not installed here", remedy)


def deepspeed_has_a_stage(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`parallel.engine: deepspeed` needs `parallel.zero_stage`."""
    parallel = loaded.recipe.parallel
    if parallel.engine == "deepspeed" and parallel.zero_stage is None:
        remedy = "add parallel.zero_stage: 0 nothing, 1 moments, 2 also gradients, 3 also parameters"
        yield refuse(loaded, "parallel.engine", "<parallel.engine> needs to know what is sharded", remedy)


def torch_offloads(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`parallel.cpu_offload` is only for the torch engine; DeepSpeed offloads only optimizers of its own."""
    remedy = "remove it, or use parallel.engine=torch with strategy fsdp2 or hsdp"
    return only_for(loaded, "parallel.cpu_offload", "parallel.engine", ["torch"], remedy)


def only_sharded_parameters_are_offloaded(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`parallel.cpu_offload` is only for strategies that shard parameters."""
    # With DeepSpeed the rule above refuses it already, and one mistake gets one message.
    if loaded.recipe.parallel.engine == "torch":
        remedy = "turn it off, or use strategy fsdp2"
        yield from only_for(loaded, "parallel.cpu_offload", "parallel.strategy", ["fsdp2", "hsdp"], remedy)


def zero_3_is_not_compiled(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`parallel.compile` does not work with stage 3, which gathers parameters inside each layer."""
    parallel = loaded.recipe.parallel
    if parallel.engine == "deepspeed" and parallel.compile and parallel.zero_stage == 3:
        message = "<parallel.compile> does not work with <parallel.zero_stage>"
        yield refuse(loaded, "parallel.compile", message, "turn it off, or use a lower stage or fsdp2")


def zero_keeps_the_optimizer(loaded: LoadedRecipe) -> Iterator[Problem]:
    """ZeRO 1 to 3 shards a group's flat buffer at any element, and not every optimizer allows that."""
    parallel, refusal = loaded.recipe.parallel, optimizer_kind(loaded.recipe.optim).zero_refusal
    if parallel.engine == "deepspeed" and parallel.zero_stage and refusal is not None:
        # A cut in the middle of a matrix leaves Muon without the matrix that it orthogonalizes. Adam sees
        # numbers one by one, and does not notice.
        message = f"<optim.type> {refusal}, but <parallel.zero_stage>"
        yield refuse(loaded, "optim.type", message, "use zero_stage 0, or parallel.engine=torch")


def single_is_one_rank(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`parallel.strategy: single` is for one rank."""
    parallel = loaded.recipe.parallel
    single = parallel.engine == "torch" and parallel.strategy == "single"
    if single and planned_ranks(loaded.recipe) > 1:
        message = f"<parallel.strategy> is only for one rank, but there are {describe_world(loaded)}"
        yield refuse(loaded, "parallel.strategy", message, "use ddp, fsdp2 or hsdp")


def shard_size_is_for_hsdp(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`parallel.shard_size` is only for hsdp."""
    remedy = "remove it, or use strategy hsdp"
    return only_for(loaded, "parallel.shard_size", "parallel.strategy", ["hsdp"], remedy)


def shard_groups_fill_the_world(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`parallel.shard_size` divides the number of ranks."""
    if loaded.recipe.parallel.strategy == "hsdp":
        world = planned_ranks(loaded.recipe)
        yield from divides(loaded, "parallel.shard_size", world, describe_world(loaded))


def compiled_layers_hide_their_operations(loaded: LoadedRecipe) -> Iterator[Problem]:
    """Selective checkpointing chooses by operation; in a compiled layer it changed gradients."""
    parallel, key = loaded.recipe.parallel, "parallel.activation_checkpointing"
    if parallel.compile and parallel.activation_checkpointing == "selective":
        yield refuse(loaded, key, f"<{key}> does not work with <parallel.compile>", "use full, or off")


def sharpness_steps_are_possible(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`optim.sharpness` needs the torch engine, no state of its own between windows or batches, and `sp`."""
    recipe, key = loaded.recipe, "optim.sharpness"
    if recipe.optim.sharpness is None:
        return
    # A pass at other weights would leave its states and averages in those of the run. Under muP the radius of
    # whole-model perturbations reaches only the last layer as width grows (openreview Qo6KUhQkPw).
    refused = (
        ("parallel.engine", recipe.parallel.engine == "deepspeed", "use parallel.engine=torch"),
        ("train.truncated_bptt", recipe.train.truncated_bptt, "set one of them to its default"),
        ("model.norm", recipe.model.norm == "batch", "use model.norm=layer"),
        (
            "mup.type",
            recipe.mup.type != "sp",
            "use mup.type=sp: how its radius scales with width is not known here",
        ),
    )
    for other, found, remedy in refused:
        if found:
            yield refuse(loaded, key, f"optim.sharpness does not work with <{other}>", remedy)


PARALLEL_RULES = (
    Rule("zero-stage-is-deepspeed", zero_stage_is_for_deepspeed),
    Rule("deepspeed-installed", deepspeed_is_installed),
    Rule("deepspeed-needs-stage", deepspeed_has_a_stage),
    Rule("offload-is-torch", torch_offloads),
    Rule("offload-is-sharded", only_sharded_parameters_are_offloaded),
    Rule("no-compiled-zero-3", zero_3_is_not_compiled),
    Rule("zero-keeps-optimizer", zero_keeps_the_optimizer),
    Rule("single-is-one-rank", single_is_one_rank),
    Rule("shard-size-is-hsdp", shard_size_is_for_hsdp),
    Rule("shards-fill-world", shard_groups_fill_the_world),
    Rule("no-selective-compiled", compiled_layers_hide_their_operations),
    Rule("sharpness-is-plain", sharpness_steps_are_possible),
)
