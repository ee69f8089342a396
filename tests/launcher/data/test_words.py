"""Words are cut by one rule, numbered by how often they come, and read by number or by their characters."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from launcher.data.config import NUM_CHARS, DataConfig
from launcher.data.dataset import Splits
from launcher.data.splits import open_splits
from launcher.data.words import UNKNOWN, Vocabulary, WordWindows, cut, join, number_words, spell


def config(folder: Path, seq_len: int = 4, validation: float = 0.0) -> DataConfig:
    source = {"type": "files", "url": str(folder), "unit": "words"}
    return DataConfig.model_validate(
        {"source": source, "seq_len": seq_len, "validation_fraction": validation}
    )


def windows(samples: object) -> WordWindows:
    assert isinstance(samples, WordWindows)
    return samples


def opened(
    folder: Path, vocab_size: int = 100, max_chars: int | None = None, validation: float = 0.0
) -> Splits:
    return open_splits(config(folder, validation=validation), vocab_size, max_chars)


def all_of(samples: WordWindows) -> tuple[torch.Tensor, torch.Tensor]:
    batch = samples.batch(np.arange(samples.num_samples))
    return batch.x, batch.y


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_bytes(b"the cat saw the dog\nthe end")
    (tmp_path / "b.txt").write_bytes("café_1 = 12.5 the cat".encode())
    return tmp_path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", []),
        (b" \t\r\n ", [b"\n"]),
        (b"f(x1):\n    -x**2\n", [b"f", b"(", b"x1", b")", b":", b"\n", b"-", b"x", b"*", b"*", b"2", b"\n"]),
        (b"__all__ 3x 0x1F 1_000", [b"__all__", b"3", b"x", b"0", b"x1F", b"1", b"_000"]),
        ("naïve “Ω”".encode(), ["naïve".encode(), "“Ω”".encode()]),
        (b"a\0b\xff", [b"a", b"\0", b"b\xff"]),
    ],
)  # fmt: skip
def test_text_is_cut_by_one_rule(text: bytes, words: list[bytes]) -> None:
    assert cut(text) == words


def test_every_byte_but_blanks_is_in_some_word() -> None:
    text = bytes(range(256)) * 2
    assert b"".join(cut(text)) == bytes(byte for byte in text if byte not in b" \t\r\v\f")


def test_words_join_to_text_that_is_cut_into_them_again() -> None:
    words = cut(b"if x:\n\n    y = f(x, 'a')\n# na\xc3\xafve")
    assert join(words) == "if x :\n\ny = f ( x , ' a ' )\n# naïve"
    assert cut(join(words).encode()) == words


def test_characters_are_bytes_from_one_on_and_zero_is_none() -> None:
    chars = spell([b"abc", b"\0", "é".encode(), b"", b"abcdef"], 4)
    assert chars.tolist() == [
        [98, 99, 100, 0],
        [1, 0, 0, 0],
        [196, 170, 0, 0],
        [0, 0, 0, 0],
        [98, 99, 100, 101],
    ]
    assert spell([b"\xff"], 1).max() == NUM_CHARS - 1


def test_words_are_numbered_by_how_often_training_files_have_them() -> None:
    words, train, validation = number_words([b"b a b c a b", b"\0"], [b"z b y", b"\0"])
    assert words == [UNKNOWN, b"\0", b"b", b"a", b"c", b"y", b"z"]
    assert train.tolist() == [2, 3, 2, 4, 3, 2, 1]
    assert validation.tolist() == [6, 2, 5, 1]


def test_without_validation_files_there_is_an_empty_stream() -> None:
    _, train, validation = number_words([b"a", b"\0"], [])
    assert (len(train), len(validation)) == (2, 0)


def test_windows_are_contiguous_and_predict_the_next_word(folder: Path) -> None:
    samples = windows(opened(folder).train)
    x, y = all_of(samples)
    stream = cut(b"the cat saw the dog\nthe end") + [b"\0"] + cut("café_1 = 12.5 the cat".encode()) + [b"\0"]
    assert [samples.vocabulary.words[place] for place in x.flatten()] == stream[: x.numel()]
    assert [samples.vocabulary.words[place] for place in y.flatten()] == stream[1 : 1 + y.numel()]


def test_the_vocabulary_is_the_most_frequent_words_and_the_rest_is_unknown(folder: Path) -> None:
    vocabulary = windows(opened(folder, vocab_size=5).train).vocabulary
    # `the` four times, `cat` twice, and of those that come once the first by its bytes
    assert vocabulary.words[: vocabulary.num_known] == [UNKNOWN, b"\0", b"the", b"cat", b"\n"]
    _, y = all_of(windows(opened(folder, vocab_size=5).train))
    _, all_y = all_of(windows(opened(folder).train))
    assert torch.equal(y, torch.where(all_y < 5, all_y, 0))
    assert (y == 0).any()


def test_unknown_words_keep_their_characters(folder: Path) -> None:
    x, y = all_of(windows(opened(folder, vocab_size=3, max_chars=5).train))
    _, all_y = all_of(windows(opened(folder).train))
    words = windows(opened(folder).train).vocabulary.words
    assert x.shape == (*y.shape, 5)
    assert x.dtype == y.dtype == torch.int64
    said = [words[place] for place in all_y.flatten()]
    assert torch.equal(x.flatten(0, 1)[1:], torch.from_numpy(spell(said[:-1], 5)).long())
    assert int(y.max()) == 2


def test_validation_files_make_no_vocabulary(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text(f"own{number} shared word\n")
    splits = opened(tmp_path, validation=0.3)
    vocabulary = windows(splits.validation).vocabulary
    assert vocabulary is windows(splits.train).vocabulary
    counts = Counter(vocabulary.words[place] for place in windows(splits.train).windows.tokens.read(0, 4))
    assert counts
    trained = windows(splits.train).windows.tokens
    last = int(trained.read(0, len(trained)).max())
    assert last < len(vocabulary.words) - 1, "words that only validation files have come after all others"


def test_the_fingerprint_knows_text_vocabulary_and_characters(folder: Path) -> None:
    before = opened(folder).fingerprint
    assert opened(folder).fingerprint == before
    byte_source = {"type": "files", "url": str(folder)}
    as_bytes = DataConfig.model_validate({"source": byte_source, "seq_len": 4, "validation_fraction": 0.0})
    others = {
        opened(folder, vocab_size=5).fingerprint,
        opened(folder, max_chars=4).fingerprint,
        open_splits(as_bytes, 256).fingerprint,
    }
    (folder / "b.txt").write_bytes(b"the the the")
    others.add(opened(folder).fingerprint)
    assert len(others | {before}) == 5


def test_a_larger_vocabulary_than_there_are_words_is_fine(folder: Path) -> None:
    splits = opened(folder, vocab_size=1000)
    vocabulary = windows(splits.train).vocabulary
    assert vocabulary.num_known == len(vocabulary.words)
    assert (
        f"{len(vocabulary.words)} of {len(vocabulary.words)} different words have a number"
        in splits.description
    )


def test_any_text_can_be_read() -> None:
    words = [UNKNOWN, b"\0", b"the", b"cat"]
    by_number = Vocabulary(words, vocab_size=3, max_chars=None)
    assert by_number.read(b"the cat sat").tolist() == [2, 0, 0]
    by_chars = Vocabulary(words, vocab_size=3, max_chars=4)
    assert by_chars.read(b"the cat sat").tolist() == spell([b"the", b"cat", b"sat"], 4).tolist()
    assert by_chars.read(b"").shape == (0, 4)
    assert by_number.read(b"").shape == (0,)


def test_the_most_frequent_word_is_the_baseline(folder: Path) -> None:
    samples = windows(opened(folder).train)
    _, y = all_of(samples)
    indices = np.arange(samples.num_samples)
    most = max(Counter(y.flatten().tolist()).values())
    assert samples.baselines(indices) == {"most frequent word": most / y.numel()}
    assert samples.baselines(indices[:0]) == {"most frequent word": 0.0}


def test_the_standard_library_by_words() -> None:
    source = {"type": "python-stdlib", "unit": "words"}
    data = DataConfig.model_validate({"source": source, "seq_len": 64})
    splits = open_splits(data, 4096, 8)
    # Above a million words in the parts that are always installed, of which a model with 4096 knows most.
    assert splits.train.num_samples * 64 > 1_000_000
    batch = splits.validation.batch(np.arange(100))
    assert batch.x.shape == (100, 64, 8)
    assert float((batch.y == 0).float().mean()) < 0.2
