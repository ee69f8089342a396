"""`launch export`: a model that is used without the launcher."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from launcher.checkpoint.catalog import find_newest
from launcher.checkpoint.restore import load_model
from models.exported import load_export
from tests.launch import assert_one_screen, launch
from tests.small_run import train_run

ALONE = """
import sys
import torch, safetensors
from models.exported import load_export
model = load_export(sys.argv[1])
torch.manual_seed(0)
with torch.no_grad():
    logits = model(torch.randint(0, 256, (2, 32)))
torch.save(logits, sys.argv[2])
ours = ("launcher", "cluster", "deepspeed", "mlflow")
print([name for name in sys.modules if name.split(".")[0] in ours])
"""
TOKENS = (2, 32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "run"
    train_run(folder, "parallel.strategy=fsdp2", ranks=2)
    return folder


def logits_of_checkpoint(run: Path) -> torch.Tensor:
    saved, _ = find_newest(str(run), verify=True)
    assert saved is not None
    model = load_model(saved, torch.device("cpu"))
    torch.manual_seed(0)
    with torch.no_grad():
        found: torch.Tensor = model(torch.randint(0, 256, TOKENS))
    return found


def test_an_export_is_loaded_by_a_plain_script_and_gives_the_same_logits(run: Path, tmp_path: Path) -> None:
    done = launch("export", str(run), "out/model.safetensors", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    names = [Path(line.split()[0]).name for line in done.stdout.splitlines()]
    suffixes = (".safetensors", ".recipe.yaml", ".base_shapes.bsh", ".tokenizer.json", ".md")
    assert names == [f"model{suffix}" for suffix in suffixes]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names), "and nothing else"
    found = subprocess.run(
        [sys.executable, "-c", ALONE, "out/model.safetensors", "logits.pt"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )  # fmt: skip
    assert found.stdout == "[]\n", "it imports models only"
    logits = torch.load(tmp_path / "logits.pt", weights_only=True)
    assert torch.equal(logits, logits_of_checkpoint(run))
    card = (tmp_path / "out/model.md").read_text()
    assert 'load_export("model.safetensors")' in card
    assert "20 of 20 steps, 5,120 tokens" in card
    assert json.loads((tmp_path / "out/model.tokenizer.json").read_text())["type"] == "bytes"
    # what lies beside it is a recipe and base shapes that can be used
    done = launch("plan", "out/model.recipe.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    shapes = "mup={type: mup, base_shapes: out/model.base_shapes.bsh}"
    done = launch("plan", "out/model.recipe.yaml", shapes, folder=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_only_what_is_large_is_rounded(run: Path, tmp_path: Path, dtype: str) -> None:
    done = launch("export", str(run), "model.safetensors", "--dtype", dtype, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    saved, _ = find_newest(str(run), verify=True)
    assert saved is not None
    exact = dict(load_model(saved, torch.device("cpu")).named_parameters())
    wanted = getattr(torch, dtype)
    found = dict(load_export(str(tmp_path / "model.safetensors")).named_parameters())
    assert found.keys() == exact.keys()
    for name, value in found.items():
        role = saved.manifest.parameters[name].role
        rounded = role in ("embedding", "matrix", "readout", "tied")
        assert torch.equal(value, exact[name].to(wanted).float() if rounded else exact[name]), name


@pytest.mark.parametrize(
    "options",
    [
        ("model.tie_embeddings=true",),
        (
            *("model.pattern=[attention, ffn]", "model.attention={d_head: 4}", "model.num_layers=4"),
            *("model.dropout=0", "mup={type: umup}"),
        ),
        ("data={source: {type: python-stdlib, unit: words}, seq_len: 32}", "model.vocab_size=500"),
    ],
    ids=["tied", "umup", "words"],
)
def test_every_kind_of_model_comes_back(tmp_path: Path, options: tuple[str, ...]) -> None:
    train_run(tmp_path / "run", *options)
    done = launch("export", "run", "model.safetensors", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    model = load_export(str(tmp_path / "model.safetensors"))
    torch.manual_seed(0)
    with torch.no_grad():
        assert torch.equal(model(torch.randint(0, 256, TOKENS)), logits_of_checkpoint(tmp_path / "run"))
    tokenizer = json.loads((tmp_path / "model.tokenizer.json").read_text())
    if tokenizer["type"] == "words":
        assert tokenizer["words"][0] == "<unk>"
        assert len(tokenizer["words"]) == 500


TRANSFORMER = (
    *("model.pattern=[attention, ffn]", "model.attention={d_head: 8}", "model.num_layers=4"),
    *("model.d_model=32", "model.residual=depth_sqrt", "mup.multipliers={attention: 1.5, output: 2}"),
)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_transformer_for_hugging_face_gives_the_same_logits_and_tokens(tmp_path: Path, dtype: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    train_run(tmp_path / "run", *TRANSFORMER)
    done = launch("export", "run", "out/mine", "--format", "huggingface", "--dtype", dtype, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"], "and nothing partial"
    folder = str(tmp_path / "out/mine")
    assert 'from_pretrained("mine")' in (tmp_path / "out/mine/README.md").read_text()
    theirs = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    assert str(theirs.dtype) == f"torch.{dtype}"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    text = "def naïve(x):\n\treturn '€ü'  # \x00\x7f"
    assert tokenizer(text)["input_ids"] == list(text.encode())
    assert tokenizer.decode(list(text.encode())) == text
    torch.manual_seed(0)
    with torch.no_grad():
        logits = theirs(torch.randint(0, 256, TOKENS)).logits.float()
    ours = logits_of_checkpoint(tmp_path / "run")
    tolerance = 1e-5 if dtype == "float32" else 2.0**-5
    assert (logits - ours).abs().max() < tolerance * ours.abs().max()
    again = launch("export", "run", "out/mine", "--format", "huggingface", folder=tmp_path)
    assert_one_screen(again, "out/mine: is there already")


def test_what_transformers_cannot_compute_is_refused(run: Path, tmp_path: Path) -> None:
    done = launch("export", str(run), "mine", "--format", "huggingface", folder=tmp_path)
    assert_one_screen(done, "its layers are s4d, not attention, ffn in turn")
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_and_a_damaged_checkpoint_is_not_exported(run: Path, tmp_path: Path) -> None:
    (tmp_path / "model.md").write_text("mine")
    words = ("export", str(run), "model.safetensors")
    assert_one_screen(launch(*words, folder=tmp_path), "model.md: is there already")
    assert [path.name for path in tmp_path.iterdir()] == ["model.md"]
    assert_one_screen(launch("export", str(run), "model.pt", folder=tmp_path), "does not end in .safetensors")
    train_run(tmp_path / "bad")
    shard = next(tmp_path.glob("bad/checkpoints/step-0000000020/*.distcp"))
    content = bytearray(shard.read_bytes())
    content[50] ^= 1
    shard.write_bytes(content)
    assert_one_screen(launch("export", "bad", "other.safetensors", folder=tmp_path), "has digest")
    assert not (tmp_path / "other.safetensors").exists()
