"""The generation benchmark runs, and what it measures has a state that does not grow."""

import pytest
import torch

from benchmarks.generation import KINDS, main, make_model
from models.config import LayerName


def test_the_table_has_every_kind_at_every_position(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        main(["--d-model", "128", "--layers", "1", "--positions", "2", "5"])
    finally:
        torch.set_num_threads(threads)
    rows = [line.split("|")[1:3] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [(kind.strip(), position.strip()) for kind, position in rows[1:]] == [
        (kind, position) for kind in KINDS for position in ("2", "5")
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_only_attention_keeps_more_the_longer_it_speaks(kind: LayerName) -> None:
    model = make_model(kind, 128, 1)
    sizes = []
    for length in (3, 50):
        _, states = model(
            torch.zeros(1, length, dtype=torch.int64), model.initial_states(1, torch.device("cpu"))
        )
        sizes.append(sum(tensor.numel() for state in states for tensor in state))
    assert (sizes[1] > sizes[0]) == (kind == "attention")
