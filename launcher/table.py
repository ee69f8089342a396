"""Tables for a terminal: cells are padded to the width of their column. Torch-free."""

from collections.abc import Sequence


def table_lines(rows: Sequence[Sequence[str]], *, right_align: bool = False) -> list[str]:
    """One line per row, two spaces between columns; `right_align` applies to all columns but the first."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if right_align and column > 0 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
