"""The manifest: what is damaged, what is newer, and what an earlier version wrote."""

import json
import math
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from launcher.checkpoint.catalog import Rejected, Saved, find_newest, read_checkpoint, step_folder
from launcher.checkpoint.manifest import FORMAT, MANIFEST, Manifest, _digest, manifest_text, parse_manifest
from launcher.errors import UserError
from launcher.recipe.compile import load_frozen
from launcher.track.journal import read_journal, step_records
from tests.launcher.checkpoint.savers import ALONE, save
from tests.small_run import train_rank

FORMAT_1 = Path(__file__).with_name("format-1.tar.gz")
"""A run folder of version 0.1.0: ListOps, six steps planned, killed after the checkpoint of step 3."""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    run = str(tmp_path_factory.mktemp("run"))
    saved = read_checkpoint(save(run, 7, {"a": torch.ones(3)}))
    assert isinstance(saved, Saved)
    return saved.manifest


@pytest.fixture
def format_1(tmp_path: Path) -> Path:
    with tarfile.open(FORMAT_1) as archive:
        archive.extractall(tmp_path / "old", filter="data")
    return tmp_path / "old"


def test_what_was_written_is_read(manifest: Manifest) -> None:
    assert parse_manifest(manifest_text(manifest), "m") == manifest
    assert (manifest.step, manifest.data_step, manifest.world_size) == (7, 7, 1)


def test_a_manifest_written_as_plain_json_is_still_read(manifest: Manifest) -> None:
    # The writer before json_text.py: only ASCII, and a bare Infinity.
    schedule = manifest.schedule.model_copy(update={"state": {"best": math.inf}})
    odd = manifest.model_copy(update={"schedule": schedule, "written_by": "µlaunch"})
    content = odd.model_dump(mode="json")
    text = json.dumps(content | {"digest": _digest(content)}, indent=1) + "\n"
    assert "Infinity," not in manifest_text(odd)
    assert parse_manifest(text, "m") == parse_manifest(manifest_text(odd), "m") == odd
    assert json.loads(text)["digest"] == json.loads(manifest_text(odd))["digest"]


def test_every_parameter_has_its_role_and_its_tensor_beside_its_multipliers(manifest: Manifest) -> None:
    dt = manifest.parameters["layers.0.s4d.ssm.log_dt"]
    assert (dt.role, dt.ssm) == ("state", "dt")
    matrix = manifest.parameters["layers.0.s4d.output.weight"]
    assert (matrix.role, matrix.ssm, matrix.lr) == ("matrix", None, 0.5)


@pytest.mark.parametrize("key", [*Manifest.model_fields, "digest"])
def test_a_missing_key_is_damage_with_a_reason(manifest: Manifest, key: str) -> None:
    content = json.loads(manifest_text(manifest))
    del content[key]
    with pytest.raises(ValueError, match="no format|digest"):
        parse_manifest(json.dumps(content), "m")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"step": "seven"}, "step: Input should be a valid integer"),
        ({"loss": 1.0}, "loss: Extra inputs are not permitted"),
        ({"data": {"fingerprint": "x", "seed": 1, "global_batch_size": 8}}, "data.seq_len: Field required"),
    ],
)
def test_what_is_not_a_manifest_is_damage_even_where_its_digest_is_right(
    manifest: Manifest, change: dict[str, Any], reason: str
) -> None:
    content = json.loads(manifest_text(manifest)) | change
    del content["digest"]
    with pytest.raises(ValueError, match=reason):
        parse_manifest(json.dumps(content | {"digest": _digest(content)}), "m")


def test_a_changed_value_is_damage(manifest: Manifest) -> None:
    text = manifest_text(manifest).replace('"attempt": 1', '"attempt": 2')
    with pytest.raises(ValueError, match="its digest is not that of its content"):
        parse_manifest(text, "m")


