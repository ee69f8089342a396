"""Tables: every column starts, or ends, at one place."""

from launcher.table import table_lines

ROWS = [("name", "lr"), ("a", "0.001"), ("longer", "")]


def test_cells_begin_below_each_other_and_lines_end_at_the_last_letter() -> None:
    assert table_lines(ROWS) == ["name    lr", "a       0.001", "longer"]


def test_numbers_end_below_each_other_while_names_begin_so() -> None:
    assert table_lines(ROWS, right_align=True) == ["name       lr", "a       0.001", "longer"]
