"""Documents that share a row are computed as if each were alone, by every kind of layer that claims it."""

import pytest
import torch

from models.build_model import build_model
from models.config import KEEP_APART, LMConfig
from models.documents import Documents, join_rows, lay_out, lengths_of
from models.facts import Multipliers

LENGTHS = [[70, 1, 57], [128], [3, 5, 2, 118], [64, 64]]
# Logits of about 1 in float64; angles of rotary positions are made in float32, where 128 has steps of 2^-17.
TOLERANCE = dict.fromkeys(KEEP_APART, 1e-10) | {"attention": 2.0**-17}
OPTIONS = {
    "s4d": {"d_state": 8},
    "s4": {"d_state": 8},
    "dss": {"d_state": 8},
    "attention": {"d_head": 8},
    "ssd": {"d_state": 4, "d_head": 8, "heads_per_group": 1},
    "ffn": {"expand": 2},
}


def build(kind: str) -> torch.nn.Module:
    config = LMConfig.model_validate(
        {
            "type": "lm",
            "vocab_size": 50,
            "d_model": 16,
            "num_layers": 2,
            "pattern": (kind,),
            kind: OPTIONS[kind],
        }
    )
    torch.manual_seed(0)
    model = build_model(config, Multipliers())
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.double()


@pytest.mark.parametrize("kind", sorted(KEEP_APART))
def test_logits_and_gradients_of_a_document_are_those_it_has_alone(kind: str) -> None:
    model = build(kind)
    tokens_BL = torch.randint(0, 50, (len(LENGTHS), 128), generator=torch.Generator().manual_seed(1))
    logits_BLV = model(tokens_BL, documents=lay_out(LENGTHS))
    logits_BLV.square().sum().backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for row, of_row in enumerate(LENGTHS):
        at = 0
        for count in of_row:
            alone = model(tokens_BL[row : row + 1, at : at + count])
            torch.testing.assert_close(
                logits_BLV[row, at : at + count], alone[0], rtol=0, atol=TOLERANCE[kind]
            )
            alone.square().sum().backward()
            at += count
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            together[name], parameter.grad, rtol=0, atol=1e3 * TOLERANCE[kind], msg=name
        )


@pytest.mark.parametrize("kind", sorted(KEEP_APART))
def test_a_token_does_not_depend_on_the_document_before_it(kind: str) -> None:
    model, documents = build(kind), lay_out([[40, 88]])
    tokens_BL = torch.randint(0, 50, (1, 128), generator=torch.Generator().manual_seed(1))
    other_BL = tokens_BL.clone()
    other_BL[:, :40] = (other_BL[:, :40] + 1) % 50
    one, two = model(tokens_BL, documents=documents), model(other_BL, documents=documents)
    # To the last digit: nothing of the one takes part in the other, in attention but for sums of zeros.
    assert torch.equal(one[:, 40:], two[:, 40:])
    assert not torch.allclose(one[:, :40], two[:, :40])
    if kind != "ffn":
        assert not torch.allclose(model(tokens_BL)[:, 40:], model(other_BL)[:, 40:])


def test_every_position_is_in_one_group_and_groups_are_as_many_whatever_the_lengths() -> None:
    for lengths in (LENGTHS, [[128]] * 4, [[1] * 128] * 4):
        documents = lay_out(lengths)
        assert [group.shape[1] for group in documents.groups] == [128, 64]
        flat = torch.cat([group.flatten() for group in documents.groups])
        assert flat[documents.back.flatten()].tolist() == list(range(4 * 128))
        assert lengths_of(documents) == lengths
        # Each group but that of the shortest holds documents of more than half its length.
        padded = sum(group.numel() for group in documents.groups[:-1] if group.shape[0] > 1)
        assert padded <= 2 * 4 * 128


def test_what_a_layout_costs_is_bounded() -> None:
    lengths = [[65] * 15 + [49]] * 4
    documents = lay_out(lengths)
    assert sum(group.numel() for group in documents.groups) <= 2 * 4 * 1024 + 1024 + 512 + 256


def test_rows_of_two_layouts_are_joined_in_any_order() -> None:
    first, second = lay_out(LENGTHS[:2]), lay_out(LENGTHS[2:])
    joined = join_rows([first, second], torch.tensor([2, 0, 3, 1]))
    expected = lay_out([LENGTHS[2], LENGTHS[0], LENGTHS[3], LENGTHS[1]])
    assert torch.equal(joined.numbers, expected.numbers)
    assert torch.equal(joined.back, expected.back)


def test_rows_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="row 1 has 5 positions, and the first 6"):
        lay_out([[6], [2, 3]])


def test_positions_see_their_own_document_up_to_themselves() -> None:
    documents = lay_out([[2, 1]])
    assert isinstance(documents, Documents)
    assert documents.visible()[0].int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
