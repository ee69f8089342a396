"""What a rank writes when it ends."""

from pathlib import Path

from launcher.ending import StopRequested
from launcher.guard.rank_end import describe_end, read_ends, write_end


def test_an_end_names_the_innermost_line_of_ours_and_keeps_the_traceback(tmp_path: Path) -> None:
    try:
        describe_end(0, None)  # type: ignore[arg-type] - fails inside the launcher
    except AttributeError as error:
        write_end(str(tmp_path), describe_end(3, error), error)
    (end,) = read_ends(str(tmp_path))
    assert (end.rank, end.ending) == (3, "bug")
    assert end.place.startswith("launcher/guard/rank_end.py:")
    assert "Traceback" in (tmp_path / "rank-3.traceback.txt").read_text()


def test_ends_are_read_in_the_order_of_time_and_damaged_ones_are_passed_over(tmp_path: Path) -> None:
    for rank in (0, 1):
        error = StopRequested(f"from {rank}")
        write_end(str(tmp_path), describe_end(rank, error), error)
    (tmp_path / "rank-2.json").write_text('{"rank": 2, "unknown": 1}')
    (tmp_path / "rank-3.json").write_text('{"ran')
    assert [end.rank for end in read_ends(str(tmp_path))] == [0, 1]
    assert not list(tmp_path.glob("*.txt")), "a stop needs no traceback"
