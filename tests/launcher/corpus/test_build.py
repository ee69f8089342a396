"""Building a data set: every format alike, any number of workers, after any kill, and bad input named."""

import fcntl
import gzip
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.corpus.unit import is_validation
from launcher.data.text_tokenizer import FileTokenizer, train_bpe
from launcher.data.token_set import read_token_set
from launcher.errors import UserError
from tests.launcher.corpus.corpora import (
    as_bytes,
    content,
    made,
    request,
    stream,
    texts,
    write_lines,
    write_parquet,
)

FOUND = texts(60)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(train_bpe(iter(FOUND), 400))
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.ndjson"])
def test_lines_become_documents_in_their_order(tmp_path: Path, name: str) -> None:
    source = write_lines(tmp_path / name, [{"text": text} for text in FOUND])
    done = made(tmp_path / "out", source)
    assert stream(tmp_path / "out") == as_bytes(FOUND)
    assert (done.rows.read, done.rows.kept, done.rows.bad) == (60, 60, 0)


def test_parquet_and_text_become_the_same_documents(tmp_path: Path) -> None:
    made(tmp_path / "parquet", write_parquet(tmp_path / "a.parquet", FOUND))
    folder = tmp_path / "text"
    folder.mkdir()
    for number, text in enumerate(FOUND):
        (folder / f"{number:03}.txt").write_text(text)
    (folder / "sub").mkdir()
    made(tmp_path / "texts", folder)
    assert stream(tmp_path / "parquet") == stream(tmp_path / "texts") == as_bytes(FOUND)


def test_the_index_says_where_each_document_ends(tmp_path: Path) -> None:
    done = made(tmp_path / "out", write_lines(tmp_path / "a.jsonl", [{"text": text} for text in FOUND]))
    (shard,) = done.splits["train"].shards
    ends = [
        int.from_bytes(e, "little") for e in _cut((tmp_path / "out" / f"{shard.name}.idx").read_bytes(), 8)
    ]
    tokens = bytes(stream(tmp_path / "out"))
    assert [tokens[a:b] for a, b in zip([0, *ends], ends, strict=False)] == [
        t.encode() + b"\0" for t in FOUND
    ]


def _cut(found: bytes, size: int) -> list[bytes]:
    return [found[at : at + size] for at in range(0, len(found), size)]


def test_ids_equal_the_tokenizers_own_one_by_one(tmp_path: Path, tokenizer: Path) -> None:
    special = ["text with <|endoftext|> inside", "Ｆｕｌｌ ⅷ", *FOUND]
    done = made(
        tmp_path / "out",
        write_lines(tmp_path / "a.jsonl", [{"text": t} for t in special]),
        tokenizer=str(tokenizer),
    )
    one = FileTokenizer.open(str(tokenizer))
    expected = [number for text in special for number in [*one.encode([text])[0].tolist(), one.end_of_text]]
    assert stream(tmp_path / "out") == expected
    assert expected.count(one.end_of_text) == len(special), "a text must not end where it spells the end"
    assert (done.dtype, done.tokenizer.vocab_size) == ("uint16", one.vocab_size)


def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.corpus.raw_files._LEAST", 2000)
    monkeypatch.setattr("launcher.corpus.raw_files._UNITS", 10**9)


def test_large_files_are_cut_and_nothing_is_lost_or_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_units(monkeypatch)
    rows = [{"text": text} for text in FOUND]
    done = made(tmp_path / "lines", write_lines(tmp_path / "a.jsonl", rows))
    assert len(done.splits["train"].shards) > 5
    assert stream(tmp_path / "lines") == as_bytes(FOUND)
    done = made(tmp_path / "parquet", write_parquet(tmp_path / "a.parquet", FOUND))
    assert len(done.splits["train"].shards) > 2
    assert stream(tmp_path / "parquet") == as_bytes(FOUND)


def test_the_number_of_workers_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Path
) -> None:
    small_units(monkeypatch)
    source = write_lines(tmp_path / "a.jsonl", [{"text": text} for text in texts(200)])
    same = {"tokenizer": str(tokenizer), "validation_fraction": 0.1, "dedup": True}
    for workers in (1, 2, 3):
        made(tmp_path / f"out-{workers}", source, workers=workers, **same)
    assert content(tmp_path / "out-1") == content(tmp_path / "out-2") == content(tmp_path / "out-3")


def test_validation_documents_are_chosen_by_their_text_alone(tmp_path: Path) -> None:
    rows = [{"text": text} for text in texts(500)]
    made(tmp_path / "one", write_lines(tmp_path / "a.jsonl", rows), validation_fraction=0.1)
    write_lines(tmp_path / "b.jsonl", [{"text": "one more"}, *reversed(rows)])
    made(tmp_path / "two", tmp_path / "b.jsonl", validation_fraction=0.1)
    kept = [set(bytes(stream(tmp_path / name, "validation")).split(b"\0")) for name in ("one", "two")]
    assert kept[0] <= kept[1] <= kept[0] | {b"one more"}
    assert 25 < len(kept[0]) < 90
    train = set(bytes(stream(tmp_path / "one")).split(b"\0"))
    assert not (train & kept[0]) - {b""}
    assert all(is_validation(text, 0.1) for text in kept[0] if text)


