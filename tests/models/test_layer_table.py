"""Every layer kind: whole sequences = chunks with state = one token at a time, at many lengths."""

import pytest
import torch

from models.config import BackboneSection
from models.facts import Multipliers, match_facts
from models.layer_table import LAYERS
from models.mixer import Mixer

CPU = torch.device("cpu")
LENGTHS = [1, 2, 3, 17, 1000]


@pytest.fixture(params=LAYERS)
def mixer(request, fill) -> Mixer:
    options = {"d_state": 8}
    config = BackboneSection.model_validate(
        {
            "type": "any",
            "d_model": 8,
            "num_layers": 1,
            "s4d": options,
            "s4": options,
            "dss": options,
            "attention": {"d_head": 4},
            "momentum": {"d_head": 4},
            "ssd": {"d_state": 8, "d_head": 4, "heads_per_group": 2},
        }
    )
    kind = LAYERS[request.param]
    return fill(kind.build(config, Multipliers()), kind.facts(config)).eval()


def signal(length: int) -> torch.Tensor:
    return torch.randn(2, length, 8, generator=torch.Generator().manual_seed(length))


# float32: errors of some 1e-6 in each way, relative to outputs below 10
TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}


@pytest.mark.parametrize("length", LENGTHS)
def test_chunks_with_state_equal_the_whole(mixer, length: int) -> None:
    x_BLH, state, outputs = signal(length), mixer.initial_state(2, CPU), []
    first = (length + 2) // 3
    for chunk in (x_BLH[:, :first], x_BLH[:, first:]):
        if chunk.shape[1]:
            out, state = mixer.advance(chunk, state)
            outputs.append(out)
    torch.testing.assert_close(torch.cat(outputs, dim=1), mixer(x_BLH), **TOLERANCE)


@pytest.mark.parametrize("length", LENGTHS)
@torch.no_grad()
def test_single_steps_equal_the_whole(mixer, length: int) -> None:
    x_BLH, state, step, outputs = signal(length), mixer.initial_state(2, CPU), mixer.stepper(), []
    for x_BH in x_BLH.unbind(1):
        out, state = step(x_BH, state)
        outputs.append(out)
    torch.testing.assert_close(torch.stack(outputs, dim=1), mixer(x_BLH), **TOLERANCE)


@pytest.mark.parametrize("length", LENGTHS)
def test_outputs_do_not_see_later_inputs(mixer, length: int) -> None:
    x_BLH, cut = signal(length), (length + 1) // 2
    changed = torch.cat((x_BLH[:, :cut], x_BLH[:, cut:] + 3), dim=1)
    torch.testing.assert_close(mixer(changed)[:, :cut], mixer(x_BLH)[:, :cut], **TOLERANCE)


def test_the_state_of_all_but_attention_does_not_grow(mixer, request) -> None:
    first = mixer.initial_state(2, CPU)
    _, late = mixer.advance(signal(100), mixer.advance(signal(3), first)[1])
    grown = [(a.shape, a.dtype) != (b.shape, b.dtype) for a, b in zip(first, late, strict=True)]
    assert any(grown) == (request.node.callspec.params["mixer"] == "attention")


def test_facts_name_every_parameter(mixer, request) -> None:
    config = BackboneSection(type="any", d_model=8, num_layers=1)
    facts = LAYERS[request.node.callspec.params["mixer"]].facts(config)
    names = [name for name, _ in mixer.named_parameters()]
    assert set(match_facts(names, facts)) == set(names)
