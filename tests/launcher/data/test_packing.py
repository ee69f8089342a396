"""Documents are packed whole where they fit, every target once, and any row is found at once."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.data.config import DataConfig, DatasetSource
from launcher.data.dataset import Tokens
from launcher.data.packing import HORIZON, Ends, PackedDocuments, cut_documents, pack
from launcher.data.splits import open_splits
from models.loss import IGNORED
from tests.launcher.corpus.corpora import made, texts, write_lines

LENGTHS = st.lists(st.one_of(st.integers(2, 30), st.integers(30, 700)), min_size=1, max_size=120)


def packed(lengths: list[int], seq_len: int, shards: int = 1) -> PackedDocuments:
    """Documents whose ids are their own positions in the stream."""
    parts = [part for part in np.array_split(np.array(lengths), shards) if len(part)]
    ends = Ends([(int(part.sum()), np.cumsum(part)) for part in parts])
    total = sum(lengths)
    tokens = Tokens(np.arange(total), vocab_size=total, place="here")
    return PackedDocuments(tokens, ends, seq_len, fill=0)


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.sampled_from([4, 16, 33]), st.integers(1, 4))
def test_every_token_of_a_document_but_its_first_is_a_target_once(
    lengths: list[int], seq_len: int, shards: int
) -> None:
    samples = packed(lengths, seq_len, shards)
    batch = samples.batch(np.arange(samples.num_samples))
    counted = batch.y != IGNORED
    # Ids are places: each target is one after its input, and every place but the first of a document is one.
    assert (batch.y[counted] == batch.x[counted] + 1).all()
    begins = {0, *np.cumsum(lengths).tolist()}
    expected = [place for place in range(sum(lengths)) if place not in begins]
    assert sorted(batch.y[counted].tolist()) == expected


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.sampled_from([8, 33]))
def test_positions_of_a_row_see_one_piece_of_one_document(lengths: list[int], seq_len: int) -> None:
    samples = packed(lengths, seq_len)
    batch = samples.batch(np.arange(samples.num_samples))
    assert batch.documents is not None
    number_BL = batch.documents.numbers
    document_of = np.repeat(np.arange(len(lengths)), lengths)
    for row in range(samples.num_samples):
        for number in range(int(number_BL[row].max()) + 1):
            inside = number_BL[row] == number
            x, y = batch.x[row][inside], batch.y[row][inside]
            if (y == IGNORED).any():
                assert (y == IGNORED).all()
                continue
            assert (x[1:] == x[:-1] + 1).all(), "one piece is consecutive"
            assert len(set(document_of[[*x.tolist(), *y.tolist()]])) == 1


def test_documents_that_fit_are_cut_only_where_rows_run_out() -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(2, 129, 20_000).tolist()
    samples = packed(lengths, 128)
    pieces = [piece for row in range(samples.num_samples) for piece in samples.pieces(row)]
    assert len(pieces) < 1.01 * len(lengths)
    filled = sum(count for _, count in pieces) / (samples.num_samples * 128)
    assert filled > 0.97, "257 rows for what would fill 256, and a token in each document predicts nothing"


def test_pieces_too_many_for_their_rows_are_cut_into_the_gaps() -> None:
    pieces = [(100 * number, 60) for number in range(6)]
    rows = pack(pieces, num_rows=4, length=100)
    assert sum(count for row in rows for _, count in row) == 360
    assert all(sum(count for _, count in row) <= 100 for row in rows)
    covered = sorted(place for row in rows for begin, count in row for place in range(begin, begin + count))
    assert covered == sorted(place for begin, count in pieces for place in range(begin, begin + count))
    assert sum(len(row) for row in rows) > len(pieces)


def test_a_long_document_is_cut_at_the_same_places_from_any_stretch() -> None:
    document = [(10, 1000)]
    whole = cut_documents(document, 0, 2000, 64)
    parts = [
        piece for first in range(0, 2000, 100) for piece in cut_documents(document, first, first + 100, 64)
    ]
    assert parts == whole
    assert whole[0] == (10, 64)
    assert sum(count for _, count in whole) == 989


def test_ends_of_shards_are_found_as_by_looking_at_all(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 50, 300)
    parts = np.split(lengths, [0, 7, 120, 120, 299])
    ends = Ends([(int(part.sum()), np.cumsum(part)) for part in parts])
    after = np.cumsum(lengths)
    begins = after - lengths
    for first in range(0, int(after[-1]), 37):
        last = first + int(generator.integers(1, 200))
        expected = [
            (b, e) for b, e in zip(begins.tolist(), after.tolist(), strict=True) if b < last and e > first
        ]
        assert ends.between(first, last) == expected


@pytest.mark.parametrize("separate", [True, False])
def test_a_data_set_is_read_either_way(tmp_path: Path, separate: bool) -> None:
    found = texts(300)
    made(tmp_path / "out", write_lines(tmp_path / "a.jsonl", [{"text": text} for text in found]))
    config = DataConfig(
        source=DatasetSource(type="dataset", path=str(tmp_path / "out")),
        seq_len=64,
        documents="separate" if separate else "joined",
    )
    train = open_splits(config, 256).train
    batch = train.batch(np.arange(train.num_samples))
    counted = batch.y[batch.y != IGNORED]
    size = sum(len(text.encode()) for text in found)
    if separate:
        # The end of a text is a target, and its first byte is not.
        assert len(counted) == size
        assert isinstance(train, PackedDocuments)
        assert train.text_bytes(np.arange(train.num_samples)) == size
        assert train.num_samples <= (size // 64 // HORIZON + 1) * (HORIZON + 1)
    else:
        assert batch.documents is None
