"""Every rule of a recipe has a recipe that breaks it and only it, and a line in docs/rules.md."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from launcher.errors import UserError
from launcher.recipe.compile import compile_recipe
from launcher.recipe.rules import parallel_rules, track_rules
from launcher.recipe.rules.batch_rules import BATCH_RULES
from launcher.recipe.rules.cluster_rules import CLUSTER_RULES
from launcher.recipe.rules.data_rules import DATA_RULES
from launcher.recipe.rules.mup_rules import MUP_RULES
from launcher.recipe.rules.parallel_rules import PARALLEL_RULES
from launcher.recipe.rules.rule_table import RULES
from launcher.recipe.rules.schedule_rules import SCHEDULE_RULES
from launcher.recipe.rules.track_rules import TRACK_RULES
from tests.launcher.recipe.small import SMALL, problems

DOCS = Path(__file__).parents[3] / "docs" / "rules.md"

CLASSIFIER = (
    "model={type: classifier, num_classes: 10, vocab_size: 16, encoder: {type: token}, d_model: 32,"
    " num_layers: 2}",
    "data={source: {type: listops, min_length: 4}, seq_len: 64}",
)
SIGNALS = "model.encoder={type: linear, num_features: 1}"
NO_TOKENS = "model.vocab_size=null"
DIGITS = "data={source: {type: digits}, seq_len: 64}"
OWN = "data={source: {type: labelled, train: x, num_classes: 12, num_features: 3}, seq_len: 64}"
WORDS = "data.source={type: python-stdlib, unit: words}"
PAIRS = (
    "data={source: {type: labelled, train: x, num_classes: 2, vocab_size: 16, num_sequences: 2}, seq_len: 64}"
)
CHARACTERS = PAIRS.replace("vocab_size", "num_chars")
ATTENTION = ("model.pattern=[attention]", "model.attention={d_head: 8}")
HEADS = "model.attention={num_heads: 2, d_head: null, scale: sqrt}"
MUON = "optim={type: muon, lr: 1e-2, others: {lr: 1e-3}}"
PLATEAU = "schedule={type: plateau}"
BPTT = "train.truncated_bptt=true"


def deepspeed(more: str) -> str:
    return f"parallel={{engine: deepspeed{more}}}"


@dataclass(frozen=True)
class Broken:
    """Overrides of small.yaml that break one rule. The last one is blamed, unless `place` names a place."""

    rule: str
    overrides: tuple[str, ...]
    words: tuple[str, ...]
    place: str = ""


def broken(rule: str, overrides: str | tuple[str, ...], *words: str, place: str = "") -> Broken:
    return Broken(rule, (overrides,) if isinstance(overrides, str) else overrides, words, place)


BATCH = [
    broken(
        "batch-over-ranks",
        "train.global_batch_size=17",
        "train.global_batch_size = 17 does not divide over 2 ranks: cluster.nodes = 1 (default) x "
        "cluster.nproc_per_node = 2 (small.yaml:31:40) [batch-over-ranks]\n    use 16 or 18",
    ),
    broken("batch-over-ranks", "train.global_batch_size=1", "use 2"),
    broken(
        "batch-over-ranks",
        "cluster.nproc_per_node=5",
        "cluster.nproc_per_node = 5 (override 'cluster.nproc_per_node=5')",
        place="27:22",
    ),
    broken(
        "whole-micro-batches",
        "train.micro_batch_size=5",
        "does not divide the 8 sequences of each rank: train.global_batch_size = 16 (small.yaml:27:22) over",
        "use 4",
    ),
    broken("whole-micro-batches", "train.micro_batch_size=3", "use 2"),
    broken(
        "statistics-have-samples",
        (
            "cluster.nproc_per_node=1",
            "train.micro_batch_size=1",
            "model.batch_entropy={}",
        ),
        "compares samples, but there is 1: train.micro_batch_size = 1",
        "use a larger micro batch",
    ),
]
PARALLEL = [
    broken(
        "zero-stage-is-deepspeed",
        "parallel.zero_stage=0",
        "is only for engine deepspeed, but parallel.engine = torch (small.yaml:24:20)",
    ),
    broken("deepspeed-installed", deepspeed(", zero_stage: 1"), "is not installed here", "pip install"),
    broken("deepspeed-needs-stage", deepspeed(""), "add parallel.zero_stage: 0 nothing, 1 moments"),
    broken(
        "offload-is-torch",
        deepspeed(", zero_stage: 1, cpu_offload: true"),
        "parallel.cpu_offload = true is only for engine torch, but parallel.engine = deepspeed",
    ),
    broken(
        "offload-is-sharded",
        "parallel.cpu_offload=true",
        "is only for strategy fsdp2 or hsdp, but parallel.strategy = ddp (small.yaml:24:37)",
    ),
    broken(
        "no-compiled-zero-3",
        deepspeed(", zero_stage: 3, compile: true"),
        "does not work with parallel.zero_stage = 3",
    ),
    broken(
        "zero-keeps-optimizer",
        (deepspeed(", zero_stage: 2"), MUON),
        "works on whole matrices, which ZeRO splits, but parallel.zero_stage = 2 (override",
    ),
    broken(
        "zero-keeps-optimizer",
        (deepspeed(", zero_stage: 1"), "optim={type: adagrad, lr: 1e-2}"),
        "would lose its parameter groups under ZeRO, but parallel.zero_stage = 1",
    ),
    broken("single-is-one-rank", "parallel.strategy=single", "is only for one rank, but there are 2 ranks"),
    broken(
        "shard-size-is-hsdp",
        "parallel.shard_size=2",
        "is only for strategy hsdp, but parallel.strategy = ddp (small.yaml:24:37)",
    ),
    broken(
        "shards-fill-world", "parallel={strategy: hsdp, shard_size: 3}", "does not divide 2 ranks", "use 2"
    ),
    broken(
        "no-selective-compiled",
        ("parallel.compile=true", "parallel.activation_checkpointing=selective"),
        "does not work with parallel.compile = true (override",
    ),
    broken(
        "sharpness-is-plain",
        ("optim.sharpness={rho: 0.1}",),
        "optim.sharpness does not work with mup.type = mup",
        "use mup.type=sp",
    ),
    broken(
        "sharpness-is-plain",
        ("mup={type: sp}", "train.truncated_bptt=true", "optim.sharpness={rho: 0.1}"),
        "optim.sharpness does not work with train.truncated_bptt = true",
    ),
]
SCHEDULE = [
    broken(
        "warmup-in-run",
        "schedule.warmup_steps=100",
        "schedule.warmup_steps = 100 must be below train.steps = 100 (small.yaml:26:10)",
    ),
    broken(
        "wsd-decay-in-run",
        "schedule={type: wsd, warmup_steps: 60, decay_steps: 50}",
        "schedule.decay_steps = 50 and schedule.warmup_steps = 60 are more than train.steps",
        "use 40 or less",
    ),
    broken(
        "sine-peak-in-run",
        "schedule={type: sine_restarts, period: 300}",
        "schedule.period = 300 does not reach its middle, the peak, before train.steps = 100",
    ),
    broken(
        "plateau-needs-validation",
        PLATEAU,
        "schedule.type = plateau (override",
        "but train.validate_every = null (default)",
        "add train.validate_every",
        place="25:1",
    ),
    broken(
        "plateau-needs-validation",
        (PLATEAU, "train.validate_every=10", "train.validation_sequences=0"),
        "but train.validation_sequences = 0",
    ),
    broken(
        "plateau-needs-validation",
        (PLATEAU, "train.validate_every=10", "data.validation_fraction=0"),
        "keep some files for validation",
    ),
    broken(
        "one-rate-per-tensor",
        "optim.ssm.dt={lr: 1e-3, lr_mult: 2}",
        "optim.ssm.dt.lr = 0.001 and optim.ssm.dt.lr_mult = 2.0 are two rates for one tensor",
    ),
]
MUP = [
    broken(
        "base-is-mup",
        "mup.type=sp",
        "mup.base_width = 16 is only for type mup, but mup.type = sp (override",
        place="23:30",
    ),
    broken("base-is-mup", "mup={type: sp, delta_width: 8}", "mup.delta_width = 8 is only for type mup"),
    broken("base-is-mup", "mup={type: sp, base_shapes: b.bsh}", "mup.base_shapes = b.bsh is only for type"),
    broken("mup-needs-base", "mup={type: mup}", "needs the width at which the rates were tuned"),
    broken("one-base", "mup.base_shapes=b.bsh", "mup.base_width = 16 and", "are two bases", place="23:30"),
    broken(
        "tuned-values-are-kept",
        "check.tuned=true",
        "needs provenance, which says where the values were tuned",
        "`launch sweep RECIPE ... --best`",
    ),
    broken(
        "delta-differs", "mup.delta_width=16", "mup.delta_width = 16 equals mup.base_width = 16 (small.yaml"
    ),
    broken(
        "mup-attention-scale",
        ("model.pattern=[attention]", HEADS),
        "grows with model.attention.num_heads = 2 under mup.type = mup (small.yaml:23:13)",
        "use scale mup, or a fixed d_head",
    ),
    broken(
        "base-fits-model",
        ("model.pattern=[ssd]", "model.ssd.d_head=16", "mup.base_width=8"),
        "mup.base_width = 8 is not a width of this model: ssd.d_head 16 x heads_per_group 4 does not divide",
        "use 32",
    ),
    broken(
        "base-fits-model",
        ("model.pattern=[attention]", "model.attention={d_head: 16}", "mup.delta_width=20"),
        "mup.delta_width = 20 is not a width of this model: attention.d_head 16 does not divide d_model 20",
        "use 32",
    ),
    broken(
        "umup-layers",
        ("mup={type: umup}", "model.pattern=[s4d]"),
        "has no constants for layers of s4d",
        "use attention and ffn, or mup.type=mup",
    ),
    broken(
        "umup-model",
        ("mup={type: umup}", *ATTENTION, "model.dropout=0.1"),
        "mup.type = umup (override 'mup={type: umup}') has no constants for model.dropout = 0.1",
        "use 0.0, or mup.type=mup",
    ),
    broken(
        "umup-model",
        ("mup={type: umup}", *ATTENTION, WORDS, "model.encoder={type: char-cnn}"),
        "model.encoder.type = char-cnn",
        "use token, or mup.type=mup",
    ),
    broken("umup-optimizers", ("mup={type: umup}", *ATTENTION, MUON), "has no rates for optim.type = muon"),
    broken(
        "multiplier-layers",
        ("mup.multipliers.ffn=2",),
        "mup.multipliers.ffn = 2.0 is for layers of ffn, but model.pattern",
        "remove it",
    ),
    broken(
        "umup-multipliers",
        (*ATTENTION, "mup={type: umup, multipliers: {embedding: 2}}"),
        "has no meaning under mup.type = umup",
        "use mup.multipliers.residual",
    ),
    broken("umup-multipliers", (*ATTENTION, "mup.multipliers.attention_ratio=2"), "or mup.type umup"),
]
DATA = [
    broken(
        "encoder-reads-source",
        (*CLASSIFIER, SIGNALS, NO_TOKENS),
        "model.encoder.type = linear reads signals, but data.source.type = listops (override",
        "gives tokens",
        "use encoder token",
        place=f"override {SIGNALS!r}",
    ),
    broken(
        "encoder-reads-source",
        (WORDS.replace("words", "bytes"), "model.encoder={type: char-cnn}"),
        "reads words",
        "use encoder token, or data.source.unit=words",
    ),
    broken(
        "encoder-reads-source",
        ("data.source={type: tokens, train: x}", "model.encoder={type: char-cnn}"),
        "gives tokens [encoder-reads-source]\n    use encoder token",
    ),
    broken(
        "encoder-reads-source",
        (*CLASSIFIER, NO_TOKENS, DIGITS, "model.encoder={type: char-cnn}"),
        "use encoder linear, in a classifier",
    ),
    broken(
        "characters-have-room",
        (WORDS, "model.encoder={type: char-cnn, num_chars: 256}"),
        "model.encoder.num_chars = 256 is too small for the 257 characters of data.source.type = python-std",
        "use 257 or more",
    ),
    broken(
        "targets-are-asked-for",
        "data={source: {type: listops, min_length: 4}, seq_len: 64}",
        "model.type = lm predicts tokens, but data.source.type = listops (override",
        "has targets of type label",
        "use type classifier",
        place="5:9",
    ),
    broken(
        "targets-are-asked-for",
        (*CLASSIFIER, "data.source={type: copying, num_symbols: 3}"),
        "use type lm",
        place=f"override {CLASSIFIER[0]!r}",
    ),
    broken(
        "vocabulary-has-room",
        "model.vocab_size=255",
        "is too small for the 256 symbols of data.source.type = files (small.yaml:13:18)",
        "use 256 or more",
    ),
    broken(
        "ids-reach-vocabulary",
        (
            "data={source: {type: tokens, train: A.bin, dtype: uint16}, seq_len: 32}",
            "model.vocab_size=128256",
        ),
        "data.source.dtype = uint16 holds ids below 65536, but model.vocab_size = 128256",
        place="override 'data={source: {type: tokens, train: A.bin, dtype: uint16}, seq_len: 32}'",
    ),
    broken(
        "documents-have-borders",
        "data.documents=separate",
        "data.source.type = files (small.yaml:13:18) does not say where documents end, but data.documents",
        "use data of `launch data build`",
    ),
    broken(
        "stage-is-for-data-sets",
        "data.stage=/disk",
        "has nothing to copy of data.source.type = files",
    ),
    broken(
        "documents-are-kept-apart",
        (
            "data={source: {type: dataset, path: x}, seq_len: 32, documents: separate}",
            "model.pattern=[s4d, momentum]",
            "model.momentum.d_head=8",
        ),
        "model.pattern = [s4d, momentum] has momentum, which mixes documents, but data.documents = separate",
        "use attention, dss, ffn, s4, s4d, ssd, or set data.documents=joined",
        place="override 'model.pattern=[s4d, momentum]'",
    ),
    broken(
        "validation-is-apart",
        "data={source: {type: tokens, train: ./A.bin, validation: A.bin}, seq_len: 32}",
        "data.source.validation = A.bin is what is trained on: data.source.train = ./A.bin",
        place="override 'data={source: {type: tokens, train: ./A.bin, validation: A.bin}, seq_len: 32}'",
    ),
    broken(
        "classes-have-room",
        (*CLASSIFIER, "model.num_classes=9"),
        "model.num_classes = 9 is too small for the 10 classes of data.source.type = listops",
    ),
    broken(
        "sequences-per-label",
        (*CLASSIFIER, PAIRS),
        "model.num_sequences = 1 (default), but a label of data.source.type = labelled",
        "is for 2",
        place=f"override {CLASSIFIER[0]!r}",
    ),
    broken(
        "features-per-step",
        (*CLASSIFIER, NO_TOKENS, OWN, "model.num_classes=12", SIGNALS),
        "model.encoder.num_features = 1, but data.source.type = labelled",
        "use 3",
    ),
    broken(
        "bptt-needs-stream",
        ("data={source: {type: copying}, seq_len: 32}", BPTT),
        "train.truncated_bptt = true carries states",
        "data.source.type = copying (override",
    ),
    broken(
        "bptt-without-attention",
        (BPTT, "model.attention={d_head: 4}", "model.pattern=[s4d, attention]"),
        "model.pattern = [s4d, attention] has attention, whose state is every past position, but "
        "train.truncated_bptt = true (override",
    ),
    broken(
        "bptt-stays-finite",
        (BPTT, "model.pattern=[dss]", "model.dss={version: softmax, max_length: 32}"),
        "model.dss.version = softmax lets modes grow",
        "use version exp",
    ),
]
BY_HAND = "cluster.rendezvous=n1:29400"
CLUSTER = [
    broken("local-is-one-node", "cluster.nodes=2", "cluster.type = local (small.yaml:31:17) is this machine"),
    broken(
        "min-nodes-at-most-nodes",
        (BY_HAND, "cluster.nodes=2", "cluster.min_nodes=3"),
        "cluster.min_nodes = 3 must be at most cluster.nodes = 2 (override",
        "write --nodes MIN:MAX",
    ),
    broken(
        "by-hand-is-not-slurm",
        ("cluster.type=slurm", "cluster.nodes=2", "cluster.min_nodes=1"),
        "cluster.min_nodes = 1 is only for type local or auto, but cluster.type = slurm",
        "a job that loses a node is queued again",
    ),
    broken(
        "by-hand-is-not-slurm",
        ("cluster.type=slurm", "cluster.nodes=2", BY_HAND),
        "cluster.rendezvous = n1:29400 is only for type local or auto",
    ),
    broken(
        "one-process-per-gpu",
        "cluster.gpus_per_node=1",
        "cluster.nproc_per_node = 2 must be at most cluster.gpus_per_node = 1 (override",
        place="31:40",
    ),
]
TRACK = [
    broken("viewers-installed", "track.tensorboard=tb", "is not installed here", "pip install tensorboard"),
    broken("viewers-installed", "track.wandb=mine", "is not installed here", "pip install wandb"),
    broken(
        "report-needs-mlflow",
        ("track.mlflow.enabled=false", "track.mlflow.report=true"),
        "track.mlflow.report = true",
        "or call launch report after the run",
    ),
    broken("tensorboard-is-local", "track.tensorboard=s3://b/tb", "is not a local folder", "give a path"),
    broken(
        "diagnosis-with-validation",
        ("train.validate_every=null", "track.diagnosis={}"),
        "track.diagnosis",
        "give train.validate_every",
    ),
    broken(
        "sharpness-is-measurable",
        ("train.validate_every=5", "optim={type: lion, lr: 1e-3}", "track.diagnosis={sharpness: true}"),
        "becomes unstable is not known",
        "use adamw, adam, or sgd without nesterov",
    ),
    broken(
        "sharpness-is-measurable",
        (
            "train.validate_every=5",
            "parallel={engine: deepspeed, zero_stage: 2}",
            "track.diagnosis={sharpness: true}",
        ),
        "has gradients only inside a step",
        "or use parallel.engine=torch",
    ),
    broken(
        "step-after-trace",
        ("track.trace={from_step: 100000, steps: 3}",),
        "ends with step 100002",
        "or train one more",
    ),
]
BROKEN = [*BATCH, *PARALLEL, *SCHEDULE, *MUP, *DATA, *CLUSTER, *TRACK]


@pytest.mark.parametrize("bad", BROKEN, ids=lambda bad: f"{bad.rule}: {bad.overrides[-1]}")
def test_a_rule_is_broken_alone_and_names_place_values_and_remedy(
    bad: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever this machine has: only this one rule asks for the package.
    spec = None if bad.rule in ("deepspeed-installed", "viewers-installed") else object()
    for module in (parallel_rules, track_rules):
        monkeypatch.setattr(module, "find_spec", lambda name: spec)
    with pytest.raises(UserError) as caught:
        compile_recipe(SMALL, "small.yaml", bad.overrides)
    (problem,) = caught.value.problems
    place = bad.place or f"override {bad.overrides[-1]!r}"
    assert (problem.rule, problem.place) == (
        bad.rule,
        f"small.yaml:{place}" if place[0].isdigit() else place,
    )
    for words in bad.words:
        assert words in str(problem)


def test_every_rule_is_broken_by_a_recipe() -> None:
    ids = [rule.id for rule in RULES]
    assert len(set(ids)) == len(ids)
    assert {bad.rule for bad in BROKEN} == set(ids)


def test_the_docs_list_every_rule_with_what_it_says() -> None:
    """docs/rules.md is written from the table: on a difference, take what this test expects."""
    owners = {
        "Batch": BATCH_RULES,
        "Parallel": PARALLEL_RULES,
        "Schedule": SCHEDULE_RULES,
        "muP": MUP_RULES,
        "Data": DATA_RULES,
        "Cluster": CLUSTER_RULES,
        "Tracking": TRACK_RULES,
    }
    assert sum(owners.values(), ()) == RULES
    tables = [
        f"## {owner}\n\n| rule | what a recipe keeps |\n|---|---|\n"
        + "".join(f"| `{rule.id}` | {rule.check.__doc__} |\n" for rule in rules)
        for owner, rules in owners.items()
    ]
    assert DOCS.read_text().partition("## ")[2] == "\n".join(tables).removeprefix("## ")


@pytest.mark.parametrize(
    "overrides",
    [
        ("schedule={type: wsd, warmup_steps: 10, decay_steps: 90}",),
        ("schedule={type: sine_restarts, period: 2}",),
        (PLATEAU, "train.validate_every=10"),
        ("model.pattern=[attention]", HEADS.replace("sqrt", "mup")),
        ("model.pattern=[attention]", "model.attention={d_head: 8, scale: sqrt}"),
        ("model.pattern=[attention]", HEADS, "mup={type: sp}"),
        (*CLASSIFIER, "model.num_classes=12", "model.vocab_size=20"),
        (*CLASSIFIER, SIGNALS, NO_TOKENS, DIGITS),
        (*CLASSIFIER, SIGNALS.replace("1", "3"), NO_TOKENS, OWN, "model.num_classes=12"),
        (*CLASSIFIER, PAIRS, "model.num_sequences=2"),
        (
            *CLASSIFIER,
            "model.encoder={type: char-cnn, num_chars: 30}",
            NO_TOKENS,
            CHARACTERS,
            "model.num_sequences=2",
        ),
        (WORDS,),
        (WORDS, "model.encoder={type: char-cnn}"),
        *((BPTT, f"model.pattern=[{kind}]") for kind in ("s4", "s4d", "dss", "ffn")),
        (BPTT, "model.pattern=[momentum]", "model.momentum={d_head: 4}"),
        ("cluster.gpus_per_node=2",),
        ("train.micro_batch_size=99",),
    ],
)
def test_what_fits_is_let_through(overrides: tuple[str, ...]) -> None:
    assert problems(*overrides) == []
