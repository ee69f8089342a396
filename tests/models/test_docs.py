"""docs/models.md says what the code says: layers, their states and costs, every option, what is refused."""

import re
from collections.abc import Mapping
from math import log2
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from pydantic.fields import FieldInfo

from launcher.errors import UserError
from launcher.recipe.compile import compile_recipe
from launcher.recipe.hints import LENGTHS_FORGOTTEN, LONG
from launcher.yaml_text import dump_yaml, parse_yaml
from models.config import (
    BackboneSection,
    CharCNNEncoder,
    ClassifierConfig,
    LayerName,
    LinearEncoder,
    LMConfig,
    TokenEncoder,
)
from models.facts import Multipliers
from models.layer_table import LAYERS
from models.momentum import CHUNK
from models.section import Section
from models.ssm.config import S4DConfig, SSMSection
from models.ssm.dss import MOST_GROWTH
from models.ssm.s4d import S4D
from models.ssm.ssm_tensors import A_REAL_RANGE, DT_RANGE
from tests.small_run import RECIPE

DOC = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
KINDS = tuple(LAYERS)
SECTIONS: dict[str, tuple[type[Section], type[Section] | None]] = {
    "Shared by `s4`, `s4d` and `dss`": (SSMSection, None),
    "Every model": (BackboneSection, None),
    "`type: lm`": (LMConfig, BackboneSection),
    "`type: classifier`": (ClassifierConfig, BackboneSection),
    "`encoder: {type: char-cnn}`": (CharCNNEncoder, None),
    "`encoder: {type: linear}`": (LinearEncoder, None),
}
for kind in KINDS:
    section = type(BackboneSection.model_fields[kind].default)
    SECTIONS[f"`{kind}`"] = (section, SSMSection if issubclass(section, SSMSection) else None)
SMALL: dict[str, Any] = {
    "type": "lm",
    "vocab_size": 16,
    "d_model": 24,
    "num_layers": 1,
    "s4": {"d_state": 6, "channels": 2},
    "s4d": {"d_state": 6, "channels": 2},
    "dss": {"d_state": 6, "channels": 2},
    "attention": {"d_head": 4},
    "momentum": {"d_head": 4},
    "ssd": {"d_state": 6, "d_head": 4, "heads_per_group": 3},
    "ffn": {"expand": 3},
}


