"""`launch generate`: the model of a sharded run, whole again, token by token."""

import json
import shutil
import sysconfig
from pathlib import Path

import pytest
import torch

from launcher.checkpoint.catalog import Saved, find_newest, step_folder
from launcher.checkpoint.restore import load_model
from launcher.cli.main import main
from launcher.data import streams
from launcher.data.tokenizer import open_tokenizer
from launcher.data.words import cut
from launcher.errors import UserError
from launcher.recipe.compile import compile_recipe
from models.generation import generate, sample
from models.lm import LM
from tests.launcher.parallel.test_engine import CLASSIFIER
from tests.ranks import run_ranks
from tests.small_run import make_run, small_recipe, train_rank, train_run

HYBRID = ("model.pattern=[s4, attention]", "model.attention.d_head=8")
WORDS = ("data.source.unit=words", "model.vocab_size=200")
CHARS = (*WORDS, "model.encoder={type: char-cnn, widths: [1, 2], max_chars: 6}")
TASK = ("data.source={type: copying, num_symbols: 4}", "data.seq_len=16", "model.vocab_size=10")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of a few steps: `text` on bytes over two ranks, `words` read by number, `chars` read by their
    characters, `ids` on a task, `classifier`."""
    folder = tmp_path_factory.mktemp("runs")
    short = ("train.steps=4", "checkpoint.every=2", "train.validation_sequences=0", "schedule.warmup_steps=1")
    train_run(folder / "text", *short, *HYBRID, "parallel.strategy=fsdp2", "optim.lr=0.05", ranks=2)
    train_run(folder / "ids", *short, *TASK)
    for name in ("words", "chars"):
        train_run(folder / name, *short, "optim.lr=0.05", *(WORDS if name == "words" else CHARS))
    classifier = compile_recipe(
        CLASSIFIER, "expressions.yaml", ("train.steps=1", "schedule.warmup_steps=0")
    ).recipe
    run_ranks(1, train_rank, classifier, make_run(folder / "classifier", classifier))
    return folder


def newest(run: Path) -> Saved:
    saved, _ = find_newest(str(run), verify=True)
    assert saved is not None
    return saved


def test_a_sharded_run_says_step_by_step_what_one_forward_says(folder: Path) -> None:
    model = load_model(newest(folder / "text"), torch.device("cpu"))
    assert isinstance(model, LM)
    prompt = torch.tensor([list(b"def ")])
    same, again = (torch.Generator().manual_seed(1) for _ in range(2))
    said = torch.stack(list(generate(model, prompt, 24, generator=same)), dim=1)
    whole = torch.cat((prompt, said), dim=1)
    with torch.no_grad():
        logits_BLV = model(whole[:, :-1])[:, prompt.shape[1] - 1 :]
    drawn = [sample(logits_BV, generator=again) for logits_BV in logits_BLV.unbind(1)]
    assert torch.equal(said, torch.stack(drawn, dim=1))
    assert len(set(said[0].tolist())) > 1, "a constant would hide a state that stands still"


def test_text_continues_where_the_prompt_ends(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", str(folder / "text"), "--prompt", "dé", "--tokens", "30", "--seed", "3"]
    said = []
    for _ in range(2):
        assert main(words) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1], "the seed fixes the draws"
    assert said[0].startswith("dé")
    assert main([*words[:-1], "4"]) == 0
    assert capsys.readouterr().out != said[0]


@pytest.mark.parametrize("run", ["words", "chars"])
def test_words_continue_with_blanks_between_them(
    folder: Path, capsys: pytest.CaptureFixture[str], run: str
) -> None:
    prompt = "def zorkmid(self):"  # a word that is in no vocabulary can be read all the same
    assert main(["generate", str(folder / run), "--prompt", prompt, "--tokens", "40"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("def zorkmid ( self ) :")
    assert "<unk>" not in said
    assert len(cut(said.rstrip("\n").replace("<end>", "\0").encode())) == 6 + 40


@pytest.mark.parametrize("seed", range(4))
def test_the_first_word_knows_what_the_prompt_ends_with(
    folder: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    words = [
        "generate",
        str(folder / "words"),
        "--prompt",
        "self return",
        "--tokens",
        "8",
        "--seed",
        str(seed),
    ]
    assert main(words) == 0
    said = capsys.readouterr().out.rstrip("\n")
    assert len(cut(said.replace("<end>", "\0").encode())) == 2 + 8, "no word is glued to the prompt's last"
    assert main([*words, "--json"]) == 0
    (continuation,) = json.loads(capsys.readouterr().out)["continuations"]
    assert said == f"self return{continuation}".rstrip("\n")


def test_characters_of_words_step_by_step_say_what_one_forward_says(folder: Path) -> None:
    saved = newest(folder / "chars")
    model, tokenizer = load_model(saved, torch.device("cpu")), open_tokenizer(saved)
    assert isinstance(model, LM)
    assert tokenizer.suppressed is not None
    assert tokenizer.chars is not None
    prompt_LW = tokenizer.encode("for zorkmid in range ( 3")
    suppressed_V, chars_VW = tokenizer.suppressed, tokenizer.chars
    draws = torch.Generator().manual_seed(5)
    said = torch.cat(
        list(
            generate(
                model, prompt_LW[None], 20, generator=draws, suppressed_V=suppressed_V, chars_VW=chars_VW
            )
        )
    )
    whole_LW = torch.cat((prompt_LW, chars_VW[said[:-1]]))
    with torch.no_grad():
        logits_LV = model(whole_LW[None])[0, len(prompt_LW) - 1 :].masked_fill(suppressed_V, -torch.inf)
    draws.manual_seed(5)  # the same draws; rounding moves a probability by 1e-6 of it
    assert said.tolist() == [int(sample(logits_V[None], generator=draws)) for logits_V in logits_LV]
    assert len(set(said.tolist())) > 1, "a constant would hide a state that stands still"


def test_words_of_another_text_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.py").write_text("print ( 'of another Python' )\n" * 50)
    (tmp_path / "more.py").write_text("and ( more )\n" * 50)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(streams, "_split_position", lambda name: float(name == "other.py"))
    assert main(["generate", str(folder / "words"), "--prompt", "x"]) == 2
    assert "is not the text that the model was trained on" in capsys.readouterr().err


def test_tokens_of_a_task_are_ids(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", str(folder / "ids"), "--prompt", "2 3", "--tokens", "5", "--temperature", "0"]
    assert main(words) == 0
    said = capsys.readouterr().out.split()
    assert said[:2] == ["2", "3"]
    assert len(said) == 7
    assert all(0 <= int(token) < 10 for token in said)


@pytest.mark.parametrize(
    ("run", "options", "fragments"),
    [
        ("nowhere", (), ("does not exist", "runs nearby")),
        ("classifier", (), ("recipe.yaml:5:9: model.type: classifier", "only a language model")),
        ("text", ("--prompt", ""), ("is empty",)),
        ("text", ("--temperature", "-1"), ("--temperature -1", "0 or more")),
        ("ids", ("--prompt", "17 2"), ("has token 17", "model.vocab_size is 10", "0 to 9")),
        ("ids", ("--prompt", "two"), ("not a list of token ids", "copying")),
    ],
)
def test_what_cannot_continue_is_one_message(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    run: str,
    options: tuple[str, ...],
    fragments: tuple[str, ...],
) -> None:
    assert main(["generate", str(folder / run), "--prompt", "x", *options]) == 2
    error = capsys.readouterr().err
    for fragment in fragments:
        assert fragment in error


def test_a_run_without_a_good_checkpoint_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "new", small_recipe())
    assert main(["generate", run, "--prompt", "x"]) == 2
    assert "no good checkpoint yet" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_passed_over(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / "text", tmp_path / "text")
    shard = next(Path(step_folder(str(tmp_path / "text"), 4)).glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert main(["generate", str(tmp_path / "text"), "--prompt", "x", "--tokens", "1"]) == 0
    assert "passing over" in capsys.readouterr().err


def test_a_model_with_other_tensors_is_refused(folder: Path) -> None:
    saved = newest(folder / "text")
    gated = saved.manifest.recipe.replace("layer_mix: none", "layer_mix: gated")
    other = Saved(saved.url, saved.manifest.model_copy(update={"recipe": gated}))
    with pytest.raises(UserError, match="other base shapes"):
        load_model(other, torch.device("cpu"))


def test_continuations_are_counted_stopped_and_printed_as_json(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "prompt").write_text("def f(")
    words = [str(folder / "text"), "--prompt", f"@{tmp_path / 'prompt'}", "--tokens", "24", "--seed", "1"]
    assert main(["generate", *words, "-n", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["prompt"] == "def f("
    first, *others = found["continuations"]
    assert len(others) == 2
    assert len({first, *others}) == 3, "each goes its own way"
    stop = first[5:8]
    assert main(["generate", *words, "--stop", stop, "--json"]) == 0
    (cut,) = json.loads(capsys.readouterr().out)["continuations"]
    assert cut == first[: first.index(stop)]
    assert main(["generate", *words, "-n", "2"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("--- ") == 2
    assert first in shown


def test_a_checkpoint_is_chosen_by_its_step_or_its_folder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder / "text"
    last = max((run / "checkpoints").iterdir())
    step = int(last.name.removeprefix("step-"))
    words = ["--prompt", "x", "--tokens", "4", "--json"]
    assert main(["generate", str(run), "--step", str(step), *words]) == 0
    by_step = json.loads(capsys.readouterr().out)
    assert main(["generate", str(last), *words]) == 0
    assert json.loads(capsys.readouterr().out) == by_step
    assert main(["generate", str(run), "--step", str(step + 1), *words]) == 2
    assert f"there are 2, {step}" in capsys.readouterr().out
