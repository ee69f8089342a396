"""No secret of the environment reaches a file, a log, a console or a tracking store."""

from pathlib import Path

import pytest

from launcher.track.mlflow import MlflowTarget
from tests.launch import launch
from tests.launcher.track.gate import Gate
from tests.small_run import RECIPE

SECRETS = {
    "AWS_ACCESS_KEY_ID": "SENTINEL-aws-id",
    "AWS_SECRET_ACCESS_KEY": "SENTINEL-aws-key",
    "AWS_SESSION_TOKEN": "SENTINEL-aws-session",
    "HF_TOKEN": "SENTINEL-hf",
    "HUGGING_FACE_HUB_TOKEN": "SENTINEL-hub",
    "MLFLOW_TRACKING_PASSWORD": "SENTINEL-mlflow-password",
    "WANDB_API_KEY": "SENTINEL-wandb",
}
OVERRIDES = ("track.mlflow.enabled=true", "checkpoint.every=10", "--run-dir", "run")


def find_secret(folder: Path) -> list[str]:
    """Files below a folder that hold one, whatever their kind."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and b"SENTINEL" in path.read_bytes()]


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "small.yaml").write_text(RECIPE)


def test_a_run_says_and_writes_no_secret(
    tmp_path: Path, gate: Gate, secrets: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", gate.url.replace("http://", "http://me:SENTINEL-p%2Fss@"))
    done = launch("small.yaml", *OVERRIDES, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    gate.mode = (500, b"out of order")  # what fails says where
    for words in (
        ("resume", "run", "train.steps=30"),
        ("replay", "run"),
        ("status", "run"),
        ("inspect", "run"),
        ("plan", "small.yaml"),
    ):
        done = launch(*words, folder=tmp_path)
        assert "SENTINEL" not in done.stdout + done.stderr, words
    assert find_secret(tmp_path) == []
    assert len(gate.received) > 5
    assert b"SENTINEL" not in b"".join(gate.received)


@pytest.mark.parametrize("password", ["SENTINEL/slash", "a@SENTINEL/b/c", "SENTINEL#x"])
def test_a_password_that_breaks_its_address_is_refused_and_not_said(
    tmp_path: Path, secrets: None, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{password}@127.0.0.1:9")
    done = launch("small.yaml", *OVERRIDES, "train.steps=10", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "'http://***@127.0.0.1:9' has a password with one of / ? #" in done.stderr
    assert "SENTINEL" not in done.stderr
    assert find_secret(tmp_path) == []


def test_a_sqlite_store_holds_no_secret(tmp_path: Path, secrets: None, target: MlflowTarget) -> None:
    done = launch("small.yaml", *OVERRIDES, "train.steps=10", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "View run" not in done.stdout + done.stderr
    assert (tmp_path / "mlflow.db").stat().st_size > 0
    assert find_secret(tmp_path) == []
