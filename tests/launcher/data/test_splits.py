"""Sources are read whole, split by file, checked, and known again."""

import hashlib
import os
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from launcher import files
from launcher.data.batches import validation_batches, validation_windows
from launcher.data.config import DataConfig, FilesSource, Source, StdlibSource, TokensSource
from launcher.data.dataset import Windows
from launcher.data.source_table import check_sources
from launcher.data.sources import find_stdlib
from launcher.data.splits import open_splits
from launcher.errors import UserError


def config(source: Source, seq_len: int = 8, validation: float | None = None) -> DataConfig:
    return DataConfig(source=source, seq_len=seq_len, validation_fraction=validation)


def text(url: object, **changes: float) -> DataConfig:
    return config(FilesSource(type="files", url=str(url)), validation=changes.get("validation", 0.3))


def content(windows: object) -> bytes:
    assert isinstance(windows, Windows)
    return bytes(windows.tokens.read(0, len(windows.tokens)).astype(np.uint8))


def _text(number: int) -> str:
    """64 letters and digits of its own: no 8 of them are in another file (chance below 1e-6 for 20 files)."""
    return hashlib.sha256(str(number).encode()).hexdigest() + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(20):
        (tmp_path / f"part-{number % 3}").mkdir(exist_ok=True)
        (tmp_path / f"part-{number % 3}" / f"{number}.txt").write_text(_text(number))
    return tmp_path


def test_the_standard_library_is_a_corpus() -> None:
    splits = open_splits(config(StdlibSource(type="python-stdlib"), seq_len=256), 256)
    # The parts of the library that are always installed are above 4 MB in every supported version.
    assert splits.train.num_samples * 256 > 4_000_000
    assert splits.validation.num_samples > 100
    assert splits.description.startswith("python-stdlib: ")


def test_the_standard_library_has_no_tests_packages_or_machine_settings() -> None:
    names = [file.name for file in find_stdlib()]
    assert names == sorted(names)
    assert "asyncio/base_events.py" in names
    noise = ("site-packages/", "dist-packages/", "test/", "encodings/", "_sysconfigdata", "__pycache__/")
    assert not [name for name in names if name.startswith(noise) or "/tests/" in name]


def test_a_python_without_sources_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(UserError, match=r"no \*\.py files"):
        open_splits(config(StdlibSource(type="python-stdlib")), 256)


def test_every_file_is_whole_on_one_side_of_the_split(folder: Path) -> None:
    splits = open_splits(text(folder), 256)
    train, validation = content(splits.train).split(b"\0"), content(splits.validation).split(b"\0")
    assert train[-1] == validation[-1] == b""  # each file is followed by a NUL
    assert sorted(train[:-1] + validation[:-1]) == sorted(p.read_bytes() for p in folder.rglob("*.txt"))
    assert len(validation) > 1
    assert not set(train[:-1]) & set(validation[:-1])


def test_validation_windows_are_in_no_training_file(folder: Path) -> None:
    splits = open_splits(text(folder), 256)
    train = content(splits.train)
    windows = splits.validation.batch(np.arange(splits.validation.num_samples)).x.tolist()
    inside = [bytes(window) for window in windows if b"\0" not in bytes(window)]
    assert len(inside) > 10
    assert not [window for window in inside if window in train]


def test_adding_a_file_moves_none_across_the_split(folder: Path) -> None:
    before = set(content(open_splits(text(folder), 256).validation).split(b"\0"))
    (folder / "new.txt").write_text("a new file\n")
    after = set(content(open_splits(text(folder), 256).validation).split(b"\0"))
    assert before == after - {b"a new file\n"}


@pytest.mark.parametrize("pattern", ["", "/**/*.txt", "/part-*/*.txt"])
def test_folder_and_glob_read_the_same(folder: Path, pattern: str) -> None:
    assert (
        open_splits(text(f"{folder}{pattern}"), 256).fingerprint == open_splits(text(folder), 256).fingerprint
    )


def test_a_file_name_that_is_not_utf8_is_a_name(folder: Path) -> None:
    before = open_splits(text(folder), 256).fingerprint
    Path(os.fsdecode(bytes(folder) + b"/caf\xe9.txt")).write_text(_text(1))
    assert open_splits(text(folder), 256).fingerprint != before


def test_hidden_files_are_left_out(folder: Path) -> None:
    before = open_splits(text(folder), 256)
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("x")
    assert open_splits(text(folder), 256).fingerprint == before.fingerprint


