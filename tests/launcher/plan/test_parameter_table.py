"""`launch explain` and `launch shapes`: every parameter once, its real values, and the rule for them."""

import json
from pathlib import Path

import pytest
import torch

from launcher.cli.main import main
from launcher.errors import UserError
from launcher.mup.bsh import read_base_shapes
from launcher.mup.init import init_parameters
from launcher.plan.parameter_table import explain_parameters, explain_text
from launcher.plan.parameters import describe_parameters
from launcher.recipe.schema import Recipe
from models.build_model import build_model
from tests.small_run import RECIPE, small_recipe


def explained(*overrides: str) -> tuple[Recipe, str]:
    recipe = small_recipe(*overrides)
    return recipe, explain_text(
        recipe, describe_parameters(recipe.model, recipe.mup, recipe.optim, seq_len=32)
    )


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("mup={type: sp}",),
        ("optim={type: muon, lr: 1e-2, others: {lr: 1e-3}}",),
        ("model.pattern=[s4d, ffn]", "model.num_layers=4"),
        ("model.tie_embeddings=true",),
    ],
)
def test_every_tensor_is_told_exactly_once(overrides: tuple[str, ...]) -> None:
    recipe = small_recipe(*overrides)
    parameters = describe_parameters(recipe.model, recipe.mup, recipe.optim, seq_len=32)
    entries = explain_parameters(recipe, parameters)
    assert sum(entry.num_tensors for entry in entries) == len(parameters.shapes)
    assert len({(entry.name, entry.group) for entry in entries}) == len(entries)
    assert all(entry.why for entry in entries)


def test_rates_are_those_that_the_optimizer_gets() -> None:
    recipe = small_recipe()
    parameters = describe_parameters(recipe.model, recipe.mup, recipe.optim, seq_len=32)
    by_name = {entry.name: entry for entry in explain_parameters(recipe, parameters)}
    up = by_name["layers.*.s4d.output.weight"]
    # twice the base width: rate 8e-3 / 2, decay 0.1 x 2, eps 1e-8 / 2
    assert (up.num_tensors, up.shape, up.base_shape, up.width) == (2, (32, 16), (16, 8), 2.0)
    assert (up.lr, up.weight_decay, up.eps) == (4e-3, 0.2, 5e-9)
    assert by_name["layers.*.s4d.ssm.log_dt"].lr == 1e-3
    assert "caps the peak at 0.001" in by_name["layers.*.s4d.ssm.log_dt"].why
    assert by_name["readout.weight"].forward == 0.5
    assert "not decayed" in by_name["norm.bias"].why


def test_initial_values_are_those_of_the_model() -> None:
    recipe = small_recipe("model.readout_zero_init=false", "model.d_model=64")
    parameters = describe_parameters(recipe.model, recipe.mup, recipe.optim, seq_len=32)
    model = build_model(recipe.model)
    init_parameters(model, parameters.facts, {n: s.init for n, s in parameters.scalings.items()}, seed=0)
    values = {name.replace("layers.0.", "layers.*."): p for name, p in model.named_parameters()}
    for entry in explain_parameters(recipe, parameters):
        p = values[entry.name].double()
        # two draws of p.numel() numbers: their stds differ by 1/sqrt(numel), times 5 for luck among 15
        # tensors
        tolerance = 5 * (entry.init_std + 1e-12) / p.numel() ** 0.5
        assert abs(float(p.std(correction=0)) - entry.init_std) <= tolerance, entry.name


def test_layers_that_train_differently_are_not_folded_into_one_line() -> None:
    recipe = small_recipe("model.pattern=[s4d, ffn]", "model.num_layers=4")
    parameters = describe_parameters(recipe.model, recipe.mup, recipe.optim, seq_len=32)
    names = {entry.name: entry.num_tensors for entry in explain_parameters(recipe, parameters)}
    assert names["layers.*.ffn.up.weight"] == 2
    assert names["layers.*.norm.weight"] == 4


def test_text_has_a_row_per_entry_and_each_reason_once() -> None:
    recipe, text = explained()
    parameters = describe_parameters(recipe.model, recipe.mup, recipe.optim, seq_len=32)
    entries = explain_parameters(recipe, parameters)
    for entry in entries:
        assert sum(line.startswith(entry.name + " ") for line in text.splitlines()) == 1
        assert text.count(entry.why + "\n") + text.endswith(entry.why) == 1
    assert "base shapes " + parameters.base_shapes_hash in text


def test_depth_rule_is_told() -> None:
    _, text = explained("model.residual=depth_sqrt", "model.residual_base=1", "model.num_layers=4")
    assert "residual branches x 0.5 (model.residual = depth_sqrt)" in text
    assert "Depth-muP (arXiv 2310.02244)" in text


@pytest.fixture
def recipe_file(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return str(path)


def test_command_prints_the_table_and_json(recipe_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", recipe_file, "optim.lr=1e-2"]) == 0
    assert "layers.*.s4d.output.weight" in capsys.readouterr().out
    assert main(["explain", recipe_file, "--json", "optim.lr=1e-2"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["parametrisation"] == "mup"
    assert {entry["lr"] for entry in record["parameters"]} == {1e-2, 5e-3, 1e-3}


def test_shapes_written_by_the_command_serve_as_base_shapes(
    recipe_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "base.bsh"
    assert main(["shapes", recipe_file, "-o", str(out)]) == 0
    recipe = small_recipe()
    expected = describe_parameters(recipe.model, recipe.mup, recipe.optim, seq_len=32)
    assert read_base_shapes(str(out)) == expected.base_shapes
    from_file = small_recipe(f"mup={{type: mup, base_shapes: {out}}}")
    read = describe_parameters(from_file.model, from_file.mup, from_file.optim, seq_len=32)
    assert read.scalings == expected.scalings
    capsys.readouterr()
    assert main(["shapes", recipe_file]) == 0
    assert capsys.readouterr().out == out.read_text()
    assert main(["shapes", recipe_file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hash"] == expected.base_shapes_hash


def test_the_file_is_the_same_at_every_width(recipe_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for width in (8, 16, 24):
        assert main(["shapes", recipe_file, f"model.d_model={width}"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] == texts[2]


def test_sp_has_no_shapes_and_says_what_to_give(recipe_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shapes", recipe_file, "mup={type: sp}"]) == 2
    assert "mup.type=mup mup.base_width=N" in capsys.readouterr().err


def test_a_base_file_of_another_model_names_the_parameters(recipe_file: str, tmp_path: Path) -> None:
    out = tmp_path / "base.bsh"
    assert main(["shapes", recipe_file, "-o", str(out)]) == 0
    deeper = small_recipe(f"mup={{type: mup, base_shapes: {out}}}", "model.num_layers=3")
    with pytest.raises(UserError, match=r"layers\.2\.norm\.weight: is in the model but not in the base"):
        describe_parameters(deeper.model, deeper.mup, deeper.optim, seq_len=32)


def test_explaining_costs_no_memory_for_the_model() -> None:
    """512 MiB of one matrix: only some rows of a tensor are drawn."""
    recipe = small_recipe("model.d_model=8192", "model.num_layers=1", "model.s4d.d_state=2")
    parameters = describe_parameters(recipe.model, recipe.mup, recipe.optim, seq_len=32)
    assert torch.Size(parameters.shapes["layers.0.s4d.output.weight"]).numel() == 2 * 8192**2
    explain_parameters(recipe, parameters)
