"""`launch data`, and the whole way: text, tokenizer, data set, training, a kill, a resume, text again."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from launcher.track.journal import step_records
from tests.launch import launch, launch_and_kill

ROOT = Path(__file__).parents[3]
RECIPE = str(ROOT / "recipes" / "s4d-lm-bpe.yaml")
SHORT = (
    "train.steps=24",
    "schedule.warmup_steps=2",
    "checkpoint.every=6",
    "train.validate_every=8",
    "train.validation_sequences=16",
    "track.log_every=1",
    "track.mlflow.enabled=false",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the two commands of the recipe's header have been called."""
    folder = tmp_path_factory.mktemp("way")
    commands = re.findall(r"^#   launch (.*)$", Path(RECIPE).read_text(), re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        done = launch(*command.split(), folder=folder)
        assert done.returncode == 0, done.stderr
    assert "next: data.source={type: dataset, path: data/stdlib} in a recipe" in done.stdout
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """A run that nothing has interrupted."""
    done = launch(RECIPE, *SHORT, "--run-dir", "whole", folder=folder)
    assert done.returncode == 0, done.stderr
    return folder / "whole"


def losses(run: Path) -> dict[int, float]:
    return {step: record["loss"] for step, record in step_records(run / "journal.jsonl").items()}


def test_the_whole_way_and_after_a_kill_the_same_run(folder: Path, whole: Path) -> None:
    expected = losses(whole)
    assert sorted(expected) == list(range(1, 25))
    assert expected[24] < expected[1] - 0.5
    first = folder / "killed" / "checkpoints" / "step-0000000006" / "manifest.json"
    launch_and_kill(RECIPE, *SHORT, "--run-dir", "killed", folder=folder, when=first)
    shutil.copytree(folder / "killed", folder / "wider")
    assert launch("resume", "killed", folder=folder).returncode == 0
    # Bit-equal at the same world size; the same samples, and so the same losses to rounding, at another.
    assert losses(folder / "killed") == expected
    two = launch("resume", "wider", "--nproc-per-node", "2", "parallel.strategy=fsdp2",
                 "train.micro_batch_size=8", folder=folder)  # fmt: skip
    assert two.returncode == 0, two.stderr
    wider = losses(folder / "wider")
    assert wider == pytest.approx(expected, rel=1e-4)
    assert any(wider[step] != expected[step] for step in wider), "two ranks must have taken part"


def test_a_validation_counts_bits_by_byte_of_text(whole: Path) -> None:
    said = (whole / "logs" / "console.log").read_text()
    assert re.search(r"validation +\d\.\d+ +accuracy 0\.\d+ +bits/byte \d\.\d{4}", said), said
    lines = map(json.loads, (whole / "journal.jsonl").read_text().splitlines())
    found = next(line for line in lines if line["event"] == "validation")
    # 3.6 bytes a token: a loss of 8 nats is 8 / 3.6 / ln 2 = 3.2 bits a byte.
    assert 2.5 < found["loss"] / found["bits_per_byte"] < 3.5 / 1.2


def test_a_run_speaks_text_without_its_data(folder: Path, whole: Path) -> None:
    shutil.copytree(whole, folder / "speaks")
    shutil.move(folder / "data" / "stdlib", folder / "elsewhere")
    try:
        said = launch("generate", "speaks", "--prompt", "def main(", "--tokens", "12", folder=folder)
        assert said.returncode == 0, said.stderr
        assert said.stdout.startswith("def main(")
        assert len(said.stdout) > len("def main(") + 12
        os.remove(folder / "speaks" / "tokenizer.json")
        refused = launch("generate", "speaks", "--prompt", "x", folder=folder)
        assert refused.returncode == 2
        assert "the model's tokens have no text" in refused.stderr
    finally:
        shutil.move(folder / "elsewhere", folder / "data" / "stdlib")


def test_another_data_set_or_tokenizer_is_refused_before_anything_starts(folder: Path, whole: Path) -> None:
    shutil.copytree(whole, folder / "same")
    shutil.copytree(folder / "data" / "stdlib", folder / "moved", dirs_exist_ok=True)
    moved = launch("resume", "same", "train.steps=26", "data.source.path=moved", folder=folder)
    assert moved.returncode == 0, moved.stderr
    (folder / "few").mkdir(exist_ok=True)
    (folder / "few" / "a.txt").write_text("hello world\n" * 20_000)
    words = ["data", "train-tokenizer", "few", "-o", "few.json", "--vocab-size", "300"]
    assert launch(*words, folder=folder).returncode == 0
    for name, tokenizer in (("other", "data/stdlib.json"), ("another", "few.json")):
        built = launch("data", "build", "few", "-o", name, "--tokenizer", tokenizer, folder=folder)
        assert built.returncode == 0, built.stderr
    before = sorted(path.name for path in (folder / "same").rglob("*"))
    refused = launch("resume", "same", "train.steps=28", "data.source.path=other", folder=folder)
    assert refused.returncode == 2
    assert "was trained on other data or in another order:\n    fingerprint: " in refused.stderr
    refused = launch("resume", "same", "train.steps=28", "data.source.path=another", folder=folder)
    assert refused.returncode == 2
    assert "tokenizer: " in refused.stderr
    assert sorted(path.name for path in (folder / "same").rglob("*")) == before


def test_inspect_and_verify_say_what_there_is_and_what_is_wrong(folder: Path) -> None:
    shown = launch("data", "inspect", "data/stdlib", "--documents", "1", folder=folder)
    assert shown.returncode == 0
    assert re.search(r"^train +[\d,]+ +[\d,]+ +[\d,]+ +3\.\d\d ", shown.stdout, re.MULTILINE)
    assert "Record of phased-in incompatible language changes" in shown.stdout
    good = launch("data", "verify", "data/stdlib", folder=folder)
    assert good.returncode == 0
    assert "data/stdlib: good, " in good.stdout
    shutil.copytree(folder / "data" / "stdlib", folder / "damaged")
    shard = next((folder / "damaged").glob("train-*.bin"))
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    bad = launch("data", "verify", "damaged", folder=folder)
    assert bad.returncode == 2
    assert f"{shard.name}: has other content than was written" in bad.stderr
    shard.write_bytes(content[:-2])
    cut = launch("data", "verify", "damaged", folder=folder)
    assert re.search(rf"{shard.name}: has [\d,]+ bytes; [\d,]+ were written", cut.stderr)
    refused = launch(RECIPE, "data.source.path=damaged", folder=folder)
    assert refused.returncode == 2
    assert "were written" in refused.stderr
    assert not (folder / "runs").exists()


def test_a_vocabulary_too_small_is_refused_by_the_plan_with_both_places(folder: Path) -> None:
    refused = launch("plan", RECIPE, "model.vocab_size=4000", folder=folder)
    assert refused.returncode == 2
    assert (
        "override 'model.vocab_size=4000': model.vocab_size: 4000 is too few: the tokenizer of "
        in refused.stderr
    )
    assert "data/stdlib has 4096 ids" in refused.stderr
    planned = launch("plan", RECIPE, folder=folder)
    assert re.search(r"^dataset +[\d,]+ +614,400 +100\.0% +0\.\d+ ", planned.stdout, re.MULTILINE)


def test_data_are_staged_once_compared_and_read_from_there(folder: Path) -> None:
    stage = folder / "disk"
    words = (RECIPE, *SHORT, "train.steps=4", f"data.stage={stage}")
    done = launch(*words, "--run-dir", "staged", "--nproc-per-node", "2", "parallel.strategy=ddp",
                  "train.micro_batch_size=8", folder=folder)  # fmt: skip
    assert done.returncode == 0, done.stderr
    (copy,) = stage.iterdir()
    shard = next(copy.glob("train-*.bin"))
    assert shard.read_bytes() == (folder / "data" / "stdlib" / shard.name).read_bytes()
    before = shard.stat().st_mtime_ns
    assert launch(*words, "--run-dir", "again", folder=folder).returncode == 0
    assert shard.stat().st_mtime_ns == before
    shutil.rmtree(copy)
    shutil.copytree(folder / "data" / "stdlib", folder / "bent")
    content = bytearray((folder / "bent" / shard.name).read_bytes())
    content[0] ^= 1
    (folder / "bent" / shard.name).write_bytes(content)
    bad = launch(*words, "data.source.path=bent", "--run-dir", "bent-run", folder=folder)
    assert bad.returncode == 2
    assert "has other content than was written" in bad.stderr + bad.stdout


def test_documents_apart_train_alike_under_every_sharding(folder: Path) -> None:
    words = (RECIPE, *SHORT, "train.steps=6", "data.documents=separate", "model.pattern=[s4d, attention]",
             "model.attention.d_head=16")  # fmt: skip
    done = launch(*words, "--run-dir", "apart", folder=folder)
    assert done.returncode == 0, done.stderr
    ranks = ("--nproc-per-node", "2", "train.micro_batch_size=4")
    for strategy in ("ddp", "fsdp2"):
        done = launch(*words, f"parallel.strategy={strategy}", *ranks, "--run-dir", strategy, folder=folder)
        assert done.returncode == 0, done.stderr
        assert losses(folder / strategy) == pytest.approx(losses(folder / "apart"), rel=2e-6)
    zero = ("parallel.engine=deepspeed", "parallel.zero_stage=3", "~parallel.strategy")
    done = launch(*words, *zero, *ranks, "--run-dir", "zero", folder=folder)
    assert done.returncode == 0, done.stderr
    assert losses(folder / "zero") == pytest.approx(losses(folder / "apart"), rel=2e-6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["build", "x", "--tokenizer", "bytes"], "the following arguments are required: -o"),
        (
            ["build", "x", "-o", "s3://b/x", "--tokenizer", "bytes"],
            "is not a local folder\n    build on a disk",
        ),
        (["build", "x", "-o", "o", "--tokenizer", "bytes", "--validation", "2"], "got '2'; write a share"),
        (["build", "x", "-o", "o", "--tokenizer", "bytes", "--max-document", "9"], "got '9'; write a size"),
        (["build", "x", "-o", "o", "--tokenizer", "bytes", "--dedpu", "exact"], "did you mean --dedup?"),
        (["train-tokenizer", "x", "-o", "t", "--vocab-size", "9"], "256 bytes and one that ends a text"),
        (["inspect", "nowhere"], "there is no such folder"),
        (["verify", "."], "is not a data set"),
        (["bild"], "launch data bild: is not a verb\n    did you mean build?"),
    ],
)
def test_a_wrong_command_is_refused_in_one_screen(words: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "thing").write_text("x")
    done = launch("data", *words, folder=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