def test_a_moved_corpus_is_the_same_corpus_on_any_filesystem(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    local = open_splits(text(folder), 256)
    moved = tmp_path_factory.mktemp("a") / "moved"
    root = f"memory://{tmp_path_factory.mktemp('b').name}/corpus"
    for path in folder.rglob("*.txt"):
        name = path.relative_to(folder).as_posix()
        files.write_bytes(str(moved / name), path.read_bytes())
        files.write_bytes(f"{root}/{name}", path.read_bytes())
    for place in (moved, f"file://{moved}", root, f"{root}/**/*.txt"):
        other = open_splits(text(place), 256)
        assert other.fingerprint == local.fingerprint
        assert content(other.train) == content(local.train)


def test_one_file_is_a_corpus(folder: Path) -> None:
    path = folder / "part-0" / "0.txt"
    splits = open_splits(text(path, validation=0.0), 256)
    assert content(splits.train) == path.read_bytes() + b"\0"
    assert splits.validation.num_samples == 0


def _edit(folder: Path) -> None:
    (folder / "part-0" / "0.txt").write_text(_text(0).upper())


def _rename(folder: Path) -> None:
    (folder / "part-0" / "0.txt").rename(folder / "part-0" / "renamed.txt")


def _move_bytes_between_files(folder: Path) -> None:
    (folder / "part-0" / "0.txt").write_text(_text(0)[:-1])
    (folder / "part-0" / "12.txt").write_text("\n" + _text(12))


@pytest.mark.parametrize("change", [_edit, _rename, _move_bytes_between_files])
def test_a_changed_corpus_has_another_fingerprint(folder: Path, change: object) -> None:
    before = open_splits(text(folder), 256).fingerprint
    assert open_splits(text(folder), 256).fingerprint == before
    assert callable(change)
    change(folder)
    assert open_splits(text(folder), 256).fingerprint != before


def write_tokens(path: Path, ids: list[int] | np.ndarray, dtype: str = "<u2") -> str:
    np.asarray(ids, dtype=dtype).tofile(path)
    return str(path)


def tokens(train: str, validation: str | None = None, **changes: str) -> DataConfig:
    return config(
        TokensSource.model_validate({"type": "tokens", "train": train, "validation": validation, **changes})
    )


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_token_files_are_read_as_written(tmp_path: Path, dtype: str) -> None:
    little = np.dtype(dtype).newbyteorder("<").str
    train = write_tokens(tmp_path / "train.bin", np.arange(200), little)
    validation = write_tokens(tmp_path / "held.bin", np.arange(100, 150), little)
    splits = open_splits(tokens(train, validation, dtype=dtype), 200)
    assert splits.train.batch(np.array([3])).x.tolist() == [list(range(24, 32))]
    assert splits.validation.batch(np.array([0])).y.tolist() == [list(range(101, 109))]


def test_token_files_on_a_remote_filesystem_read_alike(tmp_path: Path) -> None:
    local = write_tokens(tmp_path / "train.bin", np.arange(100))
    remote = f"memory://{tmp_path.name}/train.bin"
    files.write_bytes(remote, Path(local).read_bytes())
    assert open_splits(tokens(remote), 100).fingerprint == open_splits(tokens(local), 100).fingerprint


def test_a_large_token_file_is_mapped_and_sampled(tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    np.memmap(path, dtype="<u2", mode="w+", shape=(100_000_000,)).flush()  # sparse: 200 MB take no disk
    splits = open_splits(tokens(str(path)), 256)
    assert splits.train.num_samples == (100_000_000 - 1) // 8
    ids = np.memmap(path, dtype="<u2", mode="r+")
    ids[-1] = 300
    ids.flush()
    with pytest.raises(UserError, match="token 99999999 is 300"):
        open_splits(tokens(str(path)), 256)


def test_other_tokens_have_another_fingerprint(tmp_path: Path) -> None:
    first = open_splits(tokens(write_tokens(tmp_path / "a.bin", np.arange(100))), 256)
    second = open_splits(tokens(write_tokens(tmp_path / "b.bin", np.arange(100)[::-1].copy())), 256)
    assert first.fingerprint != second.fingerprint


def _message(data: DataConfig, vocab_size: int = 256) -> str:
    with pytest.raises(UserError) as caught:
        open_splits(data, vocab_size)
    return str(caught.value)


def test_no_files_names_the_nearest_folder(folder: Path) -> None:
    for url in (folder / "part-9" / "deep", folder / "*.md", folder / "nowhere" / "**" / "*.txt"):
        message = _message(text(url))
        assert str(url) in message
        assert f"the nearest folder that exists is {folder}, which holds part-0, part-1, part-2" in message


def test_no_files_on_a_remote_filesystem_is_an_error() -> None:
    assert "there are no files here" in _message(text("memory://none/at/all"))


def test_an_unknown_protocol_is_an_error() -> None:
    assert "nope://x" in _message(text("nope://x"))


def test_all_missing_token_files_are_named(folder: Path) -> None:
    message = _message(tokens(f"{folder}/train.bin", f"{folder}/held.bin"))
    assert f"{folder}/train.bin: there is no such file" in message
    assert f"{folder}/held.bin: there is no such file" in message


def test_a_folder_is_not_a_token_file(folder: Path) -> None:
    assert "there is no such file" in _message(tokens(str(folder)))


def test_missing_data_is_found_before_anything_is_read(folder: Path) -> None:
    check_sources(text(folder))
    with pytest.raises(UserError, match="no files here"):
        check_sources(text(folder / "nowhere"))
    with pytest.raises(UserError, match="no such file"):
        check_sources(tokens(f"{folder}/train.bin"))


def test_too_few_tokens_for_a_window(tmp_path: Path) -> None:
    message = _message(tokens(write_tokens(tmp_path / "t.bin", [1] * 8)))
    assert "data.seq_len: 8 needs 9 tokens for one window; 8 are to train on" in message
    assert "at most 7" in message
    assert "add data" in _message(tokens(write_tokens(tmp_path / "e.bin", [])))


def test_too_few_validation_tokens_for_a_window(tmp_path: Path) -> None:
    train = write_tokens(tmp_path / "t.bin", [1] * 100)
    assert "5 are to validate on" in _message(tokens(train, write_tokens(tmp_path / "h.bin", [1] * 5)))


def test_a_share_that_keeps_no_file_says_which_would(folder: Path) -> None:
    message = _message(text(folder, validation=1e-9))
    assert "data.validation_fraction: 1e-09 keeps none of 20 files" in message
    share = float(message.split("data.validation_fraction=")[1].split()[0])
    splits = open_splits(text(folder, validation=share), 256)
    assert splits.validation.num_samples > 0


def test_a_share_that_keeps_every_file_leaves_none_to_train_on(folder: Path) -> None:
    assert "leaves none to train on" in _message(text(folder, validation=0.9999999))


def test_bytes_outside_the_vocabulary(folder: Path) -> None:
    message = _message(text(folder), vocab_size=100)
    assert "holds byte 102; model.vocab_size is 100" in message
    assert "set model.vocab_size to 256" in message


def test_tokens_outside_the_vocabulary(tmp_path: Path) -> None:
    path = write_tokens(tmp_path / "t.bin", [1] * 50 + [999] + [1] * 50)
    message = _message(tokens(path))
    assert f"{path}: token 50 is 999; model.vocab_size is 256" in message
    assert "at least 1000" in message


def test_a_wrong_dtype_is_noticed_by_the_size(tmp_path: Path) -> None:
    path = write_tokens(tmp_path / "t.bin", [1] * 101, "<u1")
    assert "101 bytes are not a whole number of uint16 tokens" in _message(tokens(path))


GENERATED: list[tuple[dict[str, object], int]] = [
    ({"type": "listops", "min_length": 10}, 16),
    ({"type": "copying"}, 10),
    ({"type": "associative-recall"}, 65),
]


@pytest.mark.parametrize(("source", "vocab_size"), GENERATED)
def test_a_generated_source_opens_and_needs_its_symbols(source: dict[str, object], vocab_size: int) -> None:
    data = DataConfig.model_validate({"source": source, "seq_len": 64})
    splits = open_splits(data, vocab_size)
    x = splits.train.batch(np.arange(64)).x
    assert x.shape == (64, 64)
    assert int(x.max()) == vocab_size - 1
    message = _message(data, vocab_size - 1)
    assert f"model.vocab_size: {vocab_size - 1} is too few" in message
    assert f"set it to at least {vocab_size}" in message


@pytest.mark.parametrize(("source", "vocab_size"), GENERATED)
def test_another_seed_is_another_data_set(source: dict[str, object], vocab_size: int) -> None:
    prints = {
        open_splits(
            DataConfig.model_validate({"source": {**source, "seed": seed}, "seq_len": 64}), vocab_size
        ).fingerprint
        for seed in (0, 0, 1)
    }
    assert len(prints) == 2


def test_signals_and_tokens_need_a_model_that_takes_them() -> None:
    digits = DataConfig.model_validate({"source": {"type": "digits"}, "seq_len": 64})
    with pytest.raises(UserError, match="`digits` gives signals; the model embeds tokens"):
        open_splits(digits, 256)
    with pytest.raises(UserError, match="`copying` gives tokens; the model takes signals"):
        open_splits(DataConfig.model_validate({"source": {"type": "copying"}, "seq_len": 64}), None)


def test_digits_open_as_a_corpus() -> None:
    pytest.importorskip("sklearn")
    splits = open_splits(DataConfig.model_validate({"source": {"type": "digits"}, "seq_len": 64}), None)
    assert splits.train.num_samples + splits.validation.num_samples == 1797
    chosen = validation_windows(splits.validation, 3)
    (batch,) = validation_batches(splits.validation, chosen, micro_batch_size=4, rank=0, world_size=1)
    assert (batch.y == -100).tolist() == [False, False, False, True]
