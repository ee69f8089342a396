"""What a rank does before it trains."""

import uuid
from pathlib import Path

import pytest

from launcher import files
from launcher.cli.rank import run_rank
from launcher.guard.beacon import Beacon
from launcher.guard.stop import StopRequests
from launcher.recipe.schema import Recipe
from launcher.run_folder import JOURNAL, LocalMirror
from tests.launcher.checkpoint.savers import ALONE
from tests.small_run import make_run, small_recipe


class JoinedError(Exception):
    """In place of joining."""


@pytest.mark.parametrize(
    ("watched", "overrides", "timeout_s"),
    [
        (False, ("parallel.timeout_s=90",), 90.0),
        (True, ("parallel.timeout_s=90", "guard.start_s=300"), 360.0),
        (True, ("parallel.timeout_s=90", "guard.start_s=300", "guard.stall_s=500"), 560.0),
        (True, ("parallel.timeout_s=9000", "guard.start_s=300"), 9000.0),
    ],
)
def test_a_collective_never_gives_up_before_the_watchdog_has_named_who_hangs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    watched: bool,
    overrides: tuple[str, ...],
    timeout_s: float,
) -> None:
    asked: list[float] = []

    def join(limit_s: float, _secret: bytes | None) -> None:
        asked.append(limit_s)
        raise JoinedError

    monkeypatch.setattr("launcher.world.open_world", join)
    run_url = make_run(tmp_path / "run", small_recipe(*overrides))
    beacon = Beacon(tmp_path, 0) if watched else None
    with pytest.raises(JoinedError):
        run_rank(run_url, "", f"{run_url}/recipe.yaml", StopRequests(), beacon)
    assert asked == [timeout_s]


def test_who_has_waited_for_the_owner_of_a_remote_run_continues_the_journal_that_it_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_url, read = f"memory://{uuid.uuid4().hex}", list[str]()
    for path in Path(make_run(tmp_path / "run", small_recipe())).rglob("*.*"):
        files.write_bytes(files.join(run_url, path.name), path.read_bytes())
    files.write_text(files.join(run_url, JOURNAL), "before\n")

    def wait(url: str, *_rest: object) -> None:
        files.write_text(files.join(url, JOURNAL), "before\nof the owner\n")

    def train(_recipe: Recipe, mirror: LocalMirror, *_rest: object) -> None:
        read.append((mirror.folder / JOURNAL).read_text())

    monkeypatch.setattr("launcher.world.open_world", lambda *_: ALONE)
    monkeypatch.setattr("launcher.cli.rank.lock_run", wait)
    monkeypatch.setattr("launcher.cli.rank.train_rank", train)
    run_rank(run_url, "", f"{run_url}/recipe.yaml", StopRequests(), None)
    assert read == ["before\nof the owner\n"]