def test_a_newer_format_is_the_users_to_handle_and_no_damage(tmp_path: Path) -> None:
    save(str(tmp_path), 1, {"a": torch.ones(3)})
    path = Path(save(str(tmp_path), 2, {"a": torch.ones(3)})) / MANIFEST
    path.write_text(json.dumps({"format": FORMAT + 1, "written_by": "mulaunch 9.0", "shards": []}))
    with pytest.raises(UserError, match=rf"format {FORMAT + 1}, written by mulaunch 9.0; this version reads"):
        find_newest(str(tmp_path), verify=True)
    assert path.exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("{", "Expecting property name"),
        ("\udcff", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_damage(tmp_path: Path, text: str | None, reason: str) -> None:
    path = Path(save(str(tmp_path), 2, {"a": torch.ones(3)})) / MANIFEST
    path.unlink()
    if text is None:
        path.mkdir()
    else:
        path.write_bytes(text.encode(errors="surrogateescape"))
    found = read_checkpoint(str(path.parent))
    assert isinstance(found, Rejected)
    assert found.damaged
    assert reason in found.reason


def test_the_manifest_of_another_step_is_damage(tmp_path: Path) -> None:
    saved = Path(save(str(tmp_path), 4, {"a": torch.ones(3)}))
    saved.rename(step_folder(str(tmp_path), 6))
    found = read_checkpoint(step_folder(str(tmp_path), 6))
    assert isinstance(found, Rejected)
    assert (found.damaged, found.reason) == (True, "its manifest is that of step 4")


def test_a_run_of_format_1_continues_as_if_uninterrupted(format_1: Path) -> None:
    """Old recipe keys, a plateau's state, and a dataset that must keep its fingerprint."""
    recipe = load_frozen(str(format_1 / "recipe.yaml")).recipe
    result = train_rank(ALONE, recipe, str(format_1))
    assert result.step == 6
    steps = step_records(format_1 / "journal.jsonl")
    assert [steps[step]["attempt"] for step in (3, 4)] == [1, 2]
    for step, expected in json.loads((format_1 / "expected.json").read_text()).items():
        for key, value in expected.items():
            # written on another machine: sums may be taken in another order (see test_train.py)
            assert steps[int(step)][key] == pytest.approx(value, rel=1e-5), (step, key)
    saved = read_checkpoint(step_folder(str(format_1), 6))
    assert isinstance(saved, Saved)
    assert saved.manifest.format == FORMAT


def test_format_1_keeps_what_it_knew(format_1: Path) -> None:
    saved = read_checkpoint(step_folder(str(format_1), 3))
    assert isinstance(saved, Saved)
    manifest = saved.manifest
    assert (manifest.step, manifest.data_step, manifest.random.data_step) == (3, 3, 3)
    assert manifest.schedule.state["reduction"] == 1.0
    assert manifest.schedule.config["final_ratio"] == 0.1
    assert {entry.role for entry in manifest.parameters.values()} == {None}


@pytest.mark.parametrize("key", ["scalings", "data", "recipe", "rng"])
def test_a_manifest_of_format_1_without_a_key_is_damaged(format_1: Path, key: str) -> None:
    path = Path(step_folder(str(format_1), 3)) / MANIFEST
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))
    found = read_checkpoint(str(path.parent))
    assert isinstance(found, Rejected)
    assert found.damaged
    assert f"{key}: Field required" in found.reason


def test_another_role_is_another_parametrisation(format_1: Path) -> None:
    """Not of format 1, which did not keep roles: its checkpoints are compared by their multipliers."""
    recipe = load_frozen(str(format_1 / "recipe.yaml")).recipe
    train_rank(ALONE, recipe, str(format_1))
    path = Path(step_folder(str(format_1), 6)) / MANIFEST
    manifest = parse_manifest(path.read_text(), "m")
    readout = manifest.parameters["readout.weight"].model_copy(update={"role": "matrix"})
    changed = {**manifest.parameters, "readout.weight": readout}
    path.write_text(manifest_text(manifest.model_copy(update={"parameters": changed})))
    with pytest.raises(UserError, match=r"readout.weight: role: matrix saved, readout now"):
        train_rank(ALONE, recipe, str(format_1))
    last = read_journal(format_1 / "journal.jsonl")[-1]
    assert (last["event"], last["status"], last["class"]) == ("end", "FAILED", "user error")
