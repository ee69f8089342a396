"""Rules between the fields of a recipe that need no torch. Each names every place it compares."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec

from pydantic import BaseModel

from launcher.data.config import TaskShape, TextSection
from launcher.errors import Problem
from launcher.optim.config import TensorRate
from launcher.recipe.loaded import LoadedRecipe
from launcher.recipe.rate_rules import RATE_RULES
from launcher.recipe.stream_rules import STREAM_RULES
from launcher.recipe.tree import Key
from models.config import CharCNNEncoder, ClassifierConfig, LinearEncoder

KeyPath = tuple[Key, ...]


def check_rules(
    loaded: LoadedRecipe, nodes: int | None = None, nproc_per_node: int | None = None
) -> list[Problem]:
    """Every rule that the recipe breaks, on its own number of ranks or on the one given."""
    loaded = loaded.on(nodes, nproc_per_node)
    return [problem for rule in RULES for problem in rule(loaded)]


def _world_size(loaded: LoadedRecipe) -> int:
    return loaded.recipe.cluster.world_size


def _world(loaded: LoadedRecipe) -> str:
    """The number of ranks with where it comes from."""
    nodes, processes = loaded.cite("cluster", "nodes"), loaded.cite("cluster", "nproc_per_node")
    return f"{_world_size(loaded)} ranks: {nodes} x {processes}"


def _batch_divides_over_ranks(loaded: LoadedRecipe) -> Iterator[Problem]:
    """The batch triangle: global = ranks x accumulation x micro, all whole; a small share is one micro."""
    world, train = _world_size(loaded), loaded.recipe.train
    share, rest = divmod(train.global_batch_size, world)
    if rest:
        near = [size for size in (share * world, (share + 1) * world) if size]
        yield Problem(
            loaded.place("train", "global_batch_size"),
            f"train.global_batch_size = {train.global_batch_size} does not divide over {_world(loaded)}",
            f"use {' or '.join(map(str, near))}",
        )
    elif share > train.micro_batch_size and share % train.micro_batch_size:
        fits = max(size for size in range(1, train.micro_batch_size + 1) if share % size == 0)
        yield Problem(
            loaded.place("train", "micro_batch_size"),
            f"train.micro_batch_size = {train.micro_batch_size} does not divide the {share} sequences of "
            f"each rank: {loaded.cite('train', 'global_batch_size')} over {_world(loaded)}",
            f"use {fits}",
        )


def _torch_has_no_zero_stage(loaded: LoadedRecipe) -> Iterator[Problem]:
    parallel = loaded.recipe.parallel
    if parallel.engine == "torch" and parallel.zero_stage is not None:
        yield Problem(
            loaded.place("parallel", "zero_stage"),
            f"parallel.zero_stage = {parallel.zero_stage} is for deepspeed, but "
            f"{loaded.cite('parallel', 'engine')}",
            "remove it, and choose how parameters are sharded with parallel.strategy",
        )


def _deepspeed_can_run(loaded: LoadedRecipe) -> Iterator[Problem]:
    parallel, engine = loaded.recipe.parallel, loaded.cite("parallel", "engine")
    if parallel.engine != "deepspeed":
        return
    if find_spec("deepspeed") is None:
        remedy = "pip install 'deepspeed>=0.19,<0.20', or use parallel.engine=torch"
        yield Problem(loaded.place("parallel", "engine"), f"{engine}, but it is not installed here", remedy)
    if parallel.zero_stage is None:
        message = f"{engine} needs to know what is sharded"
        remedy = "add parallel.zero_stage: 0 nothing, 1 moments, 2 also gradients, 3 also parameters"
        yield Problem(loaded.place("parallel", "engine"), message, remedy)
    if parallel.cpu_offload:
        message = f"{loaded.cite('parallel', 'cpu_offload')} is for fsdp2 and hsdp, but {engine}"
        remedy = "remove it, or use parallel.engine=torch; DeepSpeed offloads only optimizers of its own"
        yield Problem(loaded.place("parallel", "cpu_offload"), message, remedy)
    if parallel.compile and parallel.zero_stage == 3:
        stage = loaded.cite("parallel", "zero_stage")
        message = f"{loaded.cite('parallel', 'compile')} does not go with {stage}"
        remedy = "turn it off, or use a lower stage or fsdp2: stage 3 gathers parameters inside each layer"
        yield Problem(loaded.place("parallel", "compile"), message, remedy)


def _zero_stages_cut_only_elementwise_optimizers(loaded: LoadedRecipe) -> Iterator[Problem]:
    """DeepSpeed flattens a group into one buffer and cuts it anywhere: shapes are gone."""
    parallel, optim = loaded.recipe.parallel, loaded.recipe.optim
    if parallel.engine == "deepspeed" and parallel.zero_stage and optim.type in ("muon", "shampoo", "soap"):
        message = (
            f"{loaded.cite('optim', 'type')} works on whole matrices, which "
            f"{loaded.cite('parallel', 'zero_stage')} cuts"
        )
        yield Problem(loaded.place("optim", "type"), message, "use zero_stage 0, or parallel.engine=torch")


def _zero_stages_keep_the_groups(loaded: LoadedRecipe) -> Iterator[Problem]:
    """DeepSpeed builds torch's Adagrad anew over its buffers, in one group with default options."""
    parallel, optim = loaded.recipe.parallel, loaded.recipe.optim
    if parallel.engine == "deepspeed" and parallel.zero_stage and optim.type == "adagrad":
        stage = loaded.cite("parallel", "zero_stage")
        message = f"{loaded.cite('optim', 'type')} would lose its parameter groups under {stage}"
        yield Problem(loaded.place("optim", "type"), message, "use zero_stage 0, or parallel.engine=torch")


