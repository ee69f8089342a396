"""What every built-in layer is asked: facts, three ways that agree, muP, a resume, and generation."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gatedconv import GatedConvConfig
from gatedconv.layer import GatedConv, convolve, convolve_slowly, gatedconv_facts

from launcher.api import load
from models.facts import match_facts

RECIPE = Path(__file__).parents[1] / "recipe.yaml"
LAUNCH = [sys.executable, "-m", "launcher"]
SHORT = ("train.steps=20", "checkpoint.every=10", "data.seq_len=32", "train.validation_sequences=4")
H = 8


def launch(folder: Path, *words: str) -> str:
    done = subprocess.run([*LAUNCH, *words], cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def layer() -> GatedConv:
    config = GatedConvConfig()
    made, generator = GatedConv(config, H), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, fact in match_facts(dict(made.named_parameters()), gatedconv_facts(config)).items():
            parameter = made.get_parameter(name)
            parameter.copy_(fact.init(parameter.shape, generator))
    return made.eval()


def signal(length: int) -> torch.Tensor:
    return torch.randn(2, length, H, generator=torch.Generator().manual_seed(length))


def test_the_convolution_equals_its_slow_twin() -> None:
    x_BLH, taps_KH = signal(17), signal(3)[0]
    torch.testing.assert_close(convolve(x_BLH, taps_KH), convolve_slowly(x_BLH, taps_KH))


@pytest.mark.parametrize("length", [1, 2, 17, 100])
@torch.no_grad()
def test_chunks_and_single_steps_equal_the_whole(layer: GatedConv, length: int) -> None:
    x_BLH, cpu = signal(length), torch.device("cpu")
    whole, first = layer(x_BLH), (length + 2) // 3
    start, state = layer.advance(x_BLH[:, :first], layer.initial_state(2, cpu))
    rest = layer.advance(x_BLH[:, first:], state)[0] if first < length else start[:, :0]
    torch.testing.assert_close(torch.cat((start, rest), dim=1), whole)
    state, step, outputs = layer.initial_state(2, cpu), layer.stepper(), []
    for x_BH in x_BLH.unbind(1):
        out, state = step(x_BH, state)
        outputs.append(out)
    torch.testing.assert_close(torch.stack(outputs, dim=1), whole)


def test_outputs_do_not_see_later_inputs(layer: GatedConv) -> None:
    changed = torch.cat((signal(17)[:, :9], signal(17)[:, 9:] + 3), dim=1)
    torch.testing.assert_close(layer(changed)[:, :9], layer(signal(17))[:, :9])


def test_activations_and_updates_do_not_depend_on_the_width(tmp_path: Path) -> None:
    launch(tmp_path, "check", str(RECIPE))


def test_a_resume_equals_the_uninterrupted_run_and_generation_the_model(tmp_path: Path) -> None:
    words = (str(RECIPE), *SHORT, "schedule={type: constant}", "--run-dir")
    launch(tmp_path, *words, "whole")
    launch(tmp_path, *words, "parts", "train.steps=10")
    launch(tmp_path, "resume", "parts", "train.steps=20")
    whole, parts = (load(str(tmp_path / run)) for run in ("whole", "parts"))
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(parameter, parts.model.get_parameter(name)), name

    said = launch(
        tmp_path, "generate", "whole", "--prompt", "def ", "--tokens", "8", "--temperature", "0", "--json"
    )
    assert whole.tokenizer is not None
    tokens, text = whole.tokenizer.encode("def "), ""
    for _ in range(8):
        best = int(whole.model(tokens[None])[0, -1].argmax())
        tokens, text = torch.cat((tokens, torch.tensor([best]))), text + whole.tokenizer.decode(best)
    assert json.loads(said)["continuations"] == [text + whole.tokenizer.finish()]
