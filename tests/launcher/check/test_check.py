"""`launch check` and the gate, with the checks themselves made short."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import launcher.check.run_check as run_module
from launcher.check.coordinates import (
    OF_PARAMETERS,
    Setting,
    Slope,
    largest_difference,
    measure_coordinates,
    measure_sharded,
)
from launcher.check.gate import hash_identity, require_passed
from launcher.check.health import Finding
from launcher.check.proxy import one_thread
from launcher.check.run_check import judge_slopes
from launcher.check.shrink import choose_lr_amplification, choose_widths, sharded_ranks, shrink_recipe
from launcher.cli.main import main
from launcher.errors import UserError
from launcher.processes import GroupError
from launcher.recipe.compile import compile_recipe, load_recipe
from launcher.recipe.schema import Recipe
from launcher.world import world_on
from tests.launch import assert_one_screen, launch
from tests.test_tasks import PAIRS, write_pairs

ROOT = Path(__file__).parents[3]
TINY = str(ROOT / "recipes" / "s4d-lm-tiny.yaml")


def recipe(*overrides: str, name: str = "s4d") -> Recipe:
    return load_recipe(str(ROOT / "recipes" / f"{name}-lm-tiny.yaml"), overrides).recipe


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Finding]:
    """One seed, and findings of the caller's choice instead of trained ones; runs/ is in a fresh folder."""
    health: list[Finding] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_module, "NUM_SEEDS", 1)
    monkeypatch.setattr(run_module, "BOUND", 9.0)
    monkeypatch.setattr(run_module, "_check_health", lambda recipe, widths, world: health)
    monkeypatch.setattr(run_module, "judge_slopes", lambda name, slopes: Finding(name, True, "", ""))
    monkeypatch.setattr(run_module, "judge_parameters", lambda slopes: Finding("alone", True, "", ""))
    return health


WIDTHS = ["--widths", "16,24,32,40"]