def _single_is_one_rank(loaded: LoadedRecipe) -> Iterator[Problem]:
    parallel = loaded.recipe.parallel
    if parallel.engine == "torch" and parallel.strategy == "single" and _world_size(loaded) > 1:
        place = loaded.place("parallel", "strategy")
        message = f"parallel.strategy = single is for one rank, but there are {_world(loaded)}"
        yield Problem(place, message, "use ddp, fsdp2 or hsdp")


def _shard_groups_fill_the_world(loaded: LoadedRecipe) -> Iterator[Problem]:
    parallel, world = loaded.recipe.parallel, _world_size(loaded)
    size = parallel.shard_size
    if size is None:
        return
    place = loaded.place("parallel", "shard_size")
    if parallel.strategy != "hsdp":
        message = f"parallel.shard_size = {size} is for hsdp, but {loaded.cite('parallel', 'strategy')}"
        yield Problem(place, message, "remove it, or use strategy hsdp")
    elif world % size:
        fits = max(count for count in range(1, min(size, world) + 1) if world % count == 0)
        message = f"parallel.shard_size = {size} does not divide {_world(loaded)}"
        yield Problem(place, message, f"use {fits}")


def _only_sharded_parameters_are_offloaded(loaded: LoadedRecipe) -> Iterator[Problem]:
    parallel = loaded.recipe.parallel
    if parallel.engine == "torch" and parallel.cpu_offload and parallel.strategy in ("single", "ddp"):
        place, strategy = loaded.place("parallel", "cpu_offload"), loaded.cite("parallel", "strategy")
        message = f"{loaded.cite('parallel', 'cpu_offload')} is for fsdp2 and hsdp, but {strategy}"
        yield Problem(place, message, "turn it off, or use strategy fsdp2")


def _compiled_layers_hide_their_operations(loaded: LoadedRecipe) -> Iterator[Problem]:
    """Selective checkpointing chooses by operation; of a compiled layer it changed gradients."""
    parallel = loaded.recipe.parallel
    if parallel.compile and parallel.activation_checkpointing == "selective":
        compiled, chosen = (
            loaded.cite("parallel", "compile"),
            loaded.cite("parallel", "activation_checkpointing"),
        )
        message = f"{chosen} does not go with {compiled}"
        yield Problem(loaded.place("parallel", "activation_checkpointing"), message, "use full, or off")