def test_of_equal_documents_the_first_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_units(monkeypatch)
    again = [*FOUND, *FOUND[::2], "last", "last"]
    source = write_lines(tmp_path / "a.jsonl", [{"text": text} for text in again])
    done = made(tmp_path / "out", source, dedup=True, workers=2)
    assert stream(tmp_path / "out") == as_bytes([*FOUND, "last"])
    assert (done.rows.duplicates, done.rows.kept) == (31, 61)


def test_bad_rows_are_counted_and_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [b'{"text": "good"}', b"not json", b'{"other": 1}', b'{"text": 3}', b'{"text": "\xff"}', b"[1]"]
    lines += [b'{"text": "\\ud800"}', b'{"text": ""}', b"", b'{"text": "' + b"x" * 200 + b'"}']
    path.write_bytes(b"\n".join(lines))
    done = made(tmp_path / "out", path, max_bad=0.9, max_document_bytes=100)
    assert stream(tmp_path / "out") == as_bytes(["good"])
    rows = done.rows
    assert (rows.read, rows.kept, rows.empty, rows.too_long, rows.bad) == (9, 1, 1, 1, 6)
    assert [line.split(": ")[0].removeprefix(f"{path}, ") for line in done.bad_rows] == [
        f"row {n}" for n in (2, 3, 4, 5, 6, 7)
    ]
    for said in (
        "is not JSON",
        "has no field 'text'; it has other",
        "a number, not text",
        "is not UTF-8",
        "a list",
    ):
        assert any(said in line for line in done.bad_rows), said


def test_too_many_bad_rows_refuse_the_build_and_say_which(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "a.jsonl", [{"text": "good"}] * 50 + [{"no": 1}])
    with pytest.raises(UserError, match=r"1 of 51 rows are bad.*\n.*row 51: has no field 'text'"):
        made(tmp_path / "out", source)
    assert made(tmp_path / "out", source, max_bad=0.1).rows.bad == 1


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_damaged_file_is_named_and_what_was_finished_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    small_units(monkeypatch)
    folder = tmp_path / "in"
    folder.mkdir()
    good = write_lines(folder / "b.jsonl", [{"text": text} for text in FOUND])
    bad = folder / name
    if name.endswith("parquet"):
        write_parquet(bad, FOUND * 20)
        whole = bad.read_bytes()
        # In the middle of a page: the footer is whole, and the rows are not.
        bad.write_bytes(whole[:2000] + bytes(len(whole[2000:3000])) + whole[3000:])
    else:
        write_lines(bad, [{"text": text} for text in FOUND * 20])
        whole = bad.read_bytes()
        bad.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError) as refused:
        made(tmp_path / "out", folder, max_bad=0.0)
    assert str(bad) in str(refused.value)
    assert "row" in str(refused.value)
    assert "then call the same command again" in str(refused.value)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("train-*.bin")}
    assert len(kept) >= good.stat().st_size // 4000
    bad.unlink()
    made(tmp_path / "out", folder)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("train-*.bin")}
    assert after.items() <= kept.items(), "finished parts must not be made again"
    assert stream(tmp_path / "out") == as_bytes(FOUND)


def test_unknown_names_columns_and_tokenizers_are_refused_with_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    (tmp_path / "b").write_bytes(b"x")
    (tmp_path / "t.json").write_text("{}")
    write_parquet(tmp_path / "c.parquet", FOUND, "body")
    out = tmp_path / "out"
    cases = [
        ((tmp_path / "a.pdf",), {}, r"1 ends in \.pdf: unknown\n.*--format"),
        ((tmp_path / "c.parquet",), {}, r"no field 'text' or 'content'; it has body, number\n.*--field"),
        ((tmp_path / "c.parquet",), {"field": "txt"}, r"no field 'txt'; it has body, number"),
        ((tmp_path / "c.parquet",), {"tokenizer": str(tmp_path / "t.json")}, "is not a tokenizer"),
        ((tmp_path / "c.parquet",), {"tokenizer": "no.json"}, "there is no such tokenizer"),
        ((tmp_path / "missing",), {}, "there are no files here"),
        ((tmp_path / "c.parquet",), {"field": "number"}, "of .* rows are bad"),
    ]
    for sources, changes, said in cases:
        with pytest.raises(UserError, match=said):
            made(out, *sources, **changes)
    assert made(tmp_path / "other", tmp_path / "c.parquet", field="body").rows.kept == 60


def test_a_finished_set_is_not_made_again_and_never_replaced(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "a.jsonl", [{"text": text} for text in FOUND])
    made(tmp_path / "out", source)
    before = content(tmp_path / "out")
    made(tmp_path / "out", source)
    for changes, said in [({"validation_fraction": 0.2}, "validation_fraction: 0.0 there, 0.2 asked for")]:
        with pytest.raises(UserError, match=said):
            made(tmp_path / "out", source, **changes)
    with pytest.raises(UserError, match="other files"):
        made(tmp_path / "out", write_lines(tmp_path / "b.jsonl", [{"text": "x"}]))
    assert content(tmp_path / "out") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"it holds thesis\.tex"):
        made(tmp_path / "mine", source)


