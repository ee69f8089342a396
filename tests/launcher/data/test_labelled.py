"""Labelled sequences from NumPy files: read as they are, checked before training, known again."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from launcher import files
from launcher.data.config import DataConfig
from launcher.data.source_table import check_sources
from launcher.data.splits import open_splits
from launcher.errors import UserError

EMPTY = np.zeros(0, int)


def write(folder: Path, **arrays: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def config(train: object, validation: object = None, seq_len: int = 4, **changes: object) -> DataConfig:
    source = {"type": "labelled", "train": str(train), "validation": validation and str(validation)}
    return DataConfig.model_validate({"source": source | {"num_classes": 3} | changes, "seq_len": seq_len})


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    x = np.arange(20, dtype=np.uint16).reshape(5, 4) % 7
    return write(tmp_path / "tokens", x=x, y=np.array([0, 1, 2, 1, 1]), lengths=np.array([4, 1, 2, 3, 4]))


def test_tokens_labels_and_lengths_are_those_of_the_files(tokens: Path) -> None:
    splits = open_splits(config(tokens, tokens, vocab_size=7), 7)
    batch = splits.train.batch(np.array([3, 1]))
    assert batch.x.tolist() == [[5, 6, 0, 1], [4, 5, 6, 0]]
    assert batch.x.dtype == batch.y.dtype == torch.int64
    assert batch.y.tolist() == [1, 1]
    assert batch.lengths is not None
    assert batch.lengths.tolist() == [3, 1]
    assert splits.validation.num_samples == 5
    assert splits.validation.baselines(np.arange(5)) == {"most frequent class": 3 / 5}


def test_bytes_become_signals_from_minus_one_to_one(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", x=np.array([[0, 51, 204, 255]], np.uint8), y=np.array([2]))
    batch = open_splits(config(folder, num_features=1), None).train.batch(np.array([0]))
    torch.testing.assert_close(batch.x, torch.tensor([[[-1.0], [-0.6], [0.6], [1.0]]]))
    assert batch.lengths is None


def test_signals_of_several_features_are_taken_as_they_are(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32)
    folder = write(tmp_path / "a", x=x, y=np.array([2, 0, 1]))
    splits = open_splits(config(folder, num_features=2), None)
    assert torch.equal(splits.train.batch(np.arange(3)).x, torch.from_numpy(x))
    assert splits.validation.num_samples == 0


def test_remote_files_are_read_too(tokens: Path) -> None:
    for name in ("x.npy", "y.npy", "lengths.npy"):
        files.write_bytes(f"memory://labelled/{name}", (tokens / name).read_bytes())
    local = open_splits(config(tokens, vocab_size=7), 7)
    remote = open_splits(config("memory://labelled", vocab_size=7), 7)
    assert remote.fingerprint == local.fingerprint


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    x = np.arange(24, dtype=np.uint8).reshape(3, 2, 4) % 7
    return write(tmp_path / "pairs", x=x, y=np.array([0, 1, 2]), lengths=np.array([[4, 1], [2, 3], [4, 4]]))


def test_pairs_are_two_sequences_with_a_length_each(pairs: Path) -> None:
    splits = open_splits(config(pairs, pairs, vocab_size=7, num_sequences=2), 7)
    batch = splits.train.batch(np.array([1, 0]))
    assert batch.x.tolist() == [[[1, 2, 3, 4], [5, 6, 0, 1]], [[0, 1, 2, 3], [4, 5, 6, 0]]]
    assert batch.y.tolist() == [1, 0]
    assert batch.lengths is not None
    assert batch.lengths.tolist() == [[2, 3], [4, 1]]
    assert "3 pairs to train on" in splits.description
    write(pairs, lengths=np.array([[4, 1], [2, 3], [4, 3]]))
    assert open_splits(config(pairs, pairs, vocab_size=7, num_sequences=2), 7).fingerprint != (
        splits.fingerprint
    )


def test_pairs_of_signals_may_leave_out_their_one_feature(tmp_path: Path) -> None:
    x = np.zeros((3, 2, 4), np.float32)
    folder = write(tmp_path / "a", x=x, y=np.array([2, 0, 1]))
    splits = open_splits(config(folder, num_features=1, num_sequences=2), None)
    assert splits.train.batch(np.arange(3)).x.shape == (3, 2, 4, 1)
    write(folder, x=np.zeros((3, 2, 4, 5), np.float32))
    splits = open_splits(config(folder, num_features=5, num_sequences=2), None)
    assert splits.train.batch(np.arange(3)).x.shape == (3, 2, 4, 5)


def test_words_are_their_characters(tmp_path: Path) -> None:
    x = np.arange(5 * 4 * 3, dtype=np.int16).reshape(5, 4, 3) % 11
    folder = write(tmp_path / "words", x=x, y=np.array([0, 1, 2, 1, 1]))
    batch = open_splits(config(folder, num_chars=11), None, 3).train.batch(np.array([2]))
    assert batch.x.tolist() == x[2:3].tolist()
    with pytest.raises(UserError, match=r"x.npy: is int16 \(5, 4, 3\).*\n.*use integers \(S, 4, 6\)"):
        open_splits(config(folder, num_chars=11), None, 6)
    with pytest.raises(UserError, match="has character 10; data.source.num_chars is 10"):
        open_splits(config(folder, num_chars=10), None, 3)


@pytest.mark.parametrize(
    ("arrays", "fragments"),
    [
        ({"x": np.zeros((3, 4), int)}, ("x.npy: is int64 (3, 4)", "integers (S, 2, 4)")),
        ({"x": np.zeros((3, 2, 5), int)}, ("x.npy: is int64 (3, 2, 5)", "integers (S, 2, 4)")),
        ({"lengths": np.array([4, 4, 4])}, ("lengths.npy: is int64 (3,); x.npy has 3 pairs", "(3, 2)")),
        ({"lengths": np.array([[4, 4], [4, 0], [4, 4]])}, ("spans 0 to 4; allowed are 1 to 4",)),
        ({"y": np.zeros((3, 2), int)}, ("y.npy: is int64 (3, 2); x.npy has 3 pairs", "integers (3,)")),
    ],
)
def test_pairs_that_do_not_fit_are_refused(
    pairs: Path, arrays: dict[str, Any], fragments: tuple[str, ...]
) -> None:
    write(pairs, **arrays)
    with pytest.raises(UserError) as caught:
        open_splits(config(pairs, vocab_size=7, num_sequences=2), 7)
    said = "\n".join(str(problem) for problem in caught.value.problems)
    for fragment in fragments:
        assert fragment in said


def test_other_data_have_another_fingerprint(tokens: Path) -> None:
    before = open_splits(config(tokens, vocab_size=7), 7).fingerprint
    write(tokens, y=np.array([0, 1, 2, 1, 2]))
    assert open_splits(config(tokens, vocab_size=7), 7).fingerprint != before


@pytest.mark.parametrize(
    ("arrays", "fragments"),
    [
        ({"x": np.zeros((5, 3), int)}, ("x.npy: is int64 (5, 3); data.seq_len is 4", "integers (S, 4)")),
        ({"x": np.zeros((5, 4))}, ("is float64", "integers (S, 4)")),
        ({"x": EMPTY[:, None].repeat(4, 1), "y": EMPTY, "lengths": EMPTY}, ("no sequences",)),
        ({"y": np.zeros(4, int)}, ("y.npy: is int64 (4,); x.npy has 5 sequences",)),
        ({"y": np.full(5, 3)}, ("spans 3 to 3; allowed are 0 to 2", "data.source.num_classes")),
        ({"lengths": np.array([0, 1, 5, 4, 4])}, ("spans 0 to 5; allowed are 1 to 4", "data.seq_len")),
        ({"x": np.full((5, 4), 7)}, ("has token 7; data.source.vocab_size is 7", "at least 8")),
        ({"x": np.full((5, 4), -1)}, ("has token -1", "use ids from 0")),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_refused(
    tokens: Path, arrays: dict[str, Any], fragments: tuple[str, ...]
) -> None:
    write(tokens, **arrays)
    with pytest.raises(UserError) as caught:
        open_splits(config(tokens, vocab_size=7), 7)
    said = "\n".join(str(problem) for problem in caught.value.problems)
    for fragment in fragments:
        assert fragment in said


def test_a_pickle_is_not_executed(tokens: Path) -> None:
    (tokens / "x.npy").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="cannot be read"):
        open_splits(config(tokens, vocab_size=7), 7)


def test_missing_files_are_told_before_anything_starts(tmp_path: Path, tokens: Path) -> None:
    with pytest.raises(UserError, match="nowhere/x.npy"):
        check_sources(config(tokens, tmp_path / "nowhere", vocab_size=7))


@pytest.mark.parametrize(
    "sizes", [{}, {"vocab_size": 7, "num_features": 7}, {"vocab_size": 7, "num_chars": 7}]
)
def test_tokens_words_or_signals_must_be_said(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="first for tokens, the second for words or the third for signals"):
        config("x", **sizes)