def _local_is_one_node(loaded: LoadedRecipe) -> Iterator[Problem]:
    cluster = loaded.recipe.cluster
    if cluster.type == "local" and cluster.nodes > 1:
        message = (
            f"{loaded.cite('cluster', 'nodes')}, but {loaded.cite('cluster', 'type')} is this machine only"
        )
        yield Problem(
            loaded.place("cluster", "nodes"), message, "use cluster.type=slurm or auto, or one node"
        )


def _one_process_per_gpu(loaded: LoadedRecipe) -> Iterator[Problem]:
    """NCCL refuses two ranks of one job on one device."""
    cluster = loaded.recipe.cluster
    if cluster.gpus_per_node is not None and cluster.nproc_per_node > cluster.gpus_per_node:
        gpus, processes = loaded.cite("cluster", "gpus_per_node"), loaded.cite("cluster", "nproc_per_node")
        place = loaded.place("cluster", "nproc_per_node")
        yield Problem(place, f"more processes than GPUs: {processes}, {gpus}", "use one process per GPU")


def _warmup_ends_before_the_run(loaded: LoadedRecipe) -> Iterator[Problem]:
    warmup, steps = loaded.recipe.schedule.warmup_steps, loaded.recipe.train.steps
    if warmup >= steps:
        message = f"schedule.warmup_steps = {warmup} does not end before {loaded.cite('train', 'steps')}"
        yield Problem(
            loaded.place("schedule", "warmup_steps"), message, "warm up for fewer steps, or train longer"
        )


def _mup_has_one_base(loaded: LoadedRecipe) -> Iterator[Problem]:
    mup = loaded.recipe.mup
    given = [key for key in ("base_width", "delta_width", "base_shapes") if getattr(mup, key) is not None]
    if mup.type != "mup":
        for key in given:
            message = f"{loaded.cite('mup', key)} has no meaning with {loaded.cite('mup', 'type')}"
            yield Problem(loaded.place("mup", key), message, "remove it, or use type mup")
        return
    if mup.base_width is None and mup.base_shapes is None:
        message = f"{loaded.cite('mup', 'type')} needs the width at which the rates were tuned"
        yield Problem(loaded.place("mup"), message, "add mup.base_width, or mup.base_shapes with a file")
    if mup.base_shapes is not None:
        for key in given:
            if key != "base_shapes":
                message = f"{loaded.cite('mup', key)} and {loaded.cite('mup', 'base_shapes')} are two bases"
                yield Problem(loaded.place("mup", key), message, "keep one of the two")
    elif mup.delta_width is not None and mup.delta_width == mup.base_width:
        message = f"{loaded.cite('mup', 'delta_width')} equals {loaded.cite('mup', 'base_width')}"
        yield Problem(
            loaded.place("mup", "delta_width"), message, "use another width, or leave it out for the double"
        )


_ENCODERS = {
    "tokens": "encoder token",
    "words": "encoder char-cnn",
    "signals": "encoder linear, in a classifier",
}


