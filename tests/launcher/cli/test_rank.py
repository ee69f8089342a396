"""What a rank does before it trains."""

from pathlib import Path

import pytest

from launcher.cli.rank import run_rank
from launcher.guard.beacon import Beacon
from launcher.guard.stop import StopRequests
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