def rows(heading: str) -> list[list[str]]:
    """Cells of the table below a heading, without its head."""
    below = DOC.split(f"# {heading}\n", 1)[1].split("\n#", 1)[0]
    lines = [line for line in below.splitlines() if line.startswith("| ") and not line.startswith("| option")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def small(kind: LayerName, options: Mapping[str, object] = {}) -> LMConfig:
    section = SMALL[kind] | options
    return LMConfig.model_validate({**SMALL, "pattern": (kind,), kind: section})


def letters(config: LMConfig, kind: LayerName, length: int) -> dict[str, float]:
    section = getattr(config, kind)
    return {
        "H": config.d_model,
        "L": length,
        "t": length,
        "T": min(length, CHUNK),
        "N": getattr(section, "d_state", 0),
        "K": getattr(section, "d_head", 0),
        "C": getattr(section, "channels", 0),
        "E": getattr(section, "expand", 0),
        "I": getattr(section, "expand", 0) * config.d_model,
        "J": getattr(section, "d_conv", 0),
        "G": LAYERS["ssd"].build(config, Multipliers()).space.num_groups if kind == "ssd" else 0,
    }


def formula(kind: LayerName, column: int) -> str:
    (row,) = (row for row in rows("Kinds of layers") if row[0] == f"`{kind}`")
    return row[column].strip(" |`")


def test_every_kind_of_layer_has_a_row() -> None:
    assert {row[0] for row in rows("Kinds of layers")[1:]} == {f"`{kind}`" for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_of_a_layer_is_as_large_as_said(kind: LayerName) -> None:
    config, length = small(kind), 7
    mixer = LAYERS[kind].build(config, Multipliers()).to_empty(device="cpu")
    for parameter in mixer.parameters():
        torch.nn.init.zeros_(parameter)
    before = mixer.initial_state(1, torch.device("cpu"))
    _, after = mixer.advance(torch.zeros(1, length, config.d_model), before)
    said = eval(formula(kind, 3), {}, letters(config, kind, length))
    assert sum(part.numel() for part in after) == said


@pytest.mark.parametrize("length", [7, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_costs_what_is_said(kind: LayerName, length: int) -> None:
    config = small(kind)
    said = eval(formula(kind, 4), {"log2": log2}, letters(config, kind, length))
    assert LAYERS[kind].flops(config, length) == pytest.approx(said)


@pytest.mark.parametrize("kind", ["s4", "s4d", "dss"])
def test_the_output_of_a_state_space_costs_what_is_said(kind: LayerName) -> None:
    glu, plain, gated = (
        LAYERS[kind].flops(small(kind, options), 100) for options in ({}, {"final_act": "id"}, {"gate": True})
    )
    assert glu - plain == pytest.approx(4 * 2 * 24**2 / 2)
    assert gated - glu == pytest.approx(2 * 2 * 24**2)


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_option_is_there_with_its_default(heading: str) -> None:
    section, base = SECTIONS[heading]
    elsewhere = {"type"} | (base.model_fields.keys() if base is not None else set())
    if section is BackboneSection:
        elsewhere |= set(LAYERS)
    options = {name: show(field) for name, field in section.model_fields.items() if name not in elsewhere}
    assert {row[0].strip("`"): row[1] for row in rows(heading)} == options


def show(field: FieldInfo) -> str:
    """A default as YAML; an encoder's is its type."""
    if field.is_required():
        return "required"
    value = field.default
    if isinstance(value, TokenEncoder):
        return value.type
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def snippets() -> list[dict[str, Any]]:
    """Sections of recipes shown as indented blocks."""
    blocks = re.findall(r"(?:^    .*\n)+", DOC, re.MULTILINE)
    return [parse_yaml(dedent(block), "docs/models.md") for block in blocks if "model:" in block]


@pytest.mark.parametrize("snippet", snippets())
def test_every_snippet_is_a_recipe(snippet: dict[str, Any]) -> None:
    recipe = parse_yaml(RECIPE, "small.yaml") | {"mup": {"type": "mup", "base_width": 64}} | snippet
    if snippet["model"]["type"] == "classifier":
        recipe["data"] = {"source": {"type": "digits"}, "seq_len": 64}
    compile_recipe(dump_yaml(recipe), "docs/models.md")


def test_ranges_and_thresholds_are_those_of_the_code() -> None:
    for fragment in (
        f"dt_min x L above {LENGTHS_FORGOTTEN:g}",
        f"from {LONG} positions on",
        f"dt stays in [{DT_RANGE[0]:.0e}, {DT_RANGE[1]:g}]".replace("1e-06", "1e-6"),
        f"decay rates in [{A_REAL_RANGE[0]:.0e}, {A_REAL_RANGE[1]:.0e}]".replace("1e-05", "1e-5").replace(
            "1e+04", "1e4"
        ),
        f"grow by e^{MOST_GROWTH:g}",
        f"the smaller of L and {CHUNK}",
    ):
        assert fragment in " ".join(DOC.split()), fragment


@pytest.mark.parametrize("kind", [*KINDS, "softmax"])
def test_states_are_carried_through_training_by_the_kinds_said(kind: str) -> None:
    overrides = ["train.truncated_bptt=true", f"model.pattern=[{'dss' if kind == 'softmax' else kind}]"]
    overrides += ["model.attention.d_head=8", "model.momentum.d_head=8", "model.ssd.d_head=4"]
    if kind == "softmax":
        overrides.append("model.dss={version: softmax, max_length: 32}")
    if kind in ("attention", "softmax"):
        with pytest.raises(UserError, match="truncated_bptt"):
            compile_recipe(RECIPE, "small.yaml", overrides)
    else:
        compile_recipe(RECIPE, "small.yaml", overrides)


@pytest.mark.parametrize("override", ["model.s4d.bidirectional=true", "model.attention.causal=false"])
def test_a_language_model_refuses_to_look_ahead(override: str) -> None:
    with pytest.raises(UserError, match="must not see later positions"):
        compile_recipe(RECIPE, "small.yaml", [override])


def test_looking_ahead_begins_one_position_on() -> None:
    """The equation under "Both directions", by unit impulses through one layer's state space."""
    length, H = 5, 3
    ssm = S4D(S4DConfig(d_state=2, bidirectional=True), H)
    source = torch.Generator().manual_seed(0)
    for parameter in ssm.parameters():
        torch.nn.init.normal_(parameter, generator=source)
    with torch.no_grad():
        k_CHL = ssm.system().kernel(length)
        u_BLH = torch.randn(1, length, H, generator=source)
        y_BHL = ssm(u_BLH)
    for t in range(length):
        past = sum(k_CHL[0, :, j] * u_BLH[0, t - j] for j in range(t + 1))
        ahead = sum(k_CHL[1, :, j] * u_BLH[0, t + 1 + j] for j in range(length - t - 1))
        torch.testing.assert_close(y_BHL[0, :, t], past + ahead)  # k[0] holds D