def test_a_gate_stays_shut_until_a_check_has_passed(
    quick: list[Finding], capsys: pytest.CaptureFixture[str]
) -> None:
    gated = recipe("check.gate=true")
    require_passed(recipe(), TINY)  # no gate, nothing asked
    with pytest.raises(UserError, match="none is recorded"):
        require_passed(gated, TINY)
    # in a fork, as a gate that is not asked would turn this process into a run
    started = launch(TINY, "check.gate=true", "--run-dir", "gated", folder=Path.cwd())
    assert_one_screen(started, "check.gate=true", "requires a passed check")
    assert not Path("gated").exists()
    quick.append(Finding("anything", False, "1", "0"))
    assert main(["check", TINY, *WIDTHS]) == 1
    with pytest.raises(UserError, match="the recorded one failed"):
        require_passed(gated, TINY)
    quick.clear()
    capsys.readouterr()
    assert main(["check", TINY, *WIDTHS, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True
    require_passed(gated, TINY)
    # the record is for every width of the same model, and for no other rates
    require_passed(recipe("check.gate=true", "model.d_model=512"), TINY)
    with pytest.raises(UserError, match="none is recorded"):
        require_passed(recipe("check.gate=true", "optim.lr=1e-3"), TINY)


def test_a_check_shows_the_hints_of_the_whole_recipe_once(
    quick: list[Finding], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", TINY, *WIDTHS, "data.seq_len=16384"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("hint: ") == 1, "its proxy models have 32 steps, which the user has not chosen"
    assert "data.seq_len = 16384 (override" in shown


def test_launch_asks_the_gate_before_it_starts_anything(
    quick: list[Finding], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([TINY, "check.gate=true", "--run-dir", str(tmp_path / "run")]) == 2
    assert "launch check" in capsys.readouterr().err
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_a_check_writes_its_record_and_pictures(
    quick: list[Finding], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", TINY, *WIDTHS, "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "layers.1.s4d.ssm" in shown
    assert "PASSED" in shown
    record = json.loads((tmp_path / "out" / "check.json").read_text())
    assert record["passed"] is True
    assert record["identity"] == hash_identity(recipe())
    assert record["widths"] == [16, 24, 32, 40]
    for picture in ("coordinates.png", "slopes.png"):
        assert (tmp_path / "out" / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("parallel", "ranks"),
    [
        ("{strategy: fsdp2}", 2),
        pytest.param("{strategy: hsdp}", 4, marks=pytest.mark.slow),
        pytest.param("{engine: deepspeed, zero_stage: 3}", 2, marks=pytest.mark.slow),
    ],
)
def test_sharded_proxy_models_change_as_whole_ones_do(parallel: str, ranks: int) -> None:
    subject = recipe(f"parallel={parallel}", "cluster.nproc_per_node=4", "train.micro_batch_size=2")
    assert sharded_ranks(subject) == ranks
    setting = Setting(recipe=subject, widths=(16, 32), seeds=(1,), lr_amplification=1.0)
    with one_thread():
        whole = measure_coordinates(setting, world_on("cpu"))
    sharded = measure_sharded(dataclasses.replace(setting, ranks=ranks))
    assert {value.module for value in sharded} == {
        value.module for value in whole if value.measure not in OF_PARAMETERS
    }
    # sums in another order: float32 rounding (6e-8), amplified by Adam's division of tiny gradients
    assert largest_difference(whole, sharded)[0] < 1e-3


CHAR_CNN = (
    "data.source.unit=words",
    "model.encoder={type: char-cnn, widths: [1, 3]}",
    "model.vocab_size=300",
)


def test_a_model_of_words_is_checked_from_its_characters_on() -> None:
    setting = Setting(recipe=recipe(*CHAR_CNN), widths=(16, 32), seeds=(1,), lr_amplification=1.0)
    with one_thread():
        values = measure_coordinates(setting, world_on("cpu"))
    moved = {value.module for value in values if value.measure == "own" and value.value > 0.0}
    assert {"embedding.embedding", "embedding.filters.0", "embedding.filters.1", "embedding.output"} <= moved


def test_a_classifier_of_pairs_is_checked_with_its_comparison(tmp_path: Path) -> None:
    train = write_pairs(tmp_path / "train", 16, seed=0)
    validation = write_pairs(tmp_path / "validation", 16, seed=1)
    text = PAIRS.replace("TRAIN", str(train)).replace("VALID", str(validation))
    setting = Setting(
        recipe=compile_recipe(text, "pairs.yaml").recipe, widths=(16, 32), seeds=(1,), lr_amplification=1.0
    )
    with one_thread():
        values = measure_coordinates(setting, world_on("cpu"))
    moved = {value.module for value in values if value.measure == "own" and value.value > 0.0}
    assert {"embedding", "compare.hidden", "readout"} <= moved


def test_batch_norm_is_not_expected_to_be_the_same_on_more_ranks(
    quick: list[Finding], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_module, "measure_sharded", lambda setting: [])  # nothing like the whole
    digits = str(ROOT / "recipes" / "s4d-digits.yaml")
    assert main(["check", digits, *WIDTHS, "model.norm=batch"]) == 0
    shown = capsys.readouterr().out
    assert "not compared with the whole: batch norm" in shown
    assert "sharded = whole" not in shown


def test_a_failing_rank_is_reported() -> None:
    subject = recipe("data.source={type: files, url: /no/such/folder}")
    with pytest.raises(GroupError, match="no/such/folder"):
        measure_sharded(Setting(recipe=subject, widths=(16,), seeds=(1,), lr_amplification=1.0, ranks=2))


def test_the_proxy_model_is_smaller_and_otherwise_the_recipe() -> None:
    subject = recipe("model.num_layers=8", "model.dropout=0.1", "data.seq_len=1024")
    proxy = shrink_recipe(subject, d_model=64, seed=5)
    assert (proxy.model.d_model, proxy.model.num_layers, proxy.model.dropout) == (64, 2, 0.0)
    assert (proxy.data.seq_len, proxy.seed, proxy.parallel.strategy) == (32, 5, "single")
    assert proxy.optim == subject.optim
    assert proxy.mup == subject.mup


def test_widths_are_ones_of_which_the_model_can_be_made() -> None:
    assert choose_widths(recipe()) == (128, 256, 512, 1024)
    assert choose_widths(recipe(name="ssd")) == (256, 512, 1024, 2048)
    assert choose_widths(recipe("model.s4d.n_ssm=3", "model.d_model=96", "mup.base_width=48")) == (
        96,
        192,
        384,
        768,
    )
    with pytest.raises(UserError, match="at least 4"):
        choose_widths(recipe(), [64, 128])
    with pytest.raises(UserError, match="does not divide"):
        choose_widths(recipe(name="transformer"), [64, 100, 128, 256])


def test_rates_are_ten_times_the_recipes_unless_that_saturates() -> None:
    assert choose_lr_amplification(recipe("optim.lr=1e-4")) == 10.0
    assert choose_lr_amplification(recipe("optim.lr=7.8125e-3")) == 2.0
    assert choose_lr_amplification(recipe("optim.lr=0.5")) == 1.0


def test_a_verdict_names_the_modules_that_depend_on_width() -> None:
    slopes = [
        Slope("total", 2, "a", 0.05, (1.0, 1.0)),
        Slope("own", 2, "b", -0.3, (1.0, 0.8)),
        Slope("init", 0, "readout", -0.5, (1.0, 0.7)),
    ]
    finding = judge_slopes("coordinate check", slopes)
    assert not finding.passed
    assert finding.detail == "depends on width: b (own -0.30)"
    assert judge_slopes("coordinate check", [slopes[0], slopes[2]]).passed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s4d", "s4", "transformer", "hybrid"])
def test_shipped_recipes_pass_whole_and_sharded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # records go to runs/ there
    path = str(ROOT / "recipes" / f"{name}-lm-tiny.yaml")
    sharded = ["parallel.strategy=fsdp2", "cluster.nproc_per_node=2"]
    assert main(["check", path, *sharded, "--out", str(tmp_path)]) == 0
    findings = json.loads((tmp_path / "check.json").read_text())["findings"]
    assert any(finding["name"] == "coordinate check, fsdp2 x 2" for finding in findings)


def test_a_gpu_that_is_not_there_is_said_before_anything_is_trained(quick: list[Finding]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert_one_screen(launch("check", TINY, "--device", "cuda", folder=Path.cwd()), "torch finds no GPU here")
