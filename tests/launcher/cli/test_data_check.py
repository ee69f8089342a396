"""Wrong data are found before a run folder is written."""

from pathlib import Path

import numpy as np
import pytest

from tests.launch import assert_one_screen, launch
from tests.small_run import RECIPE

TOKENS = RECIPE.replace("{type: python-stdlib}", "{type: tokens, train: train.bin, validation: other.bin}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of ids below 200, and the same in other kinds."""
    draw = np.random.default_rng(0)
    ids = draw.integers(0, 200, 5000)
    ids.astype("<u2").tofile(tmp_path / "train.bin")
    draw.integers(0, 200, 500).astype("<u2").tofile(tmp_path / "other.bin")
    ids.astype("<u4").tofile(tmp_path / "wide.bin")
    np.save(tmp_path / "array.npy", ids)
    (tmp_path / "odd.bin").write_bytes(b"\1\0\2\0\3")
    (tmp_path / "empty.bin").touch()
    (tmp_path / "link.bin").symlink_to("train.bin")
    (tmp_path / "text.txt").write_text("words " * 1000)
    (tmp_path / "small.yaml").write_text(TOKENS)
    return tmp_path


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.source.train=wide.bin", "every second id is 0 when read as uint16"),
        ("data.source.train=array.npy", "is a NumPy array (.npy), not bare token ids"),
        ("data.source.train=text.txt", "is text, not bare token ids"),
        ("data.source.train=odd.bin", "5 bytes are not a whole number of uint16 tokens"),
        ("data.source.train=empty.bin", "0 are to train on"),
        ("data.source.train=gone.bin", "there is no such file"),
        ("data.source.validation=link.bin", "leads to what is trained on"),
        ("model.vocab_size=100", "model.vocab_size is 100"),
        ("data.seq_len=4000", "4000 needs 4001 tokens for one window"),
    ],
)
def test_a_wrong_token_file_is_refused_and_nothing_is_left(folder: Path, override: str, message: str) -> None:
    done = launch("small.yaml", override, "--run-dir", "run", folder=folder)
    assert_one_screen(done)
    assert message in done.stderr
    assert not (folder / "run").exists()


def test_labelled_data_of_the_wrong_kind_are_refused(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        (tmp_path / split).mkdir()
        np.save(tmp_path / split / "x.npy", np.zeros((4, 32), np.int64))
        np.save(tmp_path / split / "y.npy", np.array([0, 1, 2, 9]))
    source = "{type: labelled, train: train, validation: validation, num_classes: 3, vocab_size: 8}"
    recipe = RECIPE.replace("{type: python-stdlib}", source)
    recipe = recipe.replace(
        "type: lm\n", "type: classifier\n  num_classes: 3\n  encoder: {type: token}\n"
    ).replace("256", "8")
    (tmp_path / "small.yaml").write_text(recipe)
    done = launch("small.yaml", "--run-dir", "run", folder=tmp_path)
    assert_one_screen(done)
    assert "9" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text " * 100, "is UTF-16, not text in UTF-8"),
        ("\ufefftext " * 100, "is UTF-16, not text in UTF-8"),
        (b"\x1f\x8b\x08\x00", "is gzip, not text in UTF-8"),
        (b"PAR1" + b"x" * 100, "is Parquet, not text in UTF-8"),
        (b"%PDF-1.7", "is PDF, not text in UTF-8"),
    ],
)
def test_files_of_another_kind_than_text_are_named_before_anything_is_queued(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    for number in range(20):
        (tmp_path / f"{number:02}.txt").write_text("words " * 500)
    wrong = content if isinstance(content, bytes) else content.encode("utf-16-le")
    (tmp_path / "07.txt").write_bytes(wrong)
    (tmp_path / "small.yaml").write_text(
        RECIPE.replace("{type: python-stdlib}", "{type: files, url: '*.txt'}")
    )
    done = launch("small.yaml", "data.validation_fraction=0.2", "--run-dir", "run", folder=tmp_path)
    assert_one_screen(done)
    assert message in done.stderr
    assert "07.txt" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_split_that_keeps_nothing_is_refused_before_anything_is_queued(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("words " * 500)
    (tmp_path / "small.yaml").write_text(
        RECIPE.replace("{type: python-stdlib}", "{type: files, url: '*.txt'}")
    )
    done = launch("small.yaml", "data.validation_fraction=0.01", "--run-dir", "run", folder=tmp_path)
    assert_one_screen(done)
    assert "data.validation_fraction" in done.stderr
    assert not (tmp_path / "run").exists()
