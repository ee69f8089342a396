"""A table of wrong recipes: the change, the place that must be named, and the help that must be given."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from launcher.errors import UserError
from launcher.recipe.compile import compile_recipe

SMALL = (Path(__file__).parent / "small.yaml").read_text()


@dataclass(frozen=True)
class Bad:
    old: str
    """Text of small.yaml that the change replaces; its first occurrence."""
    new: str
    place: str
    """line:column, or an override or flag."""
    words: str
    overrides: tuple[str, ...] = ()
    nodes: int | None = None
    nproc_per_node: int | None = None


def override(given: str, words: str) -> Bad:
    return Bad("", "", f"override {given!r}", words, (given,))


UNKNOWN_KEYS = [
    Bad("steps: 100", "stpes: 100", "26:3", "unknown key 'stpes' in train\n    did you mean 'steps'?"),
    Bad("model:", "modle:", "4:1", "unknown key 'modle'\n    did you mean 'model'?"),
    Bad("vocab_size", "vocabSize", "6:3", "did you mean 'vocab_size'?"),
    Bad(
        "d_state: 16",
        "d-state: 16",
        "10:9",
        "unknown key 'd-state' in model.s4d\n    did you mean 'd_state'?",
    ),
    Bad("num_layers: 2", "n_layers: 2", "8:3", "did you mean 'num_layers'?"),
    Bad("seq_len: 64", "seq_length: 64", "14:3", "did you mean 'seq_len'?"),
    Bad("warmup_steps: 10", "warmup: 10", "22:26", "did you mean 'warmup_steps'?"),
    Bad("lr_cap", "lr_capp", "21:10", "unknown key 'lr_capp' in optim.ssm.dt\n    did you mean 'lr_cap'?"),
    Bad("steps: 100", "steps: 100\n  batch_size: 4", "27:3", "'global_batch_size' or 'micro_batch_size'?"),
    Bad("steps: 100", "steps: 100\n  step: 4", "27:3", "'steps', which is given at small.yaml:26:3"),
    Bad("warmup_steps: 10", "lr: 1e-3", "22:26", "unknown key 'lr' in schedule\n    did you mean optim.lr?"),
    Bad("steps: 100", "steps: 100\n  grad_clip: 1", "27:3", "did you mean optim.grad_clip?"),
    Bad("seed: 1", "seed: 1\nstrategy: ddp", "4:1", "did you mean parallel.strategy?"),
    Bad("seed: 1", "seed: 1\nwarmup: 5", "4:1", "did you mean schedule.warmup_steps?"),
    Bad("every: 50", "wibble: 3, every: 50", "29:14", "the keys of checkpoint are every, keep"),
    Bad("seed: 1", "seed: 1\nwibble: 3", "4:1", "the keys of a recipe are version, name, seed, model"),
    Bad(
        "url: corpus",
        "url: corpus, validation: null",
        "13:38",
        "unknown key 'validation' in data.source\n    'validation' belongs to `type: ",
    ),
]

MISSING_KEYS = [
    Bad("  steps: 100\n", "", "25:1", "train.steps is missing\n    add `steps: ...` (a whole number >= 1)"),
    Bad(
        "  steps: 100\n  global_batch_size: 16\n",
        "",
        "25:1",
        "train.steps and train.global_batch_size are missing",
    ),
    Bad("seed: 1\n", "", "1:1", "seed is missing"),
    Bad("checkpoint: {every: 50, keep: 2}\n", "", "1:1", "a section with the keys every"),
    Bad(", url: corpus", "", "13:3", "data.source.url is missing\n    add `url: ...` (text)"),
    Bad("type: files, ", "", "13:3", "data.source.type is missing"),
    Bad("  type: adamw\n", "", "15:1", "optim.type is missing\n    add `type: ...` (adagrad, adam, "),
]

WRONG_VALUES = [
    Bad("steps: 100", "steps: 1OO", "26:10", "train.steps is '1OO', must be a whole number >= 1"),
    Bad("steps: 100", "steps: 1e30", "26:10", ">= 1\n    the largest possible is 9007199254740992"),
    Bad("d_model: 32", "d_model: 10000M", "7:12", "the largest possible is 16777216"),
    Bad("num_layers: 2", "num_layers: 10001", "8:15", "whole number >= 1 and <= 10000"),
    Bad("steps: 100", "steps: 0", "26:10", "train.steps is 0, must be a whole number >= 1"),
    Bad(
        "steps: 100",
        "steps: 100.0",
        "26:10",
        "train.steps is 100.0, must be a whole number >= 1\n    write 100",
    ),
    Bad("steps: 100", 'steps: "100"', "26:10", "write 100 without quotes"),
    Bad("steps: 100", "steps: 1,000", "26:10", "write 1000 without commas"),
    Bad("steps: 100", "steps: true", "26:10", "train.steps is true, must be a whole number"),
    Bad("steps: 100", "steps: 1.2345k", "26:10", "train.steps is '1.2345k', must be a whole number"),
    Bad("steps: 100", "steps: -2k", "26:10", "train.steps is -2k, must be a whole number >= 1"),
    Bad("steps: 100", "steps:", "26:3", "train.steps is empty"),
    Bad("steps: 100", "steps: ~", "26:10", "train.steps is ~, must be a whole number"),
    Bad("steps: 100", "steps: [100]", "26:10", "train.steps is [100], must be a whole number"),
    Bad("steps: 100", "steps: {a: 1}", "26:10", "train.steps is a section, must be a whole number"),
    Bad("seed: 1", "seed: -1", "3:7", "seed is -1, must be a whole number >= 0 and < 9223372036854775808"),
    Bad("engine: torch", "engine: deepspeed, zero_stage: 4", "24:43", "must be a whole number >= 0 and <= 3"),
    Bad("strategy: ddp", "strategy: ddp, precision: fp16", "24:53", "did you mean bf16?"),
    Bad(
        "{type: cosine, warmup_steps: 10}",
        "{type: sine_restarts, period: 1}",
        "22:41",
        "schedule.period is 1, must be a whole number >= 2",
    ),
    Bad("d_state: 16", "d_state: 15", "10:18", "a whole number >= 2 and <= 4096 and a multiple of 2"),
    Bad("lr: 4e-3", "lr: fast", "17:7", "optim.lr is 'fast', must be a number > 0"),
    Bad("lr: 4e-3", "lr: 2k", "17:7", "optim.lr is '2k', must be a number > 0\n    write 2000"),
    Bad("lr: 4e-3", "lr: .inf", "17:7", "optim.lr is .inf\n    write a finite number"),
    Bad("lr: 4e-3", "lr: .nan", "17:7", "write a finite number"),
    Bad("lr: 4e-3", "lr: 1e999", "17:7", "write a finite number"),
    Bad("grad_clip: 1.0", "grad_clip: 0", "19:14", "optim.grad_clip is 0, must be a number > 0 or null"),
    Bad("[0.9, 0.95]", "[0.9]", "18:10", "must be a list of 2 values, each a number >= 0 and < 1"),
    Bad("[0.9, 0.95]", "[0.9, 0.95, 0.99]", "18:10", "optim.betas is [0.9, 0.95, 0.99], must be a list of 2"),
    Bad("[0.9, 0.95]", "[0.9, 1.95]", "18:16", "optim.betas.1 is 1.95, must be a number >= 0 and < 1"),
    Bad(
        "[s4d]",
        "[s4d, ff]",
        "9:18",
        "model.pattern.1 is 'ff', must be s4d, s4, dss, attention, momentum, ssd or ffn\n"
        "    did you mean ffn?",
    ),
    Bad("[s4d]", "[]", "9:12", "model.pattern is [], must be a list of at least one of"),
    Bad("[s4d]", "s4d", "9:12", "write [s4d]"),
    Bad(
        "init: legs",
        "init: leg",
        "10:28",
        "model.s4d.init is 'leg', must be lin, inv, legs, real or diag\n    did you mean legs?",
    ),
    Bad("norm: layer", "norm: Layer", "11:9", "did you mean layer?"),
    Bad("type: cosine", "type: cos", "22:18", "sine_restarts or wsd\n    did you mean cosine?"),
    Bad("strategy: ddp", "strategy: fsdp", "24:37", "did you mean fsdp2?"),
    Bad("version: 1", "version: 2", "1:10", "version is 2, must be 1"),
    Bad(
        "name: small",
        "name: 12",
        "2:7",
        'name is 12, must be text matching ^[A-Za-z0-9][A-Za-z0-9._-]*$\n    write "12" in',
    ),
    Bad("name: small", "name: a b", "2:7", "name is 'a b', must be text matching"),
    Bad("log_every: 5", "mlflow: {enabled: yes}", "30:27", "must be true or false\n    write true"),
    Bad(
        "nproc_per_node: 2",
        "env: {A: 1}",
        "31:33",
        'cluster.env.A is 1, must be text\n    write "1" in quotes',
    ),
    Bad(
        "nproc_per_node: 2",
        "setup: a b",
        "31:31",
        "cluster.setup is 'a b', must be a list of text\n    write [a b]",
    ),
    Bad(
        "track: {log_every: 5}", "track:", "30:1", "track is empty, must be a section with the keys log_every"
    ),
    Bad("train:\n", "train: 3\nx:\n", "25:8", "train is 3, must be a section with the keys steps"),
    Bad(
        "type: files",
        "type: flies",
        "13:18",
        "\n    did you mean files?",
    ),
    Bad("type: files", "type: 5", "13:18", "data.source.type is 5, must be "),
    Bad("{type: files, url: corpus}", "corpus", "13:11", "must be a section whose `type` is "),
    Bad("type: adamw", "type: addamw", "16:9", "smorms3 or soap\n    did you mean adamw?"),
    Bad("dt_min: 0.001", "dt_min: 0.2", "10:42", "dt_min 0.2 is above dt_max 0.1"),
    Bad(
        "d_model: 32",
        "d_model: 32\n  d_model: 64",
        "8:3",
        "'d_model' is given twice, first at small.yaml:7:3",
    ),
]

OVERRIDES = [
    override("train.steps", "is not section.key=value"),
    override("=3", "is not section.key=value"),
    override("train..steps=3", "is not section.key=value"),
    override("train.steps=", "write train.steps=null for none"),
    override("train.steps=3 #x", "train.steps is '3 #x', must be a whole number >= 1"),
    override("model.pattern=[s4d] # x", "model.pattern is '[s4d] # x', must be a list"),
    override("train.steps=x", "train.steps is 'x', must be a whole number >= 1"),
    override("train.stpes=3", "unknown key 'stpes' in train\n    did you mean 'steps'"),
    override("trian.steps=3", "unknown key 'trian'\n    did you mean 'train'"),
    override("schedule.lr=3", "did you mean optim.lr?"),
    override("train.steps.x=3", "train.steps is 100 (small.yaml:26:10), which has no keys"),
    override("optim.betas.2=0.9", "optim.betas has no item 2: it is a list of 2 (small.yaml:18:10)"),
    override("optim.betas.x=0.9", "optim.betas has no item x"),
    override("cluster.setup.0=a", "must be a list of text"),
    override("train.steps=[", "a value is missing here"),
    override("train.steps=&a 3", "anchor &a is not allowed"),
    override("mup=sp", "mup is 'sp', must be a section with the keys type, base_width"),
    override("optim.lr=.inf", "write a finite number"),
    Bad("", "", "--nodes", "cluster.nodes is 0, must be a whole number >= 1", nodes=0),
    Bad("", "", "--nproc-per-node", "cluster.nproc_per_node is -1, must be", nproc_per_node=-1),
    Bad(
        "cluster: {type: local, nproc_per_node: 2}",
        "cluster: 3",
        "31:10",
        "cluster is 3, must be a section",
        nodes=2,
    ),
]

RANKS = [
    Bad("", "", "27:22", "cluster.nproc_per_node = 3 (--nproc-per-node)", nproc_per_node=3),
    Bad("", "", "--nodes", "cluster.type = local (small.yaml:31:17) is this machine only", nodes=2),
]


def problems_of(bad: Bad) -> list[str]:
    """Each problem as text, with the place first."""
    assert bad.old in SMALL
    with pytest.raises(UserError) as caught:
        compile_recipe(
            SMALL.replace(bad.old, bad.new, 1),
            "small.yaml",
            bad.overrides,
            nodes=bad.nodes,
            nproc_per_node=bad.nproc_per_node,
        )
    return [str(problem) for problem in caught.value.problems]


def name_of(bad: Bad) -> str:
    return bad.new.strip() or bad.place


@pytest.mark.parametrize(
    "bad", [*UNKNOWN_KEYS, *MISSING_KEYS, *WRONG_VALUES, *OVERRIDES, *RANKS], ids=name_of
)
def test_wrong_recipe_names_place_value_and_remedy(bad: Bad) -> None:
    place = f"small.yaml:{bad.place}" if bad.place[0].isdigit() else bad.place
    problems = problems_of(bad)
    assert any(found.startswith(f"{place}: ") and bad.words in found for found in problems), "\n".join(
        problems
    )


ONE_PROBLEM = [bad for bad in [*UNKNOWN_KEYS, *MISSING_KEYS, *WRONG_VALUES] if "\nx:" not in bad.new]


@pytest.mark.parametrize("bad", ONE_PROBLEM, ids=name_of)
def test_one_mistake_is_told_once(bad: Bad) -> None:
    """No follow-up: a misspelt key is not missing as well, a wrong tag does not hide or refuse its keys."""
    assert len(problems_of(bad)) == 1


def test_all_problems_come_at_once_in_the_order_of_the_file() -> None:
    text = (
        SMALL.replace("steps: 100", "stpes: x")
        .replace("type: files", "type: flies")
        .replace("seed: 1", "seed: a")
    )
    with pytest.raises(UserError) as caught:
        compile_recipe(text.replace("url: corpus", "url: 3"), "r", ["optim.lr=0"])
    places = [problem.place for problem in caught.value.problems]
    assert places == ["r:3:7", "r:13:18", "r:13:30", "r:26:3", "r:26:10", "override 'optim.lr=0'"]


def test_a_mistake_inside_a_mistake_inside_a_mistake_is_found() -> None:
    text = SMALL.replace("model:\n", "modle:\n", 1).replace("d_model: 32", "d_modle: x")
    with pytest.raises(UserError) as caught:
        compile_recipe(text, "r")
    assert [problem.place for problem in caught.value.problems] == ["r:4:1", "r:7:3", "r:7:12"]


def test_problems_fill_one_screen_at_most() -> None:
    text = SMALL + "".join(f"wibble{index}: 1\n" for index in range(30))
    with pytest.raises(UserError) as caught:
        compile_recipe(text, "r")
    assert len(caught.value.problems) == 21
    assert str(caught.value.problems[-1]) == "r: and 10 more problems"


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words", "3"])
def test_text_that_is_not_a_mapping_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^r:1:1: a recipe is `key: value` lines"):
        compile_recipe(text, "r")
