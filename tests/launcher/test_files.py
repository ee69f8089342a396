"""The storage door."""

from pathlib import Path

import pytest

from launcher import files
from launcher.errors import UserError


@pytest.mark.parametrize("prefix", ["", "file://", "memory://"])
def test_text_reads_back(tmp_path: Path, prefix: str) -> None:
    url = files.join(f"{prefix}{tmp_path}", "folder", "name.txt")
    files.write_text(url, "one\ntwo")
    assert files.read_text(url) == "one\ntwo"
    assert files.exists(url)
    assert files.size(url) == 7
    assert files.list_names(files.join(f"{prefix}{tmp_path}", "folder")) == ["name.txt"]
    files.remove(files.join(f"{prefix}{tmp_path}", "folder"))
    assert not files.exists(url)


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "name.txt"
    files.write_text(str(path), "old")

    def die(source: str, target: str) -> None:
        raise OSError("power is out")

    monkeypatch.setattr("os.replace", die)
    with pytest.raises(OSError, match="power"):
        files.write_text(str(path), "new")
    assert path.read_text() == "old"


def test_an_unknown_protocol_is_a_users_error() -> None:
    with pytest.raises(UserError, match="nosuch"):
        files.exists("nosuch://place")


def test_paths_are_shown_short_where_they_are_below_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert files.shortest(str(tmp_path / "runs/x")) == "runs/x"
    assert files.shortest("/elsewhere/x") == "/elsewhere/x"
    assert files.shortest("s3://bucket/x") == "s3://bucket/x"


def test_a_missing_folder_has_no_names(tmp_path: Path) -> None:
    assert files.list_names(str(tmp_path / "none")) == []


@pytest.mark.parametrize("folder", ["v[12]", "st*r", "a?b", "one::two"])
def test_only_what_is_written_is_a_pattern(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (folder, "v1", "star", "a-b"):
        (tmp_path / place / "txt").mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "txt" / "own.txt").write_text(place)
    monkeypatch.chdir(tmp_path / folder)
    own = [str(tmp_path / folder / "txt/own.txt")]
    for url in ("txt", "txt/own.txt", "txt/*.txt", "**/*.txt", "t[x]t/*"):
        assert files.find(url) == own, url
    assert files.read_text(files.absolute("txt/own.txt")) == folder
    assert files.is_file("txt/own.txt")
    assert not files.is_file("txt")


def test_linked_folders_are_read_and_loops_end(tmp_path: Path) -> None:
    corpus, elsewhere = tmp_path / "corpus", tmp_path / "elsewhere"
    for folder in (corpus, elsewhere / "deep"):
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text("a")
    (corpus / "sub").symlink_to(elsewhere)
    (corpus / ".#lock").symlink_to("nobody@nowhere:1")
    (corpus / "single.txt").symlink_to(elsewhere / "deep/a.txt")
    (elsewhere / "up").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(corpus)
    names = ["a.txt", "single.txt", "sub/deep/a.txt"]
    for url in ("corpus", "corpus/**/*.txt"):
        found = files.find(f"{tmp_path}/{url}")
        assert [name.removeprefix(f"{corpus}/") for name in found] == names, url
    assert [Path(name).name for name in files.find(f"{corpus}/*")] == ["a.txt", "single.txt"]
    assert files.find(f"{corpus}/*/deep/*") == [f"{corpus}/sub/deep/a.txt"]


def test_a_link_that_leads_nowhere_is_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "b.txt").symlink_to(tmp_path / "gone")
    for url in (f"{tmp_path}", f"{tmp_path}/*.txt"):
        with pytest.raises(UserError, match=r"b.txt: is a link that leads nowhere"):
            files.find(url)