BUILD = """
import sys, launcher.corpus.raw_files as raw
raw._LEAST, raw._UNITS = 20_000, 10**9
from launcher.cli.main import main
sys.exit(main(["data", "build", *sys.argv[1:]]))
"""


def _command(out: Path, source: Path, tokenizer: Path) -> list[str]:
    options = ["--tokenizer", str(tokenizer), "--validation", "0.1", "--dedup", "exact", "--workers", "2"]
    return [sys.executable, "-c", BUILD, str(source), "-o", str(out), *options]


def test_killed_at_random_instants_the_same_command_ends_bit_equal(tmp_path: Path, tokenizer: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(12):
        rows = [{"text": text} for text in texts(150, seed=number)]
        write_lines(folder / f"{number}.jsonl{('', '.gz')[number % 2]}", rows)
    began = time.monotonic()
    whole = tmp_path / "whole"
    subprocess.run(_command(whole, folder, tokenizer), check=True, capture_output=True)
    took = time.monotonic() - began
    expected, generator, kills = content(whole), random.Random(1), 0
    out = tmp_path / "out"
    while kills < 20:
        process = subprocess.Popen(_command(out, folder, tokenizer), stdout=subprocess.DEVNULL, stderr=-3)
        time.sleep(generator.uniform(0.3, 1.0) * took)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        if process.returncode == 0:
            assert content(out) == expected
            shutil.rmtree(out)
    subprocess.run(_command(out, folder, tokenizer), check=True, capture_output=True)
    assert content(out) == expected
    assert read_token_set(str(out)).rows.kept == 1800


def test_what_a_kill_after_the_last_write_leaves_is_removed_and_nothing_else(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "a.jsonl", [{"text": text} for text in FOUND])
    made(tmp_path / "out", source)
    before = content(tmp_path / "out")
    (tmp_path / "out" / "parts").mkdir()
    (tmp_path / "out" / "build.json").write_text("{}")
    (tmp_path / "out" / f"train-{'0' * 16}.bin").write_text("of sources that have changed since")
    (tmp_path / "out" / "train-mine.bin").write_text("somebody's own")
    made(tmp_path / "out", source)
    assert content(tmp_path / "out") == before | {"train-mine.bin": b"somebody's own"}


def test_two_builds_in_one_folder_do_not_meet(tmp_path: Path, tokenizer: Path) -> None:
    source = write_lines(tmp_path / "a.jsonl", [{"text": text} for text in FOUND])
    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is building in this folder"):
            made(tmp_path / "out", source)
    made(tmp_path / "out", source)


def test_a_disk_without_room_is_said_and_what_was_finished_stays(tmp_path: Path) -> None:
    small = write_lines(tmp_path / "a.jsonl", [{"text": text} for text in FOUND])
    large = tmp_path / "b.txt"
    large.write_text("x" * 12_000_000)
    command = [sys.executable, "-m", "launcher.cli.main", "data", "build", str(small), str(large)]
    command += ["-o", str(tmp_path / "out"), "--tokenizer", "bytes", "--workers", "1"]

    def limit() -> None:
        # A file's largest size stands for a full disk: the same call fails, with another number.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "File too large\n    make room or correct it, then call the same command again" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(list((tmp_path / "out" / "parts").iterdir())) == 1
    subprocess.run(command, check=True, capture_output=True)
    assert not list((tmp_path / "out").glob(".partial-*"))


def test_an_unfinished_build_is_not_read_and_its_options_are_kept(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    write_lines(source / "a.jsonl", [{"text": text} for text in FOUND])
    (source / "b.jsonl.gz").write_bytes(gzip.compress(b"{}" * 999)[:-9])
    with pytest.raises(UserError, match="is cut off"):
        made(tmp_path / "out", source)
    with pytest.raises(UserError, match="whose build has not ended"):
        read_token_set(str(tmp_path / "out"))
    with pytest.raises(
        UserError, match="unfinished build of something else:\n    dedup: none there, exact asked"
    ):
        made(tmp_path / "out", source, dedup=True)


def test_a_file_that_changed_since_it_was_read_is_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    first = write_lines(folder / "a.jsonl", [{"text": "x" * 9_000_000}])
    second = folder / "b.jsonl.gz"
    second.write_bytes(gzip.compress(os.urandom(9_000_000))[:-9])
    with pytest.raises(UserError, match="is cut off"):
        made(tmp_path / "out", folder, max_bad=0.9)
    write_lines(first, [{"text": "y" * 9_000_000}])
    second.unlink()
    made(tmp_path / "out", folder)
    assert set(stream(tmp_path / "out")) == {ord("y"), 0}


def test_what_was_asked_for_is_a_request(tmp_path: Path) -> None:
    asked = request(tmp_path, "x")
    assert (asked.validation_fraction, asked.workers, json.dumps(asked.sources)) == (0.0, 1, '["x"]')