def _model_takes_the_data(loaded: LoadedRecipe) -> Iterator[Problem]:
    """What the source gives is what the model reads and says, and there is room for all of it."""
    model, task = loaded.recipe.model, loaded.recipe.data.source.shape()
    source = loaded.cite("data", "source", "type")
    if model.inputs not in task.inputs:
        encoder = loaded.cite("model", "encoder", "type")
        message = f"{encoder} reads {model.inputs}, but {source} gives {' or '.join(task.inputs)}"
        remedy = "use " + " or ".join(_ENCODERS[kind] for kind in task.inputs)
        if model.inputs == "words" and isinstance(loaded.recipe.data.source, TextSection):
            remedy += ", or data.source.unit=words"
        yield Problem(loaded.place("model", "encoder", "type"), message, remedy)
    elif isinstance(model.encoder, CharCNNEncoder) and model.encoder.num_chars < (task.num_chars or 0):
        message = f"{loaded.cite('model', 'encoder', 'num_chars')} is too few for the {task.num_chars} of "
        place = loaded.place("model", "encoder", "num_chars")
        yield Problem(place, message + source, f"use {task.num_chars} or more")
    if task.targets != model.targets:
        message = f"{loaded.cite('model', 'type')} says {model.targets}, but {source} asks for {task.targets}"
        remedy = f"use type {'lm' if task.targets == 'tokens' else 'classifier'}, or another source"
        yield Problem(loaded.place("model", "type"), message, remedy)
    if model.vocab_size is not None and task.vocab_size is not None and model.vocab_size < task.vocab_size:
        given = f"model.vocab_size = {model.vocab_size}"
        message = f"{given} is too small for the {task.vocab_size} symbols of {source}"
        yield Problem(loaded.place("model", "vocab_size"), message, f"use {task.vocab_size} or more")
    if isinstance(model, ClassifierConfig):
        yield from _classifier_fits_the_data(loaded, model, task, source)


def _classifier_fits_the_data(
    loaded: LoadedRecipe, model: ClassifierConfig, task: TaskShape, source: str
) -> Iterator[Problem]:
    if task.num_classes is not None and model.num_classes < task.num_classes:
        message = f"model.num_classes = {model.num_classes} is too few for the {task.num_classes} of {source}"
        yield Problem(loaded.place("model", "num_classes"), message, f"use {task.num_classes} or more")
    if model.num_sequences != task.num_sequences:
        given = loaded.cite("model", "num_sequences")
        message = f"{given}, but a label of {source} is for {task.num_sequences}"
        yield Problem(loaded.place("model", "num_sequences"), message, f"use {task.num_sequences}")
    encoder = model.encoder
    if isinstance(encoder, LinearEncoder) and task.num_features not in (None, encoder.num_features):
        message = f"model.encoder.num_features = {encoder.num_features}, but {source} has {task.num_features}"
        place = loaded.place("model", "encoder", "num_features")
        yield Problem(place, message, f"use {task.num_features}")


def _one_rate_per_tensor(loaded: LoadedRecipe) -> Iterator[Problem]:
    for path, section in _sections(loaded.recipe):
        if isinstance(section, TensorRate) and section.lr is not None and section.lr_mult != 1.0:
            message = (
                f"{loaded.cite(*path, 'lr')} and {loaded.cite(*path, 'lr_mult')} are two rates for one tensor"
            )
            yield Problem(loaded.place(*path, "lr_mult"), message, "keep lr, or lr_mult")


def _sections(section: BaseModel, path: KeyPath = ()) -> Iterator[tuple[KeyPath, BaseModel]]:
    """Every section of a recipe, outermost first."""
    yield path, section
    for name in type(section).model_fields:
        value = getattr(section, name)
        items = enumerate(value) if isinstance(value, tuple) else ()
        inner = [((*path, name, index), item) for index, item in items] or [((*path, name), value)]
        for place, item in inner:
            if isinstance(item, BaseModel):
                yield from _sections(item, place)


RULES: tuple[Callable[[LoadedRecipe], Iterator[Problem]], ...] = (
    _batch_divides_over_ranks,
    _torch_has_no_zero_stage,
    _deepspeed_can_run,
    _zero_stages_cut_only_elementwise_optimizers,
    _zero_stages_keep_the_groups,
    _single_is_one_rank,
    _shard_groups_fill_the_world,
    _only_sharded_parameters_are_offloaded,
    _compiled_layers_hide_their_operations,
    _local_is_one_node,
    _one_process_per_gpu,
    _warmup_ends_before_the_run,
    _mup_has_one_base,
    _model_takes_the_data,
    _one_rate_per_tensor,
    *RATE_RULES,
    *STREAM_RULES,
)
