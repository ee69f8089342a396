"""Checkpoints, run folders and recipes that somebody else has written."""

import hashlib
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from launcher.checkpoint.catalog import Rejected, read_checkpoint, step_folder
from launcher.checkpoint.manifest import MANIFEST, FileEntry, manifest_text, parse_manifest
from launcher.errors import UserError
from launcher.recipe.compile import MAX_BYTES, compile_recipe, load_recipe
from launcher.track.journal import read_journal
from launcher.track.mlflow_sync import artifact_path
from tests.launch import assert_one_screen, launch
from tests.launcher.checkpoint import savers
from tests.small_run import RECIPE, make_run, small_recipe, train_run


def forge(folder: Path, change: Callable[[Any], None]) -> None:
    """Rewrite a checkpoint's index, and its digest in the manifest: as somebody would who can write both."""
    index = folder / ".metadata"
    content = pickle.loads(index.read_bytes())
    change(content)
    index.write_bytes(pickle.dumps(content))
    redigest(folder)


def redigest(folder: Path) -> None:
    manifest = parse_manifest((folder / MANIFEST).read_text(), "")
    entries = {
        name: FileEntry(
            bytes=(folder / name).stat().st_size,
            sha256=hashlib.sha256((folder / name).read_bytes()).hexdigest(),
        )
        for name in manifest.files
    }
    (folder / MANIFEST).write_text(manifest_text(manifest.model_copy(update={"files": entries})))


def lead_outside(index: Any) -> None:
    piece = next(iter(index.storage_data.values()))
    piece.relative_path = "../../../../etc/passwd"


def reach_too_far(index: Any) -> None:
    next(iter(index.storage_data.values())).length = 1 << 50


def reach_before(index: Any) -> None:
    next(iter(index.storage_data.values())).offset = -8


def hold_nothing(index: Any) -> None:
    index.state_dict_metadata.clear()


@pytest.mark.parametrize("change", [lead_outside, reach_too_far, reach_before, hold_nothing])
def test_an_index_that_leads_elsewhere_is_damage_and_the_older_checkpoint_is_taken(
    tmp_path: Path, change: Callable[[Any], None]
) -> None:
    train_run(tmp_path / "run")
    forge(tmp_path / "run/checkpoints/step-0000000020", change)
    train_run(tmp_path / "run", "train.steps=25")
    rejected = [
        r for r in read_journal(tmp_path / "run/journal.jsonl") if r["event"] == "checkpoint_rejected"
    ]
    assert [(r["damaged"], "index" in r["reason"]) for r in rejected] == [(True, True)]
    begun = [r["from_step"] for r in read_journal(tmp_path / "run/journal.jsonl") if r["event"] == "begin"]
    assert begun == [0, 10]


@pytest.mark.parametrize("name", ["../outside", "a/b", ".."])
def test_a_manifest_that_names_files_elsewhere_is_damage(tmp_path: Path, name: str) -> None:
    savers.save(str(tmp_path), 1, {"a": torch.ones(3)})
    folder = Path(step_folder(str(tmp_path), 1))
    manifest = parse_manifest((folder / MANIFEST).read_text(), "")
    files = {**manifest.files, name: FileEntry(bytes=0, sha256="")}
    (folder / MANIFEST).write_text(manifest_text(manifest.model_copy(update={"files": files})))
    found = read_checkpoint(str(folder))
    assert isinstance(found, Rejected)
    assert "which is elsewhere" in found.reason


@pytest.mark.parametrize("name", ["__0_0.distcp", MANIFEST])
def test_a_pipe_in_place_of_a_file_is_damage_and_nobody_waits_for_it(tmp_path: Path, name: str) -> None:
    savers.save(str(tmp_path), 1, {"a": torch.ones(3)})
    path = Path(step_folder(str(tmp_path), 1)) / name
    path.unlink()
    os.mkfifo(path)
    found = read_checkpoint(str(path.parent))
    assert isinstance(found, Rejected)
    assert "not a file" in found.reason


def test_only_the_runs_own_files_are_sent_to_a_tracking_server(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run, small_recipe())
    submission = run / "attempts/20260101-000000-ab12"
    submission.mkdir(parents=True)
    (submission / "plan.json").write_text("{}")
    secret = tmp_path / "id_rsa"
    secret.write_text("private")
    for name in ("recipe.yaml", "plan.json", "base_shapes.bsh", "attempts/20260101-000000-ab12/plan.json"):
        assert artifact_path(run, name) == run / name
    for name in ("../id_rsa", str(secret), "secret", "attempts/../../id_rsa", "lock", "", "recipe.yaml/.."):
        assert artifact_path(run, name) is None, name
    (run / "plan.json").unlink()
    (run / "plan.json").symlink_to(secret)
    assert artifact_path(run, "plan.json") is None
    (run / "attempts/linked").symlink_to(tmp_path)
    (tmp_path / "recipe.yaml").write_text("mine")
    assert artifact_path(run, "attempts/linked/recipe.yaml") is None


def test_a_password_is_not_sent_to_a_server_that_a_folder_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "mine")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    server = "track={log_every: 1, mlflow: {enabled: true, tracking_uri: 'http://127.0.0.1:9/theirs'}}"
    train_run(tmp_path / "run", "train.steps=6")
    make_run(tmp_path / "run", small_recipe("train.steps=6", server))
    refused = launch("replay", "run", folder=tmp_path)
    assert_one_screen(refused, "http://127.0.0.1:9/theirs", "your password would be sent", "--tracking-uri")
    own = launch("replay", "run", "--tracking-uri", "sqlite:///mine.db", folder=tmp_path)
    assert own.returncode == 0, own.stderr
    assert (tmp_path / "mine.db").stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9/theirs/")
    asked = launch("replay", "run", folder=tmp_path)
    assert "your password" not in asked.stderr, "it is the user's own server"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("".join(f"k{number}: 1\n" for number in range(300_000)), "more than a recipe has"),
        ("".join(f"k{number}: 1\n" for number in range(1_000)), "unknown key 'k0'"),
        ("x" * 500 + ": 1\n", "a key of 500 characters"),
        ("a: [" + "1, " * 100_000 + "1]\n", "more than a recipe has"),
        ("a: " + "[" * 5_000 + "\n", "nested more than 40 deep"),
    ],
    ids=["keys", "mistakes", "name", "list", "depth"],
)
def test_a_file_that_cannot_be_a_recipe_is_refused_at_once(text: str, message: str) -> None:
    began = time.process_time()
    with pytest.raises(UserError) as caught:
        compile_recipe(RECIPE + text, "big.yaml")
    assert time.process_time() - began < 5.0, "a second, on a machine that is not busy"
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) < 50


def test_a_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "big.yaml", "wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    with pytest.raises(UserError, match="has 1,048,577 bytes; a recipe has at most 1,048,576"):
        load_recipe(str(tmp_path / "big.yaml"))
