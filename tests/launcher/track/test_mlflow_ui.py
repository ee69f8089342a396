import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.errors import UserError
from launcher.track import mlflow_ui


def test_without_the_full_mlflow_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlflow.db").touch()

    def find_nothing(name: str) -> None:
        assert name == "mlflow"  # mlflow-skinny is a distribution of its own
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", find_nothing)
    with pytest.raises(UserError, match=r"pip install 'mulaunch\[ui\]'"):
        mlflow_ui.make_ui_command(f"sqlite:///{tmp_path}/mlflow.db")


def test_with_it_the_command_starts_a_server_and_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: name)
    command = mlflow_ui.make_ui_command("postgresql://me:secret@db/mlflow", port=5123)
    assert command.argv[:4] == [sys.executable, "-m", "mlflow", "server"]
    assert command.argv[command.argv.index("--port") + 1] == "5123"
    assert "secret" not in " ".join(command.argv)
    assert command.environment["MLFLOW_BACKEND_STORE_URI"] == "postgresql://me:secret@db/mlflow"
    assert command.url == "http://127.0.0.1:5123"


def test_a_server_or_a_missing_file_is_nothing_to_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"http://\*\*\*@site: is a tracking server already"):
        mlflow_ui.make_ui_command("http://me:secret@site")
    with pytest.raises(UserError, match="there is no such file"):
        mlflow_ui.make_ui_command(f"sqlite:///{tmp_path}/mlflow.db")


def test_tracking_imports_neither_torch_nor_mlflow() -> None:
    script = (
        "import sys; import launcher.track.tracker, launcher.track.mlflow_ui; print(*sys.modules, sep='\\n')"
    )
    modules = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert {"torch", "mlflow"}.isdisjoint(modules.splitlines())
