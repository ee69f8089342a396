"""Recipes of a check's proxy models: other widths, short sequences, few layers, one batch. Torch-free."""

from collections.abc import Sequence

from launcher.errors import Problem, UserError
from launcher.optim.config import MatrixSection
from launcher.optim.optimizer_table import optimizer_kind
from launcher.parallel.config import ParallelConfig
from launcher.recipe.schema import Recipe
from models.config import why_not_width

NUM_WIDTHS = 4
SEQ_LEN, NUM_SEQUENCES, NUM_LAYERS = 32, 4, 2

_FIRST_WIDTHS = (128, 96, 160, 192, 112, 144, 256)
"""Below 128, finite width looks like an exponent: -0.13 for attention keys at 64 to 512, here -0.09."""
_FIRST_WIDTHS_SSD = (256, 192, 320, 384)
"""The same for dt of `ssd`, one number a head: -0.13 at 128 to 1024, -0.07 to -0.09 here."""


def choose_widths(recipe: Recipe, given: Sequence[int] | None = None) -> tuple[int, ...]:
    """At least four widths that are possible for the model: `given`, or w, 2w, 4w, 8w.

    w is about 128, or 256 for layers with one number per head.
    """
    if given is not None:
        widths = tuple(sorted(set(given)))
        if len(widths) < NUM_WIDTHS:
            message = (
                f"{', '.join(map(str, widths))} are {len(widths)} widths; at least {NUM_WIDTHS} are needed"
            )
            raise UserError(Problem("--widths", message, "for example --widths 128,256,512,1024"))
        for width in widths:
            if (reason := why_not_width(recipe.model, width)) is not None:
                raise UserError(Problem("--widths", f"the model cannot be {width} wide: {reason}"))
        return widths
    first_widths = _FIRST_WIDTHS_SSD if "ssd" in recipe.model.pattern else _FIRST_WIDTHS
    for first in first_widths:
        widths = tuple(first << k for k in range(NUM_WIDTHS))
        if all(why_not_width(recipe.model, width) is None for width in widths):
            return widths
    reason = why_not_width(recipe.model, first_widths[0])
    raise UserError(Problem.at("model", f"no small widths fit it: {reason}", "give some with --widths"))


def choose_lr_amplification(recipe: Recipe) -> float:
    """Factor on the recipe's rates: 10, less if that would saturate, and at least 1."""
    # A change at a wrong rate must be larger than the noise after four steps, hence the factor. But where it
    # is so large that outputs saturate, they are equal at every width, and a wrong rate passes. With a cap of
    # 2^-6 and lr 4e-3 it is 3.9.
    optim = recipe.optim
    lr = optim.others.lr if isinstance(optim, MatrixSection) else optim.lr
    cap = optimizer_kind(optim).check_lr_cap
    return 10.0 if cap is None else min(10.0, max(1.0, cap / lr))


def shrink_recipe(recipe: Recipe, *, d_model: int, seed: int, ranks: int = 1) -> Recipe:
    """The proxy model's recipe at one width, for one process or sharded over `ranks` as the recipe is."""
    model = recipe.model
    changes: dict[str, object] = {"d_model": d_model, "dropout": 0.0}
    changes |= {"embedding_dropout": 0.0, "readout_dropout": 0.0, "num_layers": shrunk_layers(recipe)}
    data = recipe.data.model_copy(update={"prefetch": 0, "seq_len": shrunk_length(recipe)})
    train = recipe.train.model_copy(
        update={
            "global_batch_size": NUM_SEQUENCES,
            "micro_batch_size": NUM_SEQUENCES // ranks,
            "truncated_bptt": False,  # every step has the same batch
        }
    )
    parallel = ParallelConfig(strategy="single")
    if ranks > 1:
        parallel = recipe.parallel.model_copy(
            update={
                "precision": "fp32",
                "compile": False,
                "activation_checkpointing": "off",
                "cpu_offload": False,
                "shard_size": 2 if recipe.parallel.strategy == "hsdp" else None,
            }
        )
    return recipe.model_copy(
        update={
            "seed": seed,
            "model": model.model_copy(update=changes),
            "data": data,
            "train": train,
            "parallel": parallel,
            "cluster": recipe.cluster.model_copy(
                update={"type": "local", "nodes": 1, "nproc_per_node": ranks}
            ),
        }
    )


def without_decay(recipe: Recipe) -> Recipe:
    """The same without weight decay: in a few steps it moves weights by their own size, as width^-1/2."""
    optim = recipe.optim
    changes: dict[str, object] = {}
    if "weight_decay" in type(optim).model_fields:
        changes["weight_decay"] = 0.0
    if isinstance(optim, MatrixSection):
        changes["others"] = optim.others.model_copy(update={"weight_decay": 0.0})
    return recipe.model_copy(update={"optim": optim.model_copy(update=changes)})


def shrunk_layers(recipe: Recipe) -> int:
    """At least two layers and the whole pattern; all layers if a base-shapes file names them."""
    model, period = recipe.model, len(recipe.model.pattern)
    if recipe.mup.base_shapes is not None:
        return model.num_layers
    return min(model.num_layers, period * -(-NUM_LAYERS // period))


def shrunk_length(recipe: Recipe) -> int:
    """Sequences of text and tokens can be shortened; those of a generated task cannot."""
    return min(recipe.data.seq_len, SEQ_LEN) if recipe.data.source.any_length else recipe.data.seq_len


def sharded_ranks(recipe: Recipe) -> int:
    """Processes of the sharded check: 4 for the two axes of hsdp, 2 for other sharding, 1 for none."""
    if recipe.parallel.engine == "torch" and recipe.parallel.strategy == "single":
        return 1
    return 4 if recipe.parallel.engine == "torch" and recipe.parallel.strategy == "hsdp" else 2


def describe_shrinking(recipe: Recipe, widths: Sequence[int]) -> str:
    """What is smaller than in the recipe, in one line."""
    return (
        f"widths {', '.join(map(str, widths))} instead of {recipe.model.d_model}; "
        f"{shrunk_layers(recipe)} of {recipe.model.num_layers} layers; "
        f"{NUM_SEQUENCES} sequences of {shrunk_length(recipe)}; float32; no dropout, no decay"
    )
